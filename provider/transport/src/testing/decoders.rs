//! The decoders of outside bytes, for fuzzing: each takes anything, and panics if one of its rules does not hold.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::{Bytes, BytesMut};

use crate::caller::MAX_ID_BYTES;
use crate::frames::Frames;
use crate::lattice::wire;
use crate::shape::{Walk, Walked};
use crate::stream::proof::Proof;
use crate::stream::session::codec::{self, GREETING_BYTES, Greeting, Kind};
use crate::stream::stock_reader;
use crate::{Body, Endpoint, Identity, Shape};

const BODY_LIMIT: usize = 4096;

/// A URL. What is one, is written as it is read, unless it holds a password.
///
/// # Panics
/// If it is not.
pub fn endpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let again = endpoint.to_string().parse::<Endpoint>();
        assert!(
            text.contains('@') || again == Ok(endpoint),
            "it is written otherwise than read"
        );
    }
}

/// A certificate that was verified. Its names are short, and nothing in them can end a line of a log.
///
/// # Panics
/// If one is not.
pub fn certificate(bytes: &[u8]) {
    let Some(proof) = Proof::of_chain(&[bytes.to_vec().into()]) else {
        return;
    };
    match proof.identity {
        Identity::Nobody => {}
        Identity::Certificate(names) => {
            let mut all = names
                .uris
                .iter()
                .chain(&names.dns)
                .chain(&names.common_names)
                .peekable();
            assert!(all.peek().is_some(), "a certificate without a name is nobody's");
            for name in all {
                assert!((1..=2048).contains(&name.len()) && !name.chars().any(char::is_control));
            }
        }
        identity => panic!("a certificate proves {identity}"),
    }
}

/// A stock invocation. A body never has more than the limit, nor more than came.
///
/// # Panics
/// If it has.
pub fn stock_invocation(bytes: &[u8]) {
    let mut rest = BytesMut::from(bytes);
    if let Ok(Some(header)) = stock_reader::header(&mut rest) {
        assert!(header.instance.len() <= MAX_ID_BYTES && header.func.len() <= MAX_ID_BYTES);
        let mut frames = Frames::new(Body::Parameters, BODY_LIMIT);
        let mut body = 0;
        while let Ok(Some(data)) = frames.next(&mut rest) {
            body += data.len();
        }
        assert!(body <= BODY_LIMIT.min(bytes.len()), "a body of {body} bytes");
    }
}

/// Frames of a session and what is in them. No more is reserved than a frame may have.
///
/// # Panics
/// If there is.
pub fn session_frames(bytes: &[u8]) {
    let mut rest = BytesMut::from(bytes);
    while let Ok(Some(frame)) = codec::decode(&mut rest) {
        assert!(frame.payload.len() <= codec::MAX_PAYLOAD_BYTES);
        match frame.kind {
            Kind::Call { .. } => call(frame.payload),
            Kind::Failed => drop(codec::decode_failure(&frame.payload)),
            _ => {}
        }
    }
    let most = bytes.len() + codec::MAX_PAYLOAD_BYTES + codec::HEAD_BYTES;
    assert!(rest.capacity() <= 2 * most, "{} bytes are reserved", rest.capacity());
    if let Some(greeting) = bytes.first_chunk::<GREETING_BYTES>() {
        drop(Greeting::decode(*greeting));
    }
}

/// Parameters of some shape: whatever comes, in whatever pieces, is walked in bounds, to the same end.
///
/// # Panics
/// If it is not.
pub fn parameters(shape: &'static Shape, bytes: &[u8]) {
    let whole = Walk::new(shape).on(bytes);
    let mut walk = Walk::new(shape);
    let mut last = walk.on(&[]);
    for end in 1..=bytes.len() {
        if !matches!(last, Ok(Walked::Part)) {
            break;
        }
        last = walk.on(&bytes[..end]);
    }
    match (whole, last) {
        (Ok(whole), Ok(last)) => assert_eq!(whole, last, "it depends on the pieces"),
        (Err(_), Err(_)) => {}
        (whole, last) => panic!("{whole:?}, and in pieces {last:?}"),
    }
}

/// The same for shapes like those of the contract, of which the first byte chooses one.
///
/// # Panics
/// As [`parameters`].
pub fn contract_parameters(bytes: &[u8]) {
    use Shape::{Bytes as Text, Cases, Fields, List, Number, Option};
    const EVENTS: Shape = List {
        of: "events",
        most: 1_000,
        item: &Fields(&[
            Text,
            Option(&Number),
            List {
                of: "extensions",
                most: 64,
                item: &Fields(&[Text, Text]),
            },
            Text,
        ]),
    };
    const SETTLEMENTS: Shape = List {
        of: "settlements",
        most: 1_000,
        item: &Fields(&[Text, Cases(&[None, Some(&Cases(&[Some(&Text), Some(&Number)])), None])]),
    };
    const FILTER: Shape = Fields(&[
        Text,
        List {
            of: "tenants",
            most: 10,
            item: &Text,
        },
        Shape::Byte,
    ]);
    if let Some((which, rest)) = bytes.split_first() {
        parameters([&EVENTS, &SETTLEMENTS, &FILTER][usize::from(*which) % 3], rest);
    }
}

/// Whether bytes are values of a shape, all of them and nothing else.
///
/// # Errors
/// Where they are not.
pub fn is_shape(shape: &'static Shape, bytes: &[u8]) -> Result<(), String> {
    for end in 0..bytes.len() {
        match Walk::new(shape).on(&bytes[..end]) {
            Ok(Walked::Part) => {}
            other => return Err(format!("{other:?} after {end} of {} bytes", bytes.len())),
        }
    }
    match Walk::new(shape).on(bytes) {
        Ok(Walked::Whole(used)) if used == bytes.len() => Ok(()),
        other => Err(format!("{other:?} for {} bytes", bytes.len())),
    }
}

fn call(mut payload: Bytes) {
    let whole = payload.len();
    if let Ok(call) = codec::decode_invocation(&mut payload) {
        assert!(call.instance.len() <= MAX_ID_BYTES && payload.len() < whole);
    }
}

/// The headers of an invocation on the lattice, a line each, and the reason of a failure.
///
/// # Panics
/// If an id is longer than it may be.
pub fn lattice_headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut headers = HeaderMap::new();
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    }
    if let Ok(caller) = wire::caller(Some(&headers)) {
        assert!(caller.component.len() <= MAX_ID_BYTES && caller.link.len() <= MAX_ID_BYTES);
    }
    drop(wire::decode_failure(&text));
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::Shape;

    const SHAPE: Shape = Shape::Fields(&[
        Shape::List {
            of: "things",
            most: 5,
            item: &Shape::Cases(&[None, Some(&Shape::Bytes)]),
        },
        Shape::Option(&Shape::Number),
        Shape::Byte,
    ]);

    proptest! {
        #[test]
        fn anything_is_taken(bytes in vec(any::<u8>(), 0..300)) {
            super::endpoint(&bytes);
            super::certificate(&bytes);
            super::stock_invocation(&bytes);
            super::session_frames(&bytes);
            super::parameters(&SHAPE, &bytes);
            super::contract_parameters(&bytes);
            super::lattice_headers(&bytes);
        }
    }
}
