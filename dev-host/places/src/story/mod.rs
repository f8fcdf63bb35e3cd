//! The story, act by act. An act notes what must hold; the verdict says whether all of it did.

mod cut;
mod migrated;
mod moved;
mod verdict;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checks::Checks;
use crate::cli::Cli;
use crate::console::Console;
use crate::handler::Handler;
use crate::ledger::{Ledger, Where};
use crate::load::Sender;
use crate::wait::{Check, until};
use crate::world::{INVOICING, PLACES, STOCK, World};

/// For everything that comes about by itself. A mirror whose link was cut resumes up to a minute after it is back (nats-server 2.15.1).
pub(crate) const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The story and what it has at hand.
struct Story<'a> {
    console: &'a Console,
    world: &'a World,
    ledger: Arc<Ledger>,
    checks: Checks,
    /// Each place publishes as many in each act.
    events: u64,
    publishing: CancellationToken,
    publishers: JoinSet<Result<()>>,
    handlers: JoinSet<()>,
    acts: u32,
}

/// Tells the story.
pub(crate) async fn run(cli: &Cli, console: &Console) -> Result<()> {
    console.line(
        "Fanout: one bus in two regions and a leaf, over links that are cut; and a bus that moves to another server",
    );
    let world = World::start(cli).await?;
    let told = tell(cli, console, &world).await;
    if told.is_err() {
        let kept = world.keep_logs(&cli.logs)?;
        console.line(format!("Logs: {}", kept.display()));
    }
    told
}

async fn tell(cli: &Cli, console: &Console, world: &World) -> Result<()> {
    let mut story = Story {
        console,
        world,
        ledger: Arc::default(),
        checks: Checks::default(),
        events: cli.events.into(),
        publishing: CancellationToken::new(),
        publishers: JoinSet::new(),
        handlers: JoinSet::new(),
        acts: 0,
    };
    story.joined().await?;
    for which in [&[0][..], &[1], &[0, 1]] {
        story.cut(which).await?;
    }
    story.moved().await?;
    let migrated = story.migrated().await?;
    story.verdict(cli, migrated).await
}

impl Story<'_> {
    fn act(&mut self, title: impl AsRef<str>) {
        self.acts += 1;
        self.console.line("");
        self.console.line(format!("{}  {}", self.acts, title.as_ref()));
    }

    /// The places join; publishers and handlers begin, and go on until the end.
    async fn joined(&mut self) -> Result<()> {
        self.act("One bus at three places: two regions, and a shop that is a leaf of one");
        let server = self.world.places[0].nats.client().await.server_info().version;
        self.console.timed(format!(
            "nats-server {server}, a bus at each of {}, webhook-ingress in both regions",
            PLACES.join(", ")
        ));
        self.world.is_joined().await?;
        self.console.timed("every place mirrors the others");
        for (n, place) in self.world.places.iter().enumerate() {
            let sender = match self.world.ingresses.get(n) {
                Some(ingress) => Sender::Webhook(Arc::clone(ingress)),
                None => Sender::client(place.bus.clone()),
            };
            self.publish(place.name, sender);
            for subscription in [INVOICING, STOCK] {
                self.handle(subscription, place.name, place.bus.clone());
            }
        }
        let since = self.accepted();
        self.goes_on_publishing(&since).await?;
        self.invoicing_caught_up().await?;
        self.console.timed(format!(
            "{} webhooks in Frankfurt, {} in Virginia, {} sales in the shop: invoicing, in Frankfurt, was given all of them",
            self.accepted()[0],
            self.accepted()[1],
            self.accepted()[2]
        ));
        Ok(())
    }

    fn publish(&mut self, origin: Where, sender: Sender) {
        let publishing = sender.publish(origin, Arc::clone(&self.ledger), self.publishing.clone());
        self.publishers.spawn(publishing);
    }

    fn handle(&mut self, subscription: &'static str, place: Where, bus: fanout_client::Bus) {
        let handler = Handler {
            subscription,
            place,
            bus,
            ledger: Arc::clone(&self.ledger),
        };
        self.handlers.spawn(handler.handle());
    }

    /// How many events each place has taken.
    fn accepted(&self) -> [u64; 3] {
        PLACES.map(|place| self.ledger.accepted(place).len() as u64)
    }

    /// Waits until every place has taken the act's events since it had taken those.
    async fn goes_on_publishing(&mut self, since: &[u64; 3]) -> Result<()> {
        let wanted = self.events * PLACES.len() as u64;
        let progress = self.console.progress("events published", wanted);
        until(
            "every place to go on publishing",
            CATCH_UP_LIMIT,
            LOOK_EVERY,
            async || {
                self.publishers_go_on()?;
                let taken: Vec<_> = self
                    .accepted()
                    .iter()
                    .zip(since)
                    .map(|(now, then)| now - then)
                    .collect();
                let done: u64 = taken.iter().map(|taken| (*taken).min(self.events)).sum();
                progress.set(done);
                Ok(match done == wanted {
                    true => Check::Found(()),
                    false => Check::NotYet(format!("{taken:?} at {}", PLACES.join(", "))),
                })
            },
        )
        .await
    }

    /// An error is that of one that ended.
    fn publishers_go_on(&mut self) -> Result<()> {
        match self.publishers.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and_then(|()| anyhow::bail!("a publisher ended before it was told to")),
        }
    }

    /// Every event of every place.
    fn everything(&self) -> BTreeSet<String> {
        PLACES.iter().flat_map(|place| self.ledger.accepted(place)).collect()
    }

    /// Waits until invoicing has handled everything that was published by now, anywhere.
    async fn invoicing_caught_up(&self) -> Result<()> {
        self.handled(INVOICING, &self.everything()).await
    }

    /// Waits until a subscription has handled these events.
    async fn handled(&self, subscription: &'static str, events: &BTreeSet<String>) -> Result<()> {
        let progress = self
            .console
            .progress(format!("handled by {subscription}"), events.len() as u64);
        let what = format!("{subscription} to handle {} events", events.len());
        until(&what, CATCH_UP_LIMIT, LOOK_EVERY, async || {
            let account = self.ledger.account(subscription, events);
            progress.set(account.total());
            Ok(match account.missing.first() {
                None => Check::Found(()),
                Some(first) => Check::NotYet(format!("{} are missing, {first} among them", account.missing.len())),
            })
        })
        .await
    }

    /// Ends the handlers, which have nothing in hand.
    async fn stop_handling(&mut self) -> Result<()> {
        self.handlers.abort_all();
        while let Some(ended) = self.handlers.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                return Err(error).context("a handler panicked");
            }
        }
        Ok(())
    }

    /// Stops the publishers, each of which has the event that it is at stored.
    async fn stop_publishing(&mut self) -> Result<()> {
        self.publishing.cancel();
        while let Some(ended) = self.publishers.join_next().await {
            ended.context("a publisher panicked")??;
        }
        Ok(())
    }
}
