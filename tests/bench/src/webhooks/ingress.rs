//! Through the whole ingress: posted over HTTP to the component on a wasmCloud host, verified there, and refused or
//! published.

use std::fmt::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use bytes::Bytes;
use fanout_tests::http::{Headers, Pool};
use fanout_tests::webhook_host::{WebhookHost, forge};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use webhook_source::samples::{SAMPLES, Sample};

use super::{BYTES, SIZES, whole};
use crate::case::Size;
use crate::report::{Report, Took};

const UNDER_WAY: usize = 16;
const ROUNDS: usize = 3;
const WARM_UP: usize = 20;
const REQUESTS: &str = "requests/s";
const HOW: [(&str, u16); 2] = [("refused", 401), ("accepted", 200)];

/// A webhook that is posted again and again.
struct Post {
    group: &'static str,
    name: String,
    url: String,
    headers: Headers,
    body: Bytes,
    expected: u16,
}

/// Measures, and makes the table.
pub(super) async fn run(report: &mut Report, size: Size) -> Result<String> {
    let host = WebhookHost::start();
    let pool = Pool::default();
    let requests = size.events(500);
    for post in &posts(&host)? {
        posted(&pool, post, WARM_UP).await?;
    }
    for _ in 0..size.rounds().min(ROUNDS) {
        // Signed anew for each round: a signature holds for five minutes.
        for post in &posts(&host)? {
            let seconds = posted(&pool, post, requests).await?;
            let rate = requests as f64 / seconds;
            report.keep(
                post.group,
                &post.name,
                REQUESTS,
                rate,
                Some(Took::new(requests, seconds)),
            )?;
            report.keep(post.group, &post.name, BYTES, rate * post.body.len() as f64 / 1e6, None)?;
        }
    }
    host.stop();
    table(report)
}

fn posts(host: &WebhookHost) -> Result<Vec<Post>> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let mut posts = Vec::new();
    for (bytes, group) in SIZES {
        for sample in SAMPLES {
            let body = padded(&sample, bytes);
            let signed = sample.signed(body.as_bytes(), now);
            for (how, expected) in HOW {
                let (mut headers, mut body) = (sample.all_headers(&signed), signed.body.to_vec());
                if how == "refused" {
                    forge(&sample, &mut headers, &mut body);
                }
                posts.push(Post {
                    group,
                    name: name(&sample, how),
                    url: host.url(&sample.target()),
                    headers,
                    body: body.into(),
                    expected,
                });
            }
        }
    }
    Ok(posts)
}

fn name(sample: &Sample, how: &str) -> String {
    format!("{}, {how} by the ingress", sample.name())
}

/// The sample's body with as much in it, which nobody reads, that it has this size.
fn padded(sample: &Sample, bytes: usize) -> String {
    let body = sample.body;
    let (open, close) = match body.strip_prefix('{') {
        Some(_) => (r#"{"padding":""#, r#"","#),
        None => ("<notification><!--", "-->"),
    };
    let rest = body.strip_prefix('{').or_else(|| body.strip_prefix("<notification>"));
    let rest = rest.unwrap_or(body);
    let filler = bytes.saturating_sub(open.len() + close.len() + rest.len());
    format!("{open}{}{close}{rest}", "x".repeat(filler))
}

async fn posted(pool: &Pool, post: &Post, requests: usize) -> Result<f64> {
    let began = Instant::now();
    stream::iter(0..requests)
        .map(|_| async {
            let answer = pool.post(&post.url, &post.headers, post.body.clone()).await?;
            let status = answer.status;
            ensure!(status == post.expected, "{}: {status} {}", post.name, answer.text());
            Ok(())
        })
        .buffer_unordered(UNDER_WAY)
        .try_collect::<()>()
        .await?;
    Ok(began.elapsed().as_secs_f64())
}

fn table(report: &Report) -> Result<String> {
    let mut table = String::from("\n| through the ingress |");
    let mut line = String::from("|---|");
    for (_, group) in SIZES {
        for (how, _) in HOW {
            write!(table, " {group} {how}, a second | MB/s |")?;
            line.push_str("---:|---:|");
        }
    }
    writeln!(table, "\n{line}")?;
    for sample in SAMPLES {
        write!(table, "| {} |", sample.name())?;
        for (_, group) in SIZES {
            for (how, _) in HOW {
                let of = |unit| whole(report.median(group, &name(&sample, how), unit));
                write!(table, " {} | {} |", of(REQUESTS), of(BYTES))?;
            }
        }
        writeln!(table)?;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_samples_body_takes_any_size() {
        for sample in SAMPLES {
            for (bytes, _) in SIZES {
                let body = padded(&sample, bytes);
                assert_eq!(body.len(), bytes, "{}", sample.name());
                assert!(body.starts_with("<notification>") || serde_json::from_str::<serde_json::Value>(&body).is_ok());
            }
        }
    }
}
