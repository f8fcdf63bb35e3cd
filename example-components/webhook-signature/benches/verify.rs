//! Verifications and bytes a second of each scheme, beside OpenSSL's HMAC on the same bytes.
//!
//! `cargo bench -p webhook-signature`. OpenSSL is the one that Python's `hashlib` is linked to: it runs as a process of its
//! own that is handed the bytes and the count and says how long it took, so that nothing here needs OpenSSL's headers.
//! Without `python3` that line is left out, and said so.

#![allow(missing_docs, reason = "criterion's macro makes a function without any")]

use std::{
    hint::black_box,
    process::Command,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use samples::Sample;
use webhook_signature::{Request, Scheme, Unsigned, sign, verify};

#[path = "../tests/samples/mod.rs"]
mod samples;

const SIZES: [(&str, usize); 2] = [("1KiB", 1 << 10), ("64KiB", 64 << 10)];
const SEED: &str = "00112233445566778899aabbccddeeff";
const NOW: i64 = 1_767_225_600;
const URL: &str = "https://example.com/webhooks/bench";

/// One-shot HMAC as OpenSSL does it, COUNT times over a body of SIZE bytes; prints the seconds it took.
const OPENSSL: &str = r#"
import hmac, sys, time
size, count = int(sys.argv[1]), int(sys.argv[2])
key, body = b"00112233445566778899aabbccddeeff", b"x" * size
start = time.perf_counter()
for _ in range(count):
    hmac.digest(key, body, "sha256")
print(time.perf_counter() - start)
"#;

fn schemes(criterion: &mut Criterion) {
    for (name, size) in SIZES {
        let mut group = criterion.benchmark_group(format!("verify/{name}"));
        for scheme in Scheme::ALL {
            let sample = Sample::new(scheme, SEED);
            let (signing_key, keys) = (sample.signing_key(), sample.keys().expect("the sample has keys"));
            let body = samples::body(scheme, &"x".repeat(size - samples::body(scheme, "").len()));
            let webhook = Unsigned {
                id: "msg_1",
                timestamp: NOW,
                body: &body,
                url: Some(URL),
            };
            let signed = sign(&signing_key, &webhook).expect("the sample can be signed");
            let headers: Vec<_> = signed
                .headers
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()))
                .collect();
            let request = Request::new(&headers, &signed.body).with_url(URL);
            group.throughput(Throughput::Bytes(signed.body.len() as u64));
            group.bench_function(scheme.name(), |bencher| {
                bencher.iter(|| verify(black_box(&keys), black_box(&request), NOW, Duration::ZERO).is_ok());
            });
        }
        group.finish();
    }
}

fn openssl(criterion: &mut Criterion) {
    for (name, size) in SIZES {
        if let Err(why) = openssl_hmac(size, 1) {
            eprintln!("OpenSSL's HMAC is left out: {why}");
            return;
        }
        let mut group = criterion.benchmark_group(format!("verify/{name}"));
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("openssl-hmac-sha256", |bencher| {
            bencher.iter_custom(|count| openssl_hmac(size, count).expect("it ran a moment ago"));
        });
        group.finish();
    }
}

fn openssl_hmac(size: usize, count: u64) -> Result<Duration, String> {
    let mut python = Command::new("python3");
    python.args(["-c", OPENSSL, &size.to_string(), &count.to_string()]);
    let output = python.output().map_err(|error| format!("python3: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    match printed.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs_f64(seconds)),
        Err(_) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The hash alone as this crate computes it, for the comparison: what OpenSSL's line is to be held against.
fn hmac(criterion: &mut Criterion) {
    use ::hmac::{Hmac, KeyInit as _, Mac as _};
    for (name, size) in SIZES {
        let mut group = criterion.benchmark_group(format!("verify/{name}"));
        let body = vec![b'x'; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function("hmac-sha256-alone", |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SEED.as_bytes()).expect("any length will do");
                    mac.update(black_box(&body));
                    black_box(mac.finalize());
                }
                start.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = schemes, hmac, openssl
}
criterion_main!(benches);
