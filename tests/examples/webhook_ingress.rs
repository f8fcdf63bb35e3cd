//! How many webhooks a second the ingress takes on a real host, scheme by scheme, and what of that is verifying them: the
//! figures in `docs/ingress.md`.
//!
//! `cargo xtask test` builds the parts and tells where they are; then, with the same variables,
//! `cargo run --release -p fanout-tests --example webhook_ingress`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use fanout_tests::http::{Headers, Pool};
use fanout_tests::webhook_host::WebhookHost;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper::body::Bytes;
use webhook_source::samples::{SAMPLES, Sample};

const REQUESTS: usize = 2_000;
const UNDER_WAY: usize = 16;
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let host = WebhookHost::start();
    let pool = Pool::default();
    println!("{REQUESTS} requests, {UNDER_WAY} under way, the median of {ROUNDS} rounds, requests a second");
    let nowhere = rate(
        &pool,
        &host.url("/webhooks/other"),
        &Vec::new(),
        &Bytes::from_static(b"{}"),
        404,
    )
    .await?;
    println!("{:20} {nowhere:>9.0}", "no such source");
    println!("{:20} {:>9} {:>9} {:>9}", "scheme", "bytes", "refused", "accepted");
    for sample in SAMPLES {
        let (headers, body) = signed(&sample)?;
        let (mut forged_headers, mut forged) = (headers.clone(), body.to_vec());
        if sample.name() == "basic" {
            forged_headers.retain(|(name, _)| name != "authorization");
            forged_headers.push(("authorization".to_owned(), "Basic Y2hhcmdlYmVlOm90aGVy".to_owned()));
        } else {
            let text = String::from_utf8(forged)?;
            forged = match sample.name() {
                "adyen" => text.replace("1130", "1131"),
                "braintree" => text.replace("bt_payload=PG", "bt_payload=PH"),
                _ => format!("{text} "),
            }
            .into_bytes();
        }
        let url = host.url(&sample.target());
        let refused = rate(&pool, &url, &forged_headers, &Bytes::from(forged), 401).await?;
        // The same webhook again and again: verified each time, and known to the bus from the second time on.
        let accepted = rate(&pool, &url, &headers, &body, 200).await?;
        println!("{:20} {:>9} {refused:>9.0} {accepted:>9.0}", sample.name(), body.len());
    }
    host.stop();
    Ok(())
}

fn signed(sample: &Sample) -> Result<(Headers, Bytes)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let signed = sample.signed(sample.body.as_bytes(), i64::try_from(now)?);
    Ok((sample.all_headers(&signed), Bytes::from(signed.body.to_vec())))
}

async fn rate(pool: &Pool, url: &str, headers: &Headers, body: &Bytes, expected: u16) -> Result<f64> {
    let mut rates = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        stream::iter(0..REQUESTS)
            .map(|_| async {
                let answer = pool.post(url, headers, body.clone()).await?;
                ensure!(answer.status == expected, "{url}: {} {}", answer.status, answer.text());
                Ok(())
            })
            .buffer_unordered(UNDER_WAY)
            .try_collect::<()>()
            .await?;
        rates.push(REQUESTS as f64 / began.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[ROUNDS / 2])
}
