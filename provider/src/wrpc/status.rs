//! `status`: a component's own links.

use fanout_transport::Caller;

use super::bindings::exports::fanout::bus::status::{Handler, LinkState, LinkStatus};
use super::convert::problem;
use super::serve::Exports;

impl Handler<Caller> for Exports {
    async fn links(&self, caller: Caller) -> anyhow::Result<Vec<LinkStatus>> {
        let view = self.bus.view();
        let mine = view.links.iter().filter(|(key, _)| key.component == caller.component);
        Ok(mine
            .map(|(key, outcome)| LinkStatus {
                name: key.name.clone(),
                subscription: outcome.subscription.as_ref().map(ToString::to_string),
                state: if outcome.problems.is_empty() {
                    LinkState::Applied
                } else {
                    LinkState::Refused(outcome.problems.iter().cloned().map(problem).collect())
                },
            })
            .collect())
    }
}
