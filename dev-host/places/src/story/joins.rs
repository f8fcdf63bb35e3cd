//! A place joins: it has what the others retain from the oldest event on, and says when it has caught up. Nothing stands still.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::{CATCH_UP_LIMIT, LOOK_EVERY, Story};
use crate::load::{Route, Sender};
use crate::place::Place;
use crate::wait::{Check, until};
use crate::world::{OREGON, Revision, VIRGINIA};

/// What the status says of a mirror that has everything.
const CAUGHT_UP: &str = "has caught up";

/// Oregon is a place.
const REVISION: Revision = Revision {
    number: 2,
    virginia: Some(""),
    has_oregon: true,
    invoicing_at: VIRGINIA,
};

impl Story<'_> {
    pub(super) async fn joins(&mut self) -> Result<()> {
        self.act("Oregon joins, and mirrors from the oldest event");
        let (text, before) = (REVISION.text(), self.everything().len() as u64);
        self.world.add_server(OREGON).await?;
        let began = self.console.elapsed();
        let oregon = self.world.open(OREGON, &text).await?;
        let mirrored = self.has_caught_up(&oregon).await?;
        let took = (self.console.elapsed() - began).as_secs_f64();
        self.checks.at_least(
            "events that oregon mirrored, of those that there were when it joined",
            before,
            mirrored,
        );
        self.console.timed(format!(
            "Oregon {CAUGHT_UP}: {mirrored} events of three places, {took:.1} s after its instance was started"
        ));

        for place in &self.places {
            place.is_brought_to(&text).await?;
        }
        self.places.push(Arc::clone(&oregon));
        let ingress = Sender::Webhook(self.world.ingress(&oregon).await?);
        self.from_virginia.then_to(OREGON, ingress.clone()).await;
        self.publish(OREGON, Route::to(OREGON, ingress));
        self.handle_at(&oregon);
        self.are_joined().await?;
        let since = self.taken();
        self.goes_on_publishing(&since).await?;
        self.invoicing_caught_up().await?;
        self.console.timed(format!(
            "every place mirrors Oregon, too: invoicing, in Virginia, was given all of the {} webhooks that Oregon took by now",
            self.taken_at(OREGON)
        ));
        Ok(())
    }

    /// Waits until a place says that it has caught up with each of the others. Returns how many events it has of them.
    async fn has_caught_up(&self, joins: &Place) -> Result<u64> {
        let what = format!("{} to say that it has caught up", joins.name);
        until(&what, CATCH_UP_LIMIT, LOOK_EVERY, async || {
            let said = joins.operator.says("status", &[]).await?;
            let caught_up = said.matches(CAUGHT_UP).count();
            Ok(match caught_up == self.places.len() {
                true => Check::Found(()),
                false => Check::NotYet(format!("it says so of {caught_up}")),
            })
        })
        .await?;
        let mirrors = joins.mirrors().await.context("it had said how far its mirrors are")?;
        Ok(mirrors.iter().map(|mirror| mirror.reached).sum())
    }
}
