//! What became of an event, for whoever may call `status` and read the event: at the caller's own subscriptions.
//!
//! It is asked of the store, and costs it more than a publish: one at a time for each caller, a few for all, and not for long.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use fanout_plan::subscription::Start;
use fanout_plan::{Code, Filter, Position, Problem, TenantId, link};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::call::Call;
use super::parameters::unreadable;
use super::problem::Refused;
use super::tail::permitted;
use crate::bus::Bus;
use crate::contract::exports::known;
use crate::inbox::Waiting;
use crate::jetstream::{LogEvent, StoreError};
use crate::life::Life;

/// Look-ups of one caller, and of all, at once.
const OF_ONE: usize = 1;
const OF_ALL: usize = 4;
/// How long one may take: less than a request may.
const WITHIN: Duration = Duration::from_secs(8);

/// What look-ups are made from.
#[derive(Clone)]
pub(super) struct LookUps {
    bus: Bus,
    under_way: Waiting,
}

impl LookUps {
    pub(super) fn new(bus: Bus) -> Self {
        Self {
            bus,
            under_way: Waiting::new(OF_ONE, OF_ALL),
        }
    }
}

/// The events that were found: an id stands for several where sources differ, or its window is over.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Lives {
    events: Vec<LifeDocument>,
}

/// What is known of one event.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LifeDocument {
    /// Where it stands in the log.
    position: String,
    /// When the bus stored it, RFC 3339.
    published_at: String,
    /// When the log lets it go, at the latest.
    expires_at: String,
    /// Where the store keeps it: `partition`, `stream`, `copies`, and how many of those are `up_to_date`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<Value>,
    /// Who published it and by which proof: its `state` is `known` with `by`, `link`, `proof` and `name`; or `unknown`,
    /// `not-believed`, `unverified`.
    publisher: Value,
    tenant: String,
    #[serde(rename = "type")]
    event_type: String,
    /// Every attribute as it came, under its `ce-` name.
    attributes: BTreeMap<String, String>,
    /// Of its payload.
    bytes: usize,
    /// What became of it at each subscription of the caller's: its `state`, what `stops` it, `attempts`, `next_attempt`, and
    /// `deliveries` where the journal has them.
    subscriptions: Vec<Value>,
    /// How much the journal could know.
    journal: Value,
}

impl From<Life> for LifeDocument {
    fn from(life: Life) -> Self {
        let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
        Self {
            position: life.position.to_string(),
            published_at: life.published_at,
            expires_at: life.expires_at,
            stored: life.stored.map(|stored| json(serde_json::to_value(stored))),
            publisher: json(serde_json::to_value(&life.publisher)),
            tenant: life.tenant.to_string(),
            event_type: life.event_type.to_string(),
            attributes: life.attributes,
            bytes: life.bytes,
            subscriptions: life
                .subscriptions
                .iter()
                .map(|s| json(serde_json::to_value(s)))
                .collect(),
            journal: json(serde_json::to_value(&life.journal)),
        }
    }
}

/// Which event is asked for.
enum Which<'a> {
    At(Position),
    Of {
        tenant: TenantId,
        id: &'a str,
        source: Option<&'a str>,
    },
}

/// `GET /v1/life`
pub(super) async fn life(State(look_ups): State<LookUps>, call: Call) -> Result<Json<Lives>, Refused> {
    let parameters = call.parameters(&["tenant", "id", "source", "position"])?;
    let tenants: Vec<TenantId> = parameters
        .optional("tenant")?
        .map_or(Ok(Vec::new()), |_| parameters.all("tenant"))?;
    let position = parameters.optional("position")?;
    for beside in ["tenant", "id", "source"] {
        if position.is_some() && parameters.optional(beside)?.is_some() {
            return Err(Refused::invalid_request(format!(
                "query parameters `position` and `{beside}` name two events, which may be others: name it by its `position` alone, or by its `tenant` and its `id`"
            )));
        }
    }
    let which = match (position, tenants.into_iter().next()) {
        (Some(at), _) => match link::start(at).map_err(|p| unreadable("position", &p))? {
            Start::Position(position) => Which::At(position),
            _ => {
                return Err(Refused::invalid_request(
                    "query parameter `position`: write PARTITION/OFFSET, such as 0/42",
                ));
            }
        },
        (None, Some(tenant)) => Which::Of {
            tenant,
            id: parameters.required("id")?,
            source: parameters.optional("source")?,
        },
        (None, None) => {
            return Err(Refused::invalid_request(
                "name the event: by `position`, or by its `tenant` and its `id`",
            ));
        }
    };
    let view = look_ups.bus.view();
    let store = view.store()?.clone();
    // Whose events a caller may read is known before the store is asked.
    let asked = match &which {
        Which::At(_) => Filter::all(),
        Which::Of { tenant, .. } => Filter::new(vec![tenant.clone()], Vec::new()),
    };
    let may_read = permitted(&view, call.caller(), &asked)?;
    let component = known(&*view, call.caller().clone()).component;
    let Some(_permit) = look_ups.under_way.enter(&component) else {
        return Err(Problem::new(
            Code::TooManyLookUps,
            format!("{OF_ONE} event of this caller, or {OF_ALL} of all, are looked up at this instance: ask again"),
        )
        .into());
    };
    let until = Instant::now() + WITHIN;
    let unavailable =
        |error: &dyn std::fmt::Display| Problem::new(Code::StoreUnavailable, format!("{error}: try again"));
    let is_by_id = matches!(which, Which::Of { .. });
    let find = async {
        Ok::<_, StoreError>(match which {
            Which::At(position) => store.event_at(position).await?.into_iter().collect(),
            Which::Of { tenant, id, source } => store.events_of(&tenant, id, source, |_| {}).await?,
        })
    };
    let mut found: Vec<LogEvent> = match timeout_at(until, find).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(unavailable(&error).into()),
        Err(_) if is_by_id => {
            return Err(Problem::new(
                Code::LimitExceeded,
                format!("the tenant has more events than can be looked at in {} s: ask by `position`, which a receipt has, or use `fanout event`", WITHIN.as_secs()),
            )
            .into());
        }
        Err(_) => return Err(unavailable(&"the store did not read the event in time").into()),
    };
    found.retain(|event| may_read.allows(&event.tenant, &event.event_type));
    let tell = async {
        let mut lives: Vec<Life> = Vec::new();
        // The rest is for the store itself, without which nothing is known.
        let mut journal_until = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
        for event in &found {
            let journal_within = journal_until.saturating_duration_since(Instant::now());
            let life = Life::of(&store, &view.registry, Some(&component), event, journal_within).await?;
            if life.journal.unread.is_some() {
                journal_until = Instant::now();
            }
            lives.push(life);
        }
        Ok::<_, StoreError>(lives)
    };
    let lives = match timeout_at(until, tell).await {
        Ok(Ok(lives)) => lives,
        Ok(Err(error)) => return Err(unavailable(&error).into()),
        Err(_) => return Err(unavailable(&"the store did not tell in time what became of the event").into()),
    };
    if lives.is_empty() {
        return Err(Problem::new(
            Code::UnknownEvent,
            "the bus holds no such event that this caller may read: it was never accepted, is scheduled and not due yet, expired, or was purged",
        )
        .into());
    }
    Ok(Json(Lives {
        events: lives.into_iter().map(LifeDocument::from).collect(),
    }))
}
