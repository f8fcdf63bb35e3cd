//! One wRPC call over each transport beside a raw NATS request: how long one takes, and how many 64 callers make.
//!
//! The server is a process of its own, this program started again (see [`crate::transport_server`]); the raw
//! request's responder is in there too.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use fanout_transport::testing::{NatsServer, TestAuthority};
use fanout_transport::{CallContext, ClientTls, ConnectOptions, Endpoint, Pem, Remote};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::case::Size;
use crate::report::Report;
use crate::transport_server::{DIRECT, FUNCTION, ISOLATED, RAW_SUBJECT, SERVE};

const BODY: usize = 1024;
const CALLERS: usize = 64;

/// Something that answers with what it was sent.
#[derive(Clone)]
enum Way {
    Raw(async_nats::Client),
    Remote(Remote, &'static str),
}

impl Way {
    async fn call(&self, body: Bytes) -> Result<()> {
        let length = body.len();
        let answer = match self {
            Self::Raw(nats) => nats.request(RAW_SUBJECT, body).await?.payload,
            Self::Remote(remote, instance) => {
                let (answer,): (Bytes,) = remote
                    .call_values(CallContext::default(), instance, FUNCTION, (body,))
                    .await?;
                answer
            }
        };
        ensure!(answer.len() == length, "another answer than what was sent");
        Ok(())
    }
}

/// Kills the server process on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let nats = NatsServer::start().await;
    let authority = TestAuthority::new();
    let folder = std::env::temp_dir().join(format!("fanout-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = measure(report, size, &nats, &authority, &folder).await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure(
    report: &mut Report,
    size: Size,
    nats: &NatsServer,
    authority: &TestAuthority,
    folder: &Path,
) -> Result<()> {
    let (_server, endpoints) = start(nats, authority, folder)?;
    let ways = connect(nats, &authority.client("bench"), &endpoints).await?;
    let calls = size.events(20_000);
    let singles = size.events(4_000);
    let mut measured = Vec::new();
    // A round for each way in turn, so that whatever else the machine does slows all of them.
    for round in 0..=size.rounds() {
        for (name, way) in &ways {
            let sample = sample(way, calls, singles).await?;
            if round > 0 {
                measured.push((name, sample));
            }
        }
    }
    for (name, sample) in &measured {
        report.rate("calls, 64 callers", name, calls, sample.seconds)?;
    }
    for (name, sample) in &measured {
        report.value("one call at a time, half of them within", name, "µs", sample.half_us)?;
    }
    for (name, sample) in &measured {
        report.value("one call at a time, 99 of 100 within", name, "µs", sample.most_us)?;
    }
    Ok(())
}

/// One round of one way.
struct Sample {
    /// For all calls of all callers.
    seconds: f64,
    half_us: f64,
    most_us: f64,
}

async fn sample(way: &Way, calls: usize, singles: usize) -> Result<Sample> {
    let mut times = Vec::with_capacity(singles);
    for _ in 0..singles {
        let start = Instant::now();
        way.call(Bytes::from_static(&[7; BODY])).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).copied().unwrap_or(f64::NAN);
    let start = Instant::now();
    stream::iter(0..calls)
        .map(|_| way.call(Bytes::from_static(&[7; BODY])))
        .buffer_unordered(CALLERS)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    Ok(Sample {
        seconds: start.elapsed().as_secs_f64(),
        half_us: at(50),
        most_us: at(99),
    })
}

async fn connect(
    nats: &NatsServer,
    tls: &ClientTls,
    endpoints: &BTreeMap<String, Endpoint>,
) -> Result<Vec<(String, Way)>> {
    let mut ways = vec![("raw NATS request".to_owned(), Way::Raw(nats.client().await))];
    for (name, endpoint) in endpoints {
        let options = ConnectOptions {
            tls: Some(tls.clone()),
            ..ConnectOptions::default()
        };
        let remote = Remote::connect(endpoint, options).await?;
        ways.push((name.clone(), Way::Remote(remote.clone(), DIRECT)));
        if ["nats", "unix", "quic"].contains(&endpoint.scheme()) {
            ways.push((format!("{name}, by generated bindings"), Way::Remote(remote, ISOLATED)));
        }
    }
    Ok(ways)
}

/// Starts the server, and reads where it listens.
fn start(nats: &NatsServer, authority: &TestAuthority, folder: &Path) -> Result<(Server, BTreeMap<String, Endpoint>)> {
    let tls = authority.server();
    for (file, pem) in [
        ("server.pem", &tls.certificate),
        ("server.key", &tls.key),
        ("ca.pem", &authority.certificate()),
    ] {
        let Pem::Text(text) = pem else {
            continue;
        };
        std::fs::write(folder.join(file), text)?;
    }
    let process = Command::new(std::env::current_exe()?)
        .env(SERVE, nats.url())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut server = Server(process);
    let stdout = server.0.stdout.take().context("its output")?;
    let mut endpoints = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.is_empty() {
            return Ok((server, endpoints));
        }
        let endpoint: Endpoint = line.parse()?;
        let name = match endpoint.scheme() {
            "nats" => "wRPC over NATS".to_owned(),
            scheme => format!("wRPC over {scheme}"),
        };
        endpoints.insert(name, endpoint);
    }
    anyhow::bail!("the server ended before it served")
}
