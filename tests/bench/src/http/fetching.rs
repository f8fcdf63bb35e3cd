//! Stored, fetched and settled, as the bare pull consumer reads and acknowledges.

use std::borrow::Cow;

use anyhow::{Context as _, Result, anyhow};
use fanout_tests::types::{
    DeliveryOptions, FetchedDeliveries, Filter, InboxError, Reach, Scope, SettleError, Settlement, SettlementOutcome,
    SubscribeError, Subscription, Verdict,
};
use fanout_wit::{INBOX, SUBSCRIBER};
use serde::Deserialize;
use serde_json::json;

use super::Ways;
use super::connection::Connection;
use crate::case::{Case, Size, in_turns};
use crate::delivery::{LOG, pull};
use crate::load::raw_as_stored;
use crate::report::Report;
use crate::world::patient;

/// Fetched at once, and settled at once.
const AT_ONCE: u32 = 500;
const UNIX: &str = "unix";
const HTTP: &str = "http";

/// As the bus answers over HTTP, as far as a consumer needs it.
#[derive(Deserialize)]
struct Fetched<'a> {
    #[serde(borrow)]
    deliveries: Vec<Leased<'a>>,
}

#[derive(Deserialize)]
struct Leased<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
}

pub(super) async fn run(report: &mut Report, size: Size, ways: &Ways) -> Result<()> {
    let options = DeliveryOptions {
        filter: Filter {
            tenants: vec![UNIX.to_owned()],
            event_types: Vec::new(),
            pattern: None,
        },
        reach: Reach::Inbox,
        batch_size: Some(AT_ONCE),
        concurrency: Some(2),
        scope: Scope::Everywhere,
    };
    let made: std::result::Result<Subscription, SubscribeError> = ways
        .unix
        .call_values(patient(), SUBSCRIBER, "subscribe-durable", (UNIX.to_owned(), options))
        .await?;
    made.map_err(|e| anyhow!("{e:?}"))?;
    let connection = &tokio::sync::Mutex::new(Connection::open(&ways.address).await?);
    let wanted = json!({ "need": "durable", "filter": { "tenants": [HTTP] }, "batch_size": AT_ONCE, "concurrency": 2 });
    let headers = "content-type: application/json\r\n";
    let path = format!("PUT /v1/subscriptions/{HTTP}");
    connection
        .lock()
        .await
        .exchange(&path, headers, wanted.to_string().as_bytes())
        .await?;

    let events = size.events(20_000);
    let js = &ways.world.js;
    let cases = vec![
        Case::new("bare pull consumer, an acknowledgement each", |r| async move {
            pull(js, &format!("bare-{r}"), events).await
        }),
        Case::new("fetch and settle over a Unix session, 500 at once", |r| async move {
            let run = format!("fu-{r}");
            let storing = raw_as_stored(js, UNIX, &run, events);
            let (stored, taken) = tokio::join!(storing, over_unix(ways, events));
            taken?;
            stored
        }),
        Case::new("fetch and settle over HTTP, 500 at once", |r| async move {
            let run = format!("fh-{r}");
            let mut connection = connection.lock().await;
            let storing = raw_as_stored(js, HTTP, &run, events);
            let (stored, taken) = tokio::join!(storing, over_http(&mut connection, events));
            taken?;
            stored
        }),
    ];
    in_turns(report, "stored, fetched and settled", size, cases, || {
        ways.world.clear()
    })
    .await?;
    // Nothing of it is left for whoever measures next.
    let log = js.get_stream_no_info(LOG).await?;
    log.purge().await.context("empty the log")?;
    Ok(())
}

async fn over_unix(ways: &Ways, events: usize) -> Result<()> {
    let mut taken = 0;
    while taken < events {
        let parameters = (UNIX.to_owned(), AT_ONCE, None::<u64>, 5_000_u32);
        let fetched: std::result::Result<FetchedDeliveries, InboxError> =
            ways.unix.call_values(patient(), INBOX, "fetch", parameters).await?;
        let deliveries = fetched.map_err(|e| anyhow!("{e:?}"))?.deliveries;
        if deliveries.is_empty() {
            continue;
        }
        taken += deliveries.len();
        let settlements: Vec<_> = deliveries
            .into_iter()
            .map(|delivery| Settlement {
                token: delivery.token,
                verdict: Verdict::Handled,
            })
            .collect();
        let settled: Vec<std::result::Result<SettlementOutcome, SettleError>> = ways
            .unix
            .call_values(patient(), INBOX, "settle", (settlements,))
            .await?;
        for outcome in settled {
            outcome.map_err(|e| anyhow!("{e:?}"))?;
        }
    }
    Ok(())
}

async fn over_http(connection: &mut Connection, events: usize) -> Result<()> {
    let headers = "content-type: application/json\r\n";
    let fetch = format!("POST /v1/subscriptions/{HTTP}:fetch");
    let wanted = format!(r#"{{"max_deliveries":{AT_ONCE},"wait_ms":5000}}"#);
    let mut taken = 0;
    while taken < events {
        let body = connection.exchange(&fetch, headers, wanted.as_bytes()).await?;
        let fetched: Fetched<'_> = serde_json::from_slice(body)?;
        if fetched.deliveries.is_empty() {
            continue;
        }
        taken += fetched.deliveries.len();
        let mut settlements = String::from(r#"{"settlements":["#);
        for (i, delivery) in fetched.deliveries.iter().enumerate() {
            if i > 0 {
                settlements.push(',');
            }
            settlements.push_str(&format!(r#"{{"token":"{}","verdict":"handled"}}"#, delivery.token));
        }
        settlements.push_str("]}");
        connection
            .exchange("POST /v1/settlements", headers, settlements.as_bytes())
            .await?;
    }
    Ok(())
}
