//! The three rules of a reply (see `reply.rs`), with the peer played by hand on raw subjects, so that the order in
//! which it shows that it listens is the test's choice.

mod support;

use std::collections::VecDeque;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{Lattice, Options};
use futures::StreamExt as _;
use support::{Echo, INSTANCE, PATIENCE, PREFIX, lattice, serve, serve_direct};

/// What a caller gets to see.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Handshake(Subject),
    Data(Bytes),
    End,
    /// Without a handshake, on the reply subject itself.
    Direct(Bytes),
}

/// A caller on raw subjects. It subscribed before it calls, so it sees all that a server sends.
struct Peer {
    nats: async_nats::Client,
    inbox: String,
    messages: async_nats::Subscriber,
    kept: VecDeque<(String, Seen)>,
    clocks: usize,
}

impl Peer {
    async fn new(nats: &NatsServer) -> Self {
        let nats = nats.client().await;
        let inbox = nats.new_inbox();
        let messages = nats.subscribe(format!("{inbox}.>")).await.expect("an inbox");
        Self {
            nats,
            inbox,
            messages,
            kept: VecDeque::new(),
            clocks: 0,
        }
    }

    /// Calls `func` under the name `call`.
    async fn call(&self, call: &str, func: &str, mark: Option<&str>, params: impl Into<Bytes>) {
        let mut headers = HeaderMap::new();
        headers.insert("source-id", "peer");
        if let Some(mark) = mark {
            headers.insert("fanout-call", mark);
        }
        let to = format!("{PREFIX}.wrpc.0.0.1.{INSTANCE}.{func}");
        let reply = format!("{}.{call}", self.inbox);
        self.nats
            .publish_with_reply_and_headers(to, reply, headers, params.into())
            .await
            .expect("published");
    }

    async fn acknowledge(&self, handshake: &Subject) {
        self.params(handshake, Bytes::new()).await;
    }

    async fn params(&self, handshake: &Subject, chunk: Bytes) {
        self.nats
            .publish(format!("{handshake}.params"), chunk)
            .await
            .expect("published");
    }

    async fn any(&mut self) -> (String, Seen) {
        let message = tokio::time::timeout(PATIENCE, self.messages.next())
            .await
            .expect("a message")
            .expect("an open inbox");
        let address = message.subject.strip_prefix(&format!("{}.", self.inbox)).expect("ours");
        let (call, results) = match address.split_once('.') {
            Some((call, "results")) => (call, true),
            Some(_) => panic!("unexpected subject {address}"),
            None => (address, false),
        };
        let seen = match (results, message.reply) {
            (true, _) if message.payload.is_empty() => Seen::End,
            (true, _) => Seen::Data(message.payload.clone()),
            (false, Some(reply)) => Seen::Handshake(reply),
            (false, None) => Seen::Direct(message.payload.clone()),
        };
        (call.to_owned(), seen)
    }

    /// The next message for `call`.
    async fn next(&mut self, call: &str) -> Seen {
        if let Some(at) = self.kept.iter().position(|(other, _)| other == call) {
            return self.kept.remove(at).expect("just found").1;
        }
        loop {
            match self.any().await {
                (other, seen) if other == call => return seen,
                other => self.kept.push_back(other),
            }
        }
    }

    async fn handshake(&mut self, call: &str) -> Subject {
        match self.next(call).await {
            Seen::Handshake(reply) => reply,
            seen => panic!("expected the handshake of {call}, saw {seen:?}"),
        }
    }

    /// Reads up to the end marker. On a busy machine the data may have been repeated.
    async fn data_before_the_end(&mut self, call: &str) -> usize {
        let mut messages = 0;
        loop {
            match self.next(call).await {
                Seen::Handshake(_) => {}
                Seen::Data(data) if data == OK_3 => messages += 1,
                Seen::End => return messages,
                seen => panic!("{call}: {seen:?}"),
            }
        }
    }

    /// Waits for as long as a server repeats anything: for all four repeats of a call that is never acknowledged.
    /// Returns what came for `call` meanwhile.
    async fn outlast_repeats(&mut self, call: &str) -> Vec<Seen> {
        self.clocks += 1;
        let clock = format!("clock-{}", self.clocks);
        self.call(&clock, "length", None, length("", b"")).await;
        let mut handshakes = 0;
        while handshakes < 5 {
            handshakes += usize::from(matches!(self.next(&clock).await, Seen::Handshake(_)));
        }
        let (ours, others) = std::mem::take(&mut self.kept)
            .into_iter()
            .partition::<Vec<_>, _>(|(other, _)| other == call);
        self.kept.extend(others);
        ours.into_iter().map(|(_, seen)| seen).collect()
    }
}

fn length(text: &str, body: &[u8]) -> Vec<u8> {
    let mut params = vec![u8::try_from(text.len()).expect("short")];
    params.extend_from_slice(text.as_bytes());
    params.push(u8::try_from(body.len()).expect("short"));
    params.extend_from_slice(body);
    params
}

/// `ok(3)`
const OK_3: &[u8] = &[0, 3];

async fn on_both_paths(nats: &NatsServer, test: impl AsyncFn(&Lattice, &Echo, Peer)) {
    for direct in [false, true] {
        let lattice = lattice(nats, Options::default()).await;
        let echo = Echo::default();
        let server = if direct {
            serve_direct(&lattice, &echo).await
        } else {
            serve(&lattice, &echo).await
        };
        test(&lattice, &echo, Peer::new(nats).await).await;
        server.drain(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_end_marker_is_sent_behind_data_that_is_not_acknowledged() {
    let nats = NatsServer::start().await;
    on_both_paths(&nats, async |lattice, _, mut peer| {
        peer.call("a", "length", None, length("", b"abc")).await;
        let mut handshake = peer.handshake("a").await;
        let mut repeats = 0;
        while repeats < 3 {
            match peer.next("a").await {
                Seen::Handshake(reply) => handshake = reply,
                Seen::Data(data) if data == OK_3 => repeats += 1,
                seen => panic!("{seen:?} after {repeats} repeats"),
            }
        }
        assert!(lattice.load().repeats >= 2);
        peer.acknowledge(&handshake).await;
        peer.data_before_the_end("a").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_part_of_a_result_in_chunks_is_sent_before_it_is_acknowledged() {
    let nats = NatsServer::start().await;
    on_both_paths(&nats, async |_, _, mut peer| {
        let size: u32 = 3 << 20;
        peer.call("a", "bytes", None, leb128(size)).await;
        peer.handshake("a").await;
        // Nothing but handshakes.
        let handshake = peer.handshake("a").await;
        peer.acknowledge(&handshake).await;
        let mut received = 0;
        loop {
            match peer.next("a").await {
                Seen::Data(chunk) => received += chunk.len(),
                Seen::End => break,
                // Sent while the acknowledgement was under way.
                Seen::Handshake(_) if received == 0 => {}
                seen => panic!("{seen:?} after {received} bytes"),
            }
        }
        assert_eq!(received, size as usize + leb128(size).len());
    })
    .await;
}

fn leb128(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        bytes.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return bytes;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_marker_never_overtakes_the_data() {
    let nats = NatsServer::start().await;
    on_both_paths(&nats, async |_, echo, mut peer| {
        // Acknowledged before there is a result.
        peer.call("early", "length", None, length("gate", b"abc")).await;
        let handshake = peer.handshake("early").await;
        echo.begun(1).await;
        peer.acknowledge(&handshake).await;
        // Another call proves that the server has the acknowledgement: it reads its inbox in order.
        peer.call("fence", "length", None, length("", b"abc")).await;
        let fence = peer.handshake("fence").await;
        peer.acknowledge(&fence).await;
        while peer.next("fence").await != Seen::End {}
        echo.gate.add_permits(1);
        assert_eq!(peer.data_before_the_end("early").await, 1);
        // Acknowledged while the result is on its way, as often as that may happen, and twice.
        for round in 0..200 {
            let call = format!("round-{round}");
            peer.call(&call, "length", None, length("", b"abc")).await;
            let handshake = peer.handshake(&call).await;
            peer.acknowledge(&handshake).await;
            peer.acknowledge(&handshake).await;
            assert!(peer.data_before_the_end(&call).await >= 1, "{call}");
        }
        assert_eq!(peer.outlast_repeats("early").await, [], "nothing comes after the end");
        assert!(
            peer.kept.iter().all(|(call, _)| call.starts_with("clock")),
            "{:?}",
            peer.kept
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_repeated_to_a_peer_that_marks_its_calls() {
    let nats = NatsServer::start().await;
    on_both_paths(&nats, async |_, echo, mut peer| {
        // All parameters in one message: one message back, without a handshake.
        peer.call("whole", "length", Some("whole"), length("", b"abc")).await;
        assert_eq!(peer.next("whole").await, Seen::Direct(Bytes::from_static(OK_3)));
        assert_eq!(peer.outlast_repeats("whole").await, []);
        // More parameters to come: the handshake once, however long it stays without an answer.
        let params = length("gate", b"abc");
        let (first, rest) = params.split_at(3);
        peer.call("chunked", "length", Some("chunked"), first.to_vec()).await;
        let handshake = peer.handshake("chunked").await;
        assert_eq!(peer.outlast_repeats("chunked").await, []);
        peer.params(&handshake, Bytes::copy_from_slice(rest)).await;
        peer.acknowledge(&handshake).await;
        echo.gate.add_permits(1);
        assert_eq!(peer.next("chunked").await, Seen::Direct(Bytes::from_static(OK_3)));
        assert_eq!(peer.outlast_repeats("chunked").await, []);
    })
    .await;
}

/// Or a caller that never saw it would not send the rest of its parameters.
#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_is_repeated_while_the_handler_runs() {
    let nats = NatsServer::start().await;
    on_both_paths(&nats, async |_, echo, mut peer| {
        let params = length("gate", b"abc");
        let (first, rest) = params.split_at(3);
        peer.call("a", "length", None, first.to_vec()).await;
        peer.handshake("a").await;
        let handshake = peer.handshake("a").await;
        peer.params(&handshake, Bytes::copy_from_slice(rest)).await;
        peer.acknowledge(&handshake).await;
        echo.begun(1).await;
        echo.gate.add_permits(1);
        assert_eq!(peer.data_before_the_end("a").await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_an_end_marker_that_is_repeated_too() {
    let nats = NatsServer::start().await;
    on_both_paths(&nats, async |_, _, mut peer| {
        peer.call("a", "length", None, length("fail", b"")).await;
        let mut ends = 0;
        let mut handshake = peer.handshake("a").await;
        while ends < 2 {
            match peer.next("a").await {
                Seen::Handshake(reply) => handshake = reply,
                Seen::End => ends += 1,
                seen => panic!("{seen:?}"),
            }
        }
        peer.acknowledge(&handshake).await;
    })
    .await;
}
