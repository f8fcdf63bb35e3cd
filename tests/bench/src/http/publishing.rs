//! Events in, one in a request and many.

use std::fmt::Write as _;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::sync::Mutex;

use super::Ways;
use super::connection::{Connection, open};
use crate::case::{Case, Size, in_turns};
use crate::load::{batches, raw, raw_as_stored, singles};
use crate::report::{Aim, Report};
use crate::world::PAYLOAD;

const GROUP: &str = "published";
const RAW: &str = "async-nats, 256 in flight";
const UNIX_ONE: &str = "a Unix session, 1 caller";
const UNIX_MANY: &str = "a Unix session, 64 callers";
const UNIX_BATCH: &str = "a Unix session, 250 in a call, 4 callers";
const HTTP_ONE: &str = "HTTP on keep-alive, 1 caller";
const HTTP_MANY: &str = "HTTP on keep-alive, 64 callers";
const HTTP_BATCH: &str = "HTTP, 250 in a batch, 4 callers";
/// In a batch, and how many callers send them.
const BATCH: (usize, usize) = (250, 4);

pub(super) async fn run(report: &mut Report, size: Size, ways: &Ways) -> Result<()> {
    let (js, unix) = (&ways.world.js, &ways.unix);
    let many = size.events(20_000);
    let few = size.events(4_000);
    let id = |case: &str, round: usize| format!("{case}-{round}");
    // Connections are kept over all rounds.
    let one = &Mutex::new(open(&ways.address, 1).await?);
    let sixty_four = &Mutex::new(open(&ways.address, 64).await?);
    let four = &Mutex::new(open(&ways.address, BATCH.1).await?);
    let cases = vec![
        Case::new(RAW, |r| {
            let id = id("raw", r);
            async move { raw(js, "acme", &id, many, 256).await }
        }),
        Case::new("async-nats, 256 in flight, with an event's headers", |r| {
            let id = id("stored", r);
            async move { raw_as_stored(js, "acme", &id, many).await }
        }),
        Case::new(UNIX_ONE, |r| {
            let id = id("u1", r);
            async move { singles(unix, "acme", &id, few, 1).await }
        }),
        Case::new(HTTP_ONE, |r| {
            let id = id("h1", r);
            async move { single_requests(&mut one.lock().await, &id, few).await }
        }),
        Case::new(UNIX_MANY, |r| {
            let id = id("u64", r);
            async move { singles(unix, "acme", &id, many, 64).await }
        }),
        Case::new(HTTP_MANY, |r| {
            let id = id("h64", r);
            async move { single_requests(&mut sixty_four.lock().await, &id, many).await }
        }),
        Case::new(UNIX_BATCH, |r| {
            let id = id("ub", r);
            async move { batches(unix, "acme", &id, many, BATCH.0, BATCH.1).await }
        }),
        Case::new(HTTP_BATCH, |r| {
            let id = id("hb", r);
            async move { batched_requests(&mut four.lock().await, &id, many).await }
        }),
    ];
    in_turns(report, GROUP, size, cases, || ways.world.clear()).await?;
    for (case, beside, least) in [
        (HTTP_BATCH, RAW, 0.6),
        (HTTP_ONE, UNIX_ONE, 0.75),
        (HTTP_MANY, UNIX_MANY, 0.75),
    ] {
        report.aim(Aim {
            group: GROUP,
            case,
            beside,
            least,
        });
    }
    Ok(())
}

/// One event in a request, in binary mode; each connection sends its part of them.
async fn single_requests(connections: &mut [Connection], run: &str, events: usize) -> Result<usize> {
    let callers = connections.len();
    let sending = connections
        .iter_mut()
        .enumerate()
        .map(|(first, connection)| async move {
            let mut headers = String::new();
            for i in (first..events).step_by(callers) {
                headers.clear();
                write!(
                    headers,
                    "ce-specversion: 1.0\r\nce-id: {run}-{i}\r\nce-source: /tests\r\nce-type: invoice.paid\r\n\
                 ce-tenant: acme\r\ncontent-type: application/json\r\n"
                )?;
                connection
                    .exchange("POST /v1/events", &headers, &[b'x'; PAYLOAD])
                    .await?;
            }
            anyhow::Ok(())
        });
    try_join_all(sending).await?;
    Ok(events)
}

/// Many events in a request, as JSON.
async fn batched_requests(connections: &mut [Connection], run: &str, events: usize) -> Result<usize> {
    let callers = connections.len();
    let data = "x".repeat(PAYLOAD);
    let data = data.as_str();
    let sending = connections.iter_mut().enumerate().map(|(first, connection)| async move {
        let batches: Vec<_> = (0..events).step_by(BATCH.0).collect();
        for from in batches.into_iter().skip(first).step_by(callers) {
            let mut body = String::with_capacity(BATCH.0 * (PAYLOAD + 192));
            for i in from..(from + BATCH.0).min(events) {
                body.push(if i == from { '[' } else { ',' });
                write!(
                    body,
                    r#"{{"specversion":"1.0","id":"{run}-{i}","source":"/tests","type":"invoice.paid","tenant":"acme","datacontenttype":"text/plain","data":"{data}"}}"#
                )?;
            }
            body.push(']');
            let headers = "content-type: application/cloudevents-batch+json\r\n";
            connection.exchange("POST /v1/events", headers, body.as_bytes()).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(sending).await?;
    Ok(events)
}
