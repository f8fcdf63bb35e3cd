//! `status`: a component's own links, at a bus and at an edge.

use std::collections::BTreeMap;

use fanout_transport::Caller;

use super::convert::problem;
use super::serve::Exports;
use crate::link::LinkKey;
use crate::view::LinkOutcome;
use fanout_wit::bus::exports::fanout::bus::status::Handler;
use fanout_wit::types::{LinkState, LinkStatus};

impl Handler<Caller> for Exports {
    async fn links(&self, caller: Caller) -> anyhow::Result<Vec<LinkStatus>> {
        Ok(of(&caller, &self.bus.view().links))
    }
}

/// What came of the caller's links.
pub(super) fn of(caller: &Caller, links: &BTreeMap<LinkKey, LinkOutcome>) -> Vec<LinkStatus> {
    links
        .iter()
        .filter(|(key, _)| key.component == caller.component)
        .map(|(key, outcome)| LinkStatus {
            name: key.name.clone(),
            subscription: outcome.subscription.as_ref().map(ToString::to_string),
            state: if outcome.problems.is_empty() {
                LinkState::Applied
            } else {
                LinkState::Refused(outcome.problems.iter().cloned().map(problem).collect())
            },
        })
        .collect()
}
