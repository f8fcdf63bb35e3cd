//! `inbox.fetch` over HTTP: a long poll.

use axum::Json;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanout_wit::INBOX;
use fanout_wit::types::{FetchedDeliveries, InboxError, LeasedDelivery, Origin};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::call::Call;
use super::cloud_event::CloudEvent;
use super::events::position;
use super::problem::Refused;
use crate::contract::convert;

/// What is fetched where nothing is said.
const DEFAULT_DELIVERIES: u32 = 100;

/// How much is to be fetched, and how long it may take.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fetch {
    /// The most deliveries.
    #[schemars(range(min = 1, max = 1000))]
    max_deliveries: u32,
    /// The most bytes of all events together, or one delivery; the bus's own limit where it is absent or greater.
    max_bytes: Option<u64>,
    /// The longest wait for the first delivery, in milliseconds. The bus may answer earlier without any, and does so after
    /// 8,000 at the latest.
    wait_ms: u32,
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            max_deliveries: DEFAULT_DELIVERIES,
            max_bytes: None,
            wait_ms: 0,
        }
    }
}

/// The deliveries of one fetch.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Fetched {
    /// Oldest first; empty when nothing came within the wait.
    deliveries: Vec<Delivery>,
    /// How long the leases last: milliseconds from when the bus took the deliveries from the log.
    lease_ms: u64,
    /// Present once a backfill has caught up.
    #[serde(skip_serializing_if = "Option::is_none")]
    caught_up: Option<CatchUp>,
}

/// How a backfill stands that has delivered all that the log held when it was made.
#[derive(Debug, Serialize, JsonSchema)]
struct CatchUp {
    /// How many events that were.
    replayed: u64,
    /// True when it has an end and reached it: nothing more will come.
    finished: bool,
}

/// A delivery that is leased to its fetcher.
#[derive(Debug, Serialize, JsonSchema)]
struct Delivery {
    /// Settles it; of this caller alone.
    token: String,
    /// The subscription it belongs to.
    subscription: String,
    /// Where the event stands in the log, `PARTITION/OFFSET`.
    position: String,
    /// 1 for the first attempt.
    attempt: u32,
    /// Whether the event was in the log before the subscription began or caught up.
    replayed: bool,
    /// When the bus stored the event, RFC 3339.
    published_at: String,
    /// The W3C trace context that it was published in.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// The event.
    event: CloudEvent,
}

impl From<LeasedDelivery> for Delivery {
    fn from(leased: LeasedDelivery) -> Self {
        let d = leased.delivery;
        Self {
            token: URL_SAFE_NO_PAD.encode(&leased.token),
            subscription: d.subscription,
            position: position(&d.position),
            attempt: d.attempt,
            replayed: d.origin == Origin::Replayed,
            published_at: convert::rfc3339(d.published_at),
            traceparent: leased.traceparent,
            event: CloudEvent(d.event),
        }
    }
}

/// `POST /v1/subscriptions/{name}:fetch`
pub(super) async fn fetch(call: &Call, name: &str, fetch: &Fetch) -> Result<Json<Fetched>, Refused> {
    let parameters = (name, fetch.max_deliveries, fetch.max_bytes, fetch.wait_ms);
    let fetched: Result<FetchedDeliveries, InboxError> = call.invoke(INBOX, "fetch", parameters).await?;
    let fetched = fetched?;
    Ok(Json(Fetched {
        deliveries: fetched.deliveries.into_iter().map(Delivery::from).collect(),
        lease_ms: fetched.lease_ms,
        caught_up: fetched.caught_up.map(|c| CatchUp {
            replayed: c.replayed,
            finished: c.finished,
        }),
    }))
}
