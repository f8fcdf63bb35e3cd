//! What the consumers and the bus say for themselves, read as anyone would: over HTTP, and from the streams.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use bytes::Bytes;
use fanout_plan::status::SubscriptionStatus;
use futures::TryStreamExt as _;
use serde::Deserialize;
use serde_json::Value;

use crate::bus;
use crate::endpoints::Endpoints;
use crate::http::{client, get_json, send};

/// The stream that holds the bus's events, and the one that holds its dead letters.
const LOG: &str = "fanout_payments_log";
const DEAD: &str = "fanout_payments_dead";

/// How long a consumer may take to catch up before the demo calls it a failure.
pub(crate) const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
/// How often a consumer is asked. Each answer lists a bucket, so not too often.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(250);

/// The observer.
#[derive(Debug)]
pub(crate) struct Observer {
    http: reqwest::Client,
    /// The bus's own server, and where the bus answers there.
    nats: async_nats::Client,
    status: String,
    endpoints: Endpoints,
}

/// What entitlements handled, for each tenant.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Audit {
    tenants: BTreeMap<String, Handled>,
}

/// What entitlements handled of one tenant.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(crate) struct Handled {
    pub(crate) events: u64,
    pub(crate) handled_twice: u64,
}

impl Audit {
    /// Of one tenant.
    pub(crate) fn of(&self, tenant: &str) -> Handled {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// Of all tenants.
    pub(crate) fn total(&self) -> u64 {
        self.tenants.values().map(|handled| handled.events).sum()
    }
}

/// What invoicing wrote, for each tenant.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Invoices {
    tenants: BTreeMap<String, Lines>,
}

/// What invoicing wrote for one tenant.
#[derive(Debug, Default, Clone, Deserialize)]
pub(crate) struct Lines {
    pub(crate) lines: u64,
    pub(crate) amounts: BTreeMap<String, i64>,
}

impl Invoices {
    /// Of one tenant.
    pub(crate) fn of(&self, tenant: &str) -> Lines {
        self.tenants.get(tenant).cloned().unwrap_or_default()
    }

    /// The lines of all tenants.
    pub(crate) fn total(&self) -> u64 {
        self.tenants.values().map(|lines| lines.lines).sum()
    }
}

/// What analytics counted for one subscription.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Report {
    pub(crate) caught_up: Option<CaughtUp>,
    pub(crate) replayed: u64,
    pub(crate) live: u64,
    rows: Vec<Row>,
}

/// What the bus told analytics when it had caught up.
#[derive(Debug, Deserialize)]
pub(crate) struct CaughtUp {
    pub(crate) at: Value,
    pub(crate) replayed: u64,
}

#[derive(Debug, Deserialize)]
struct Row {
    tenant: String,
    count: u64,
}

impl Report {
    /// The events of one tenant.
    pub(crate) fn of(&self, tenant: &str) -> u64 {
        let rows = self.rows.iter().filter(|row| row.tenant == tenant);
        rows.map(|row| row.count).sum()
    }

    /// The events of all tenants.
    pub(crate) fn total(&self) -> u64 {
        self.rows.iter().map(|row| row.count).sum()
    }
}

/// An event that was dead-lettered.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) subscription: String,
    pub(crate) tenant: String,
    pub(crate) event: String,
    pub(crate) reason: String,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) payload: Bytes,
}

/// An attempt that failed.
#[derive(Debug, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) attempt: u64,
    pub(crate) reason: String,
}

impl Observer {
    /// Where the bus's own server listens.
    pub(crate) fn server(&self) -> String {
        format!("127.0.0.1:{}", self.nats.server_info().port)
    }

    /// Looks at the parts of this run.
    pub(crate) fn new(nats: async_nats::Client, status: String, endpoints: Endpoints) -> Result<Self> {
        Ok(Self {
            http: client()?,
            nats,
            status,
            endpoints,
        })
    }

    /// The events in the log, by tenant.
    pub(crate) async fn stored(&self, tenant: &str) -> Result<u64> {
        let context = jetstream::new(self.nats.clone());
        let stream = context
            .get_stream(LOG)
            .await
            .with_context(|| format!("there is no stream {LOG}"))?;
        let subjects = stream
            .info_with_subjects(format!("payments.{tenant}.webhook.>"))
            .await
            .context("can't count the log")?;
        let counts: Vec<_> = subjects.try_collect().await.context("can't count the log")?;
        Ok(counts.iter().map(|(_, count)| *count as u64).sum())
    }

    /// The events in the log, of all tenants.
    pub(crate) async fn stored_in_all(&self) -> Result<u64> {
        self.messages(LOG).await
    }

    /// The dead letters, oldest first.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let context = jetstream::new(self.nats.clone());
        let mut stream = context
            .get_stream(DEAD)
            .await
            .with_context(|| format!("there is no stream {DEAD}"))?;
        let state = stream
            .info()
            .await
            .context("can't read the dead letters")?
            .state
            .clone();
        let mut letters = Vec::new();
        for sequence in state.first_sequence.max(1)..=state.last_sequence {
            let message = stream
                .get_raw_message(sequence)
                .await
                .context("can't read a dead letter")?;
            letters.push(DeadLetter::read(message)?);
        }
        Ok(letters)
    }

    /// A subscription as the provider sees it.
    pub(crate) async fn subscription(&self, name: &str) -> Result<SubscriptionStatus> {
        let status = bus::status(&self.nats, self.status.clone()).await?;
        status
            .subscription(name)
            .cloned()
            .with_context(|| format!("the provider knows no subscription {name}"))
    }

    /// What entitlements handled.
    pub(crate) async fn audit(&self) -> Result<Audit> {
        get_json(&self.http, &self.endpoints.entitlements.url("/audit")).await
    }

    /// The event that a customer's entitlement came from.
    pub(crate) async fn entitlement(&self, tenant: &str, customer: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Entitlement {
            event_id: String,
        }
        let path = format!("/entitlements/{tenant}/{customer}");
        let entitlement: Entitlement = get_json(&self.http, &self.endpoints.entitlements.url(&path)).await?;
        Ok(entitlement.event_id)
    }

    /// What invoicing wrote.
    pub(crate) async fn invoices(&self) -> Result<Invoices> {
        get_json(&self.http, &self.endpoints.invoicing.url("/invoices")).await
    }

    /// True when invoicing answers at all.
    pub(crate) async fn invoicing_answers(&self) -> bool {
        let answer = send(self.http.get(self.endpoints.invoicing.url("/invoices"))).await;
        answer.is_ok_and(|answer| answer.status.is_success())
    }

    /// Asks analytics to subscribe to everything from the first event on.
    pub(crate) async fn begin_backfill(&self, name: &str) -> Result<()> {
        let request = serde_json::json!({ "name": name, "from": "first", "tenants": [], "event_types": [] });
        self.begin(&request).await
    }

    /// The same, to what matches an event pattern.
    pub(crate) async fn begin_rule(&self, name: &str, pattern: &Value) -> Result<()> {
        let request = serde_json::json!({ "name": name, "from": "first", "pattern": pattern });
        self.begin(&request).await
    }

    async fn begin(&self, request: &Value) -> Result<()> {
        let url = self.endpoints.analytics.url("/backfills");
        let answer = send(self.http.post(url).json(request)).await?;
        ensure!(
            answer.status.as_u16() == 201,
            "analytics did not begin the backfill: {answer}"
        );
        Ok(())
    }

    /// What analytics counted.
    pub(crate) async fn report(&self, name: &str) -> Result<Report> {
        get_json(&self.http, &self.endpoints.analytics.url(&format!("/reports/{name}"))).await
    }

    async fn messages(&self, stream: &str) -> Result<u64> {
        let context = jetstream::new(self.nats.clone());
        let mut found = context
            .get_stream(stream)
            .await
            .with_context(|| format!("there is no stream {stream}"))?;
        Ok(found
            .info()
            .await
            .context("can't read a stream's state")?
            .state
            .messages)
    }
}

impl DeadLetter {
    /// Subject: `fanout.dead.{bus}.{subscription}.{tenant}.{partition}.{offset}.{incarnation}`.
    fn read(message: jetstream::message::StreamMessage) -> Result<Self> {
        let tokens: Vec<&str> = message.subject.split('.').collect();
        let ["fanout", "dead", _, subscription, tenant, ..] = tokens.as_slice() else {
            anyhow::bail!("a dead letter has the subject {}", message.subject);
        };
        let header = |name: &str| {
            let value = message.headers.get(name).map(|value| value.as_str().to_owned());
            value.with_context(|| format!("a dead letter has no header {name}"))
        };
        Ok(Self {
            subscription: (*subscription).to_owned(),
            tenant: (*tenant).to_owned(),
            event: header("ce-id")?,
            reason: header("fanout-dead-reason")?,
            attempts: serde_json::from_str(&header("fanout-dead-attempts")?)
                .context("a dead letter's attempts make no sense")?,
            payload: message.payload,
        })
    }
}
