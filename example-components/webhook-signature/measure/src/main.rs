//! How long verifying a webhook takes, scheme by scheme: one program, to be run natively and in a wasm runtime.
//!
//! It takes a number of milliseconds that each case lasts at least, and prints a line of JSON for each:
//! `{"bytes":1024,"case":"stripe","count":262144,"seconds":0.19}`, where `bytes` are those of the body. Deliberately absent:
//! rounds, medians and tables, which are the caller's.

use std::hint::black_box;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use samples::Sample;
use sha2::Sha256;
use webhook_signature::{Request, Scheme, Unsigned, sign, verify};

#[path = "../../tests/samples/mod.rs"]
mod samples;

const SIZES: [usize; 2] = [1 << 10, 64 << 10];
const SEED: &str = "00112233445566778899aabbccddeeff";
const NOW: i64 = 1_767_225_600;
const URL: &str = "https://example.com/webhooks/measure";

fn main() -> ExitCode {
    let Some(least_ms) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        drop(writeln!(std::io::stderr(), "usage: webhook-measure MILLISECONDS"));
        return ExitCode::FAILURE;
    };
    let least = Duration::from_millis(least_ms);
    for bytes in SIZES {
        hmac_alone(bytes, least);
        for scheme in Scheme::ALL {
            verified(scheme.name(), &Sample::new(scheme, SEED), bytes, least);
        }
        verified("standard-webhooks Ed25519", &Sample::asymmetric(), bytes, least);
    }
    ExitCode::SUCCESS
}

/// The hash without a webhook around it: what OpenSSL's is to be held against.
fn hmac_alone(bytes: usize, least: Duration) {
    let body = vec![b'x'; bytes];
    let key = Hmac::<Sha256>::new_from_slice(SEED.as_bytes()).expect("a key has any length");
    measure("hmac-sha256", bytes, least, || {
        let mut mac = key.clone();
        mac.update(black_box(&body));
        black_box(mac.finalize());
    });
}

fn verified(case: &str, sample: &Sample, bytes: usize, least: Duration) {
    let (scheme, keys) = (sample.scheme, sample.keys().expect("a sample has keys"));
    let around = samples::body(scheme, "").len();
    let body = samples::body(scheme, &"x".repeat(bytes - around));
    let webhook = Unsigned {
        id: "msg_1",
        timestamp: NOW,
        body: &body,
        url: Some(URL),
    };
    let signed = sign(&sample.signing_key(), &webhook).expect("a sample can be signed");
    let headers = signed.headers.iter();
    let headers: Vec<_> = headers.map(|(name, value)| (*name, value.as_bytes())).collect();
    let request = Request::new(&headers, &signed.body).with_url(URL);
    measure(case, signed.body.len(), least, || {
        let verified = verify(black_box(&keys), black_box(&request), NOW, Duration::ZERO);
        assert!(verified.is_ok(), "{case}: {verified:?}");
    });
}

/// Does it so often that it takes long enough. What was too short was the warm-up.
fn measure(case: &str, bytes: usize, least: Duration, mut work: impl FnMut()) {
    let mut count = 1_u64;
    let took = loop {
        let start = Instant::now();
        for _ in 0..count {
            work();
        }
        let took = start.elapsed();
        if took >= least {
            break took;
        }
        count *= 2;
    };
    let seconds = took.as_secs_f64();
    // Whoever starts it reads this line, or nothing.
    drop(writeln!(
        std::io::stdout(),
        r#"{{"bytes":{bytes},"case":"{case}","count":{count},"seconds":{seconds}}}"#
    ));
}
