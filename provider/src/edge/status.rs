//! How an edge is doing: what it knows itself, and what its bus says of its subscriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_client::component::Doing;
use fanout_plan::{Code, timestamp};
use fanout_transport::CallContext;
use fanout_wit::types::{self as wit, SubscriptionState as Theirs};
use serde_json::{Value, json};

use super::{Edge, View};
use crate::status;

/// How long the bus may take to say how it is doing.
const ASKED_FOR: Duration = Duration::from_secs(1);

impl Edge {
    /// Answers on the subject of the status, as a bus does.
    pub(crate) async fn serve_status(&self) -> Result<(), async_nats::SubscribeError> {
        let lattice = self.0.lattice.clone();
        let subject = format!("fanout.{}.{}.status", self.0.lattice_name, self.0.provider);
        let requests = lattice.nats().queue_subscribe(subject.clone(), subject).await?;
        let edge = self.clone();
        tokio::spawn(status::answer(lattice, requests, "status", async move || {
            edge.document().await.to_string()
        }));
        Ok(())
    }

    async fn document(&self) -> Value {
        let upstream = &self.0.upstream;
        let asked = upstream.subscriptions(&CallContext::within(ASKED_FOR)).await;
        let unreached = upstream.trouble();
        let (theirs, refused) = match asked {
            Ok(listed) => (listed.into_iter().map(|s| (s.name.clone(), s)).collect(), None),
            Err(refused) => (BTreeMap::new(), Some(refusal(refused))),
        };
        let view = self.view();
        let subscriptions: Vec<_> = view
            .served
            .keys()
            .map(|name| subscription(&view, name, theirs.get(name.as_str()), unreached.as_ref()))
            .collect();
        let links: Vec<_> = view
            .links
            .iter()
            .map(|(key, outcome)| {
                json!({
                    "component": key.component,
                    "name": key.name,
                    "role": key.role.as_str(),
                    "subscription": outcome.subscription,
                    "state": if outcome.problems.is_empty() { "applied" } else { "refused" },
                    "problems": outcome.problems,
                })
            })
            .collect();
        json!({
            "provider": self.0.provider,
            "role": "edge",
            "upstream": self.0.settings.upstream,
            "upstream_state": if unreached.is_some() { "away" } else { "reached" },
            "upstream_problem": unreached.or(refused).map(|p| problem(&p)),
            // The policy is the bus's.
            "policy": { "state": "applied", "problems": [] },
            "links": links,
            "subscriptions": subscriptions,
        })
    }
}

fn subscription(
    view: &View,
    name: &fanout_plan::SubscriptionName,
    theirs: Option<&wit::Subscription>,
    unreached: Option<&wit::Problem>,
) -> Value {
    let served = &view.served[name];
    let waiting = view.waiting(name, unreached);
    let state = view.states.get(name);
    let (handled, refused) = state.map(|s| s.counts()).unwrap_or_default();
    let finished = state.is_some_and(|s| matches!(s.doing(), Doing::Finished));
    let (word, problem_there) = match theirs.map(|s| &s.state) {
        Some(Theirs::Paused) => ("paused", None),
        Some(Theirs::Finished) => ("finished", None),
        _ if finished => ("finished", None),
        _ if waiting.is_some() => ("waiting", None),
        Some(Theirs::Waiting(p)) => ("waiting", Some(p.clone())),
        Some(Theirs::CatchingUp) => ("catching-up", None),
        Some(Theirs::Active) => ("active", None),
        None => ("waiting", Some(unreached.cloned().unwrap_or_else(|| not_made(name)))),
    };
    let shown = (word == "waiting").then(|| problem_there.or(waiting)).flatten();
    let mut document = json!({
        "name": name,
        "need": served.subscription.need.as_str(),
        "component": served.component,
        "made_by": served.made_by,
        "state": word,
        "problem": shown.map(|p| problem(&p)),
        "this_instance": { "handled": handled, "refused": refused },
    });
    // What the bus did not say is left out, not guessed.
    if let Some(theirs) = theirs {
        document["pending"] = json!(theirs.pending);
        document["in_flight"] = json!(theirs.in_flight);
        document["redelivered"] = json!(theirs.redelivered);
        document["waiting_for_retry"] = json!(theirs.waiting_for_retry);
        document["expires_at"] = json!(theirs.expires_at.map(timestamp::to_rfc3339));
        let lost: u64 = theirs.lost.iter().map(|l| l.count).sum();
        document["lost_events"] = json!(lost);
    }
    document
}

fn not_made(name: &fanout_plan::SubscriptionName) -> wit::Problem {
    wit::Problem {
        code: Code::BusNotReady.to_string(),
        message: format!("subscription {name} is not made at the bus yet"),
    }
}

fn problem(p: &wit::Problem) -> Value {
    json!({ "code": p.code, "message": p.message })
}

fn refusal(e: wit::SubscribeError) -> wit::Problem {
    match e {
        wit::SubscribeError::InvalidRequest(p)
        | wit::SubscribeError::NotPermitted(p)
        | wit::SubscribeError::Conflict(p)
        | wit::SubscribeError::UnknownSubscription(p)
        | wit::SubscribeError::Unavailable(p)
        | wit::SubscribeError::OutcomeUnknown(p) => p,
    }
}
