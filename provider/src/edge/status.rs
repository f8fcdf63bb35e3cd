//! How an edge is doing: what it knows itself, and what its bus says of its subscriptions.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_client::component::Doing;
use fanout_plan::status::{
    BusStatus, InstanceCounts, LostEvents, ReportedProblem, State as Ours, SubscriptionStatus, Upstream,
};
use fanout_plan::{Code, Position, SubscriptionName, Timestamp};
use fanout_transport::CallContext;
use fanout_wit::types::{self as wit, SubscriptionState as Theirs};

use super::{Edge, View};
use crate::status;
use crate::telemetry::{self, AsyncSnapshot as _, Format};

/// How long the bus may take to say how it is doing.
const ASKED_FOR: Duration = Duration::from_secs(1);

impl Edge {
    /// Answers on the subjects of the status and the metrics, as a bus does.
    pub(crate) async fn serve_status(&self) -> Result<(), async_nats::SubscribeError> {
        for what in ["status", "metrics"] {
            let lattice = self.0.lattice.clone();
            let subject = format!("fanout.{}.{}.{what}", self.0.lattice_name, self.0.provider);
            let requests = lattice.nats().queue_subscribe(subject.clone(), subject).await?;
            let edge = self.clone();
            tokio::spawn(status::answer(lattice, requests, what, async move || match what {
                "metrics" => telemetry::render(&edge.snapshot().await, Format::Prometheus),
                _ => status::as_json(&edge.document().await),
            }));
        }
        Ok(())
    }

    pub(crate) async fn document(&self) -> BusStatus {
        let upstream = &self.0.upstream;
        let asked = upstream.subscriptions(&CallContext::within(ASKED_FOR)).await;
        let unreached = upstream.trouble();
        let (theirs, refused) = match asked {
            Ok(listed) => (listed.into_iter().map(|s| (s.name.clone(), s)).collect(), None),
            Err(refused) => (BTreeMap::new(), Some(refusal(refused))),
        };
        let view = self.view();
        BusStatus {
            provider: Some(self.0.provider.clone()),
            upstream: Some(Upstream {
                url: self.0.settings.upstream.clone(),
                is_reached: unreached.is_none(),
                problem: unreached.clone().or(refused).map(problem),
            }),
            links: status::links(&view.links),
            subscriptions: view
                .served
                .keys()
                .map(|name| subscription(&view, name, theirs.get(name.as_str()), unreached.as_ref()))
                .collect(),
            ..BusStatus::default()
        }
    }
}

fn subscription(
    view: &View,
    name: &SubscriptionName,
    theirs: Option<&wit::Subscription>,
    unreached: Option<&wit::Problem>,
) -> SubscriptionStatus {
    let served = &view.served[name];
    let waiting = view.waiting(name, unreached);
    let state = view.states.get(name);
    let (handled, refused) = state.map(|s| s.counts()).unwrap_or_default();
    let finished = state.is_some_and(|s| matches!(s.doing(), Doing::Finished));
    let (state, why) = match theirs.map(|s| &s.state) {
        Some(Theirs::Paused) => (Ours::Paused, None),
        Some(Theirs::Finished) => (Ours::Finished, None),
        _ if finished => (Ours::Finished, None),
        _ if waiting.is_some() => (Ours::Waiting, waiting),
        Some(Theirs::Waiting(p)) => (Ours::Waiting, Some(p.clone())),
        Some(Theirs::CatchingUp) => (Ours::CatchingUp, None),
        Some(Theirs::Active) => (Ours::Active, None),
        None => (
            Ours::Waiting,
            Some(unreached.cloned().unwrap_or_else(|| not_made(name))),
        ),
    };
    let mut status = SubscriptionStatus {
        need: Some(served.subscription.need.as_str().to_owned()),
        component: Some(served.component.clone()),
        pattern: served.subscription.filter.pattern().map(|p| p.as_str().to_owned()),
        made_by: Some(served.made_by),
        state,
        problem: why.map(problem),
        this_instance: Some(InstanceCounts {
            handled,
            refused,
            ..InstanceCounts::default()
        }),
        ..SubscriptionStatus::named(name.clone())
    };
    // What the bus did not say is left out, not guessed.
    if let Some(theirs) = theirs {
        status.pending = Some(theirs.pending);
        status.in_flight = Some(theirs.in_flight);
        status.redelivered = Some(theirs.redelivered);
        status.waiting_for_retry = Some(theirs.waiting_for_retry);
        status.expires_at = theirs.expires_at.map(Timestamp::from_nanoseconds);
        status.lost = theirs.lost.iter().map(lost).collect();
        status.lost_events = Some(status.lost.iter().map(|l| l.count).sum());
    }
    status
}

fn lost(lost: &wit::LostEvents) -> LostEvents {
    let place = |p: wit::Position| Position {
        partition: p.partition,
        offset: p.offset,
    };
    LostEvents {
        first: place(lost.first),
        last: place(lost.last),
        count: lost.count,
        // A bus tells them to its operator.
        tenants: BTreeMap::new(),
        exact: lost.exact,
        at: Timestamp::from_nanoseconds(lost.at),
    }
}

fn not_made(name: &SubscriptionName) -> wit::Problem {
    wit::Problem {
        code: Code::BusNotReady.to_string(),
        message: format!("subscription {name} is not made at the bus yet"),
    }
}

fn problem(p: wit::Problem) -> ReportedProblem {
    ReportedProblem {
        code: p.code,
        message: p.message,
        setting: None,
    }
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
