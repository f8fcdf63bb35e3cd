//! `status`: a caller's own links.

use fanout_transport::{Caller, Shape};
use fanout_wit::bus::exports::fanout::bus::status::Handler;
use fanout_wit::types::{LinkState, LinkStatus};

use super::backend::{Backend, Rights as _};
use super::convert::problem;
use super::exports::Exports;

/// The parameters of its functions.
pub(super) fn shape(func: &str) -> Option<&'static Shape> {
    (func == "links").then_some(&Shape::Fields(&[]))
}

impl<B: Backend> Handler<Caller> for Exports<B> {
    async fn links(&self, caller: Caller) -> anyhow::Result<Vec<LinkStatus>> {
        let view = self.backend.view();
        let mine = view.links().iter().filter(|(key, _)| key.component == caller.component);
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
