//! The story, act by act. An act notes what must hold; the verdict says whether all of it did.

mod cut;
mod joins;
mod migrated;
mod moved;
mod retired;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fanout_tests::hosted::Hosted;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checks::Checks;
use crate::cli::Cli;
use crate::console::Console;
use crate::handler::Handler;
use crate::ledger::{Ledger, Where};
use crate::load::{Publisher, Route, Sender};
use crate::place::Place;
use crate::wait::{Check, until};
use crate::world::{self, FRANKFURT, INVOICING, ORIGINS, SHOP, STOCK, VIRGINIA, World};

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
    /// In Frankfurt and Virginia. An ingress ends before its bus.
    ingresses: [Arc<Hosted>; 2],
    /// Where the webhooks of Virginia go.
    from_virginia: Route,
    /// The places of the bus, at this point of the story.
    places: Vec<Arc<Place>>,
}

/// How many events each place has taken.
type Taken = BTreeMap<Where, u64>;

/// Tells the story.
pub(crate) async fn run(cli: &Cli, console: &Console) -> Result<()> {
    console.line(
        "Fanout: one bus in two regions and a leaf, over links that are cut; a region that joins, and one that is retired; and a bus that moves \
         to another server",
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
    let (places, ingresses) = world.begin().await?;
    let from_virginia = Route::to(VIRGINIA, Sender::Webhook(Arc::clone(&ingresses[1])));
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
        ingresses,
        from_virginia,
        places,
    };
    story.joined().await?;
    for which in [&[0][..], &[1], &[0, 1]] {
        story.cut(which).await?;
    }
    story.moved().await?;
    story.joins().await?;
    story.retired().await?;
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
        let server = self.world.hub.client().await.server_info().version;
        self.console.timed(format!(
            "nats-server {server}, a bus at each of {}, webhook-ingress in both regions",
            self.names().join(", ")
        ));
        self.are_joined().await?;
        self.console.timed("every place mirrors the others");
        let in_frankfurt = Sender::Webhook(Arc::clone(&self.ingresses[0]));
        let in_the_shop = Sender::client(self.place(SHOP)?.bus.clone());
        self.publish(FRANKFURT, Route::to(FRANKFURT, in_frankfurt));
        self.publish(VIRGINIA, self.from_virginia.clone());
        self.publish(SHOP, Route::to(SHOP, in_the_shop));
        for place in self.places.clone() {
            self.handle_at(&place);
        }
        let since = self.taken();
        self.goes_on_publishing(&since).await?;
        self.invoicing_caught_up().await?;
        self.console.timed(format!(
            "{} webhooks in Frankfurt, {} in Virginia, {} sales in the shop: invoicing, in Frankfurt, was given all of them",
            self.taken_at(FRANKFURT),
            self.taken_at(VIRGINIA),
            self.taken_at(SHOP)
        ));
        Ok(())
    }

    fn publish(&mut self, name: Where, route: Route) {
        let ledger = Arc::clone(&self.ledger);
        let publisher = Publisher { name, route, ledger };
        self.publishers.spawn(publisher.publish(self.publishing.clone()));
    }

    /// Handles what both subscriptions are given at a place.
    fn handle_at(&mut self, place: &Place) {
        for subscription in [INVOICING, STOCK] {
            self.handle(subscription, place.name, place.bus.clone());
        }
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

    /// One of the places of now.
    fn place(&self, name: Where) -> Result<Arc<Place>> {
        let place = self.places.iter().find(|place| place.name == name);
        place
            .map(Arc::clone)
            .with_context(|| format!("{name} is no place of the bus now"))
    }

    /// The places of the bus now.
    fn names(&self) -> Vec<Where> {
        self.places.iter().map(|place| place.name).collect()
    }

    async fn are_joined(&self) -> Result<()> {
        world::are_joined(&self.places).await
    }

    fn taken_at(&self, place: Where) -> u64 {
        self.ledger.accepted(place).len() as u64
    }

    /// How many events each place of now has taken.
    fn taken(&self) -> Taken {
        let taken = self.names().into_iter().map(|place| (place, self.taken_at(place)));
        taken.collect()
    }

    /// How many they have taken since.
    fn taken_since(&self, since: &Taken) -> Taken {
        let before = |place| since.get(place).copied().unwrap_or_default();
        let taken = self
            .taken()
            .into_iter()
            .map(|(place, taken)| (place, taken - before(place)));
        taken.collect()
    }

    /// Waits until every place has taken the act's events since it had taken those.
    async fn goes_on_publishing(&mut self, since: &Taken) -> Result<()> {
        let wanted = self.events * self.places.len() as u64;
        let progress = self.console.progress("events published", wanted);
        until(
            "every place to go on publishing",
            CATCH_UP_LIMIT,
            LOOK_EVERY,
            async || {
                self.publishers_go_on()?;
                let taken = self.taken_since(since);
                let done: u64 = taken.values().map(|taken| (*taken).min(self.events)).sum();
                progress.set(done);
                Ok(match done == wanted {
                    true => Check::Found(()),
                    false => Check::NotYet(format!("{taken:?}")),
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
        ORIGINS.iter().flat_map(|place| self.ledger.accepted(place)).collect()
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
