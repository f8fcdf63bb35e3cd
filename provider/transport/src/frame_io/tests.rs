//! Any chunking, any reads.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;
use tokio_util::codec::{Decoder as _, Encoder as _};
use wrpc_transport::{FrameDecoder, FrameEncoder, FrameRef};

use super::*;
use crate::chunks::ChunkSource;

/// Chunks of which some are late: every second poll finds nothing yet.
#[derive(Debug)]
struct Late {
    chunks: VecDeque<Bytes>,
    late: bool,
}

impl ChunkSource for Late {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.late = !self.late;
        if self.late {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.chunks.pop_front().map(Ok))
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(test)
}

/// Reads all of a source by reads of the given sizes, one after the other.
async fn read_all(chunks: &[Vec<u8>], reads: &[usize]) -> Vec<u8> {
    let late = Late {
        chunks: chunks.iter().cloned().map(Bytes::from).collect(),
        late: false,
    };
    let mut source = read_frames(Chunks::whole(Bytes::new(), Permits::default()).and(late));
    let mut read = Vec::new();
    for size in reads.iter().cycle() {
        let mut buffer = vec![0; *size];
        let bytes = source.read(&mut buffer).await.expect("no error");
        if bytes == 0 {
            break;
        }
        read.extend_from_slice(&buffer[..bytes]);
    }
    read
}

/// What wRPC's own decoder makes of it.
fn bodies(framed: &[u8]) -> Vec<Vec<u8>> {
    let mut buffer = BytesMut::from(framed);
    let mut decoder = FrameDecoder::default();
    let mut bodies = Vec::new();
    while !buffer.is_empty() {
        let frame = decoder.decode(&mut buffer).expect("a frame").expect("a whole frame");
        assert!(frame.path.is_empty(), "the root path");
        bodies.push(frame.data.to_vec());
    }
    bodies
}

fn framed(path: &[usize], bodies: &[Vec<u8>]) -> BytesMut {
    let mut buffer = BytesMut::new();
    for data in bodies {
        FrameEncoder
            .encode(FrameRef { path, data }, &mut buffer)
            .expect("encoded");
    }
    buffer
}

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..400), 0..8)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(1..300_usize, 1..6)
}

proptest! {
    #[test]
    fn chunks_become_the_same_frames_whatever_the_reads(chunks in chunks(), reads in sizes()) {
        let framed = run(read_all(&chunks, &reads));
        let expected: Vec<_> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        prop_assert_eq!(bodies(&framed), expected);
    }

    #[test]
    fn frames_become_one_body(chunks in chunks()) {
        let body = written_body(framed(&[], &chunks).to_vec(), 1 << 20).expect("within the limit");
        prop_assert_eq!(body, chunks.concat());
    }

    #[test]
    fn the_limit_holds_to_the_byte(chunks in chunks()) {
        let length = chunks.concat().len();
        let framed = framed(&[], &chunks);
        prop_assert!(written_body(framed.to_vec(), length).is_ok());
        if length > 0 {
            prop_assert!(written_body(framed.to_vec(), length - 1).is_err());
        }
    }

    #[test]
    fn any_bytes_end_in_a_body_or_an_error(bytes in vec(any::<u8>(), 0..64)) {
        if let Ok(body) = written_body(bytes.clone(), 1 << 20) {
            prop_assert!(body.len() <= bytes.len());
        }
    }

    #[test]
    fn a_cut_frame_is_no_body(body in vec(any::<u8>(), 1..200)) {
        let framed = framed(&[], &[body]);
        for end in 1..framed.len() {
            prop_assert!(written_body(framed[..end].to_vec(), 1 << 20).is_err());
        }
    }
}

#[test]
fn a_frame_of_a_stream_is_refused() {
    assert!(written_body(framed(&[0, 1], &[vec![7]]).to_vec(), 100).is_err());
}

#[test]
fn a_length_without_end_is_refused_before_anything_is_reserved() {
    let endless = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(written_body(endless.to_vec(), usize::MAX).is_err());
    let four_gib = [0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(written_body(four_gib.to_vec(), 1 << 20).is_err());
}
