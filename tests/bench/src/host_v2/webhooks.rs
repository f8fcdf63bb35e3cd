//! Webhooks in, 200 out, once their events are stored.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use fanout_tests::hosted::signed_stripe_webhook;
use futures::future::try_join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use webhook_signature::Scheme;
use webhook_source::samples;

use super::world::WorldV2;
use crate::case::{Case, Size, in_turns};
use crate::native::Native;
use crate::report::{Aim, Report};
use crate::world::PAYLOAD;

const GROUP: &str = "webhooks of 1 KiB, answered with 200 once stored, 16 under way";
const NATIVE: &str = "native: axum and async-nats";
const BESIDE: &str = "v2 host: ingress, with the connector beside it";
const COMPOSED: &str = "v2 host: ingress and connector composed to one component";
const UNDER_WAY: usize = 16;

pub(super) async fn run(report: &mut Report, size: Size, world: &WorldV2) -> Result<()> {
    let program = Native::start(&world.nats.url())?;
    let running = [world.deploy("beside").await?, world.deploy("composed").await?];
    let native = Callers::of(&program.address, &program.address);
    let beside = Callers::of(&world.http(), "beside.example.com");
    let composed = Callers::of(&world.http(), "composed.example.com");
    let (many, few) = (size.events(5_000), size.events(500));
    let cases = vec![
        Case::new(NATIVE, |r| native.post(format!("native-{r}"), many)),
        Case::new(BESIDE, |r| beside.post(format!("beside-{r}"), few)),
        Case::new(COMPOSED, |r| composed.post(format!("composed-{r}"), few)),
    ];
    in_turns(report, GROUP, size, cases, || world.clear()).await?;
    for case in [BESIDE, COMPOSED] {
        report.aim(Aim {
            group: GROUP,
            case,
            beside: NATIVE,
            least: 0.25,
        });
    }
    for running in &running {
        world.end(running).await?;
    }
    Ok(())
}

/// Senders, each with a connection of its own.
struct Callers {
    address: String,
    /// Whom they ask for.
    host: String,
}

impl Callers {
    fn of(address: &str, host: &str) -> Self {
        Self {
            address: address.to_owned(),
            host: host.to_owned(),
        }
    }

    /// Posts so many, each once. A server does not wait for a connection's next request for as long as a round may take:
    /// connections are opened for each.
    async fn post(&self, run: String, webhooks: usize) -> Result<usize> {
        let next = AtomicUsize::new(0);
        let callers = (0..UNDER_WAY).map(async |_| {
            let stream = TcpStream::connect(&self.address).await;
            let stream = stream.with_context(|| format!("connect to {}", self.address))?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            // What is wrong with it is said by the request that it is used for.
            let driving = tokio::spawn(async { connection.await.unwrap_or_default() });
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= webhooks {
                    break;
                }
                self.one(&mut sender, &format!("evt-{run}-{number}")).await?;
            }
            drop(sender);
            driving.await.context("the connection's task ended")
        });
        try_join_all(callers).await?;
        Ok(webhooks)
    }

    async fn one(&self, sender: &mut SendRequest<Full<Bytes>>, id: &str) -> Result<()> {
        let sample = samples::of(Scheme::Stripe);
        let body = body(id);
        let request = Request::builder()
            .method(Method::POST)
            .uri("/webhooks/stripe")
            .header("host", &self.host)
            .header("content-type", "application/json")
            .header("stripe-signature", signed_stripe_webhook(sample.signs_with, &body));
        sender.ready().await?;
        let answer = sender.send_request(request.body(Full::from(body))?).await?;
        let status = answer.status();
        let said = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status == StatusCode::OK,
            "{id}: {status} {}",
            String::from_utf8_lossy(&said)
        );
        Ok(())
    }
}

/// A webhook of Stripe's, as large as any event of the benches.
fn body(id: &str) -> String {
    let body = |padding: &str| {
        format!(
            r#"{{"padding":"{padding}","id":"{id}","object":"event","type":"invoice.paid","data":{{"object":{{"id":"in_1","object":"invoice","amount_paid":1250,"currency":"eur","metadata":{{"tenant":"acme"}}}}}}}}"#
        )
    };
    let rest = body("").len();
    body(&"x".repeat(PAYLOAD.saturating_sub(rest)))
}
