//! `fanout migrate`: a whole bus goes to another server, while it is published to and delivers.
//!
//! It is a bus without places, beside that which has them: one with places moves by joining, mirroring and retiring.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use fanout_tests::LeafNodes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::Mutex;

use super::{CATCH_UP_LIMIT, LOOK_EVERY, Story};
use crate::ledger::Where;
use crate::load::{Route, Sender};
use crate::place::Place;
use crate::servers;
use crate::wait::{Check, until};
use crate::world::SETTINGS;

/// The origin of the bus's events, and the file of its policy.
pub(super) const ORDERS: Where = "orders";
pub(super) const FULFILMENT: &str = "fulfilment";
pub(super) const OLD: Where = "the old server";
pub(super) const NEW: Where = "the new server";

const POLICY: &str = "\
bus = \"orders\"
subject = \"orders.{tenant}.shop.{event-type}\"

[subscriptions.fulfilment]
need = \"durable\"
component = \"caller:anyone\"
";

/// Deliveries stand still from then on, and every stream is copied: an instance may start where the bus goes.
const WITHHELD: &str = "deliveries stand still";

/// Where the bus is at the end.
pub(super) struct Migrated {
    pub(super) new: Place,
    /// Goes on until the end, and answers that the bus is elsewhere.
    _old: Place,
}

impl Story<'_> {
    pub(super) async fn migrated(&mut self) -> Result<Migrated> {
        self.act("fanout migrate orders, a bus without places, to a server that joins Frankfurt");
        let world = self.world;
        let text = format!("{POLICY}{SETTINGS}");
        let hub = Arc::clone(&world.hub);
        let old = Place::open(OLD, hub, |nats| world.operator(nats, ORDERS), &text).await?;
        let buses = Arc::new(Mutex::new(vec![old.bus.clone()]));
        self.publish(ORDERS, Route::to(ORDERS, Sender::Client(Arc::clone(&buses))));
        self.handle(FULFILMENT, OLD, old.bus.clone());
        self.orders_taken(self.events).await?;

        let server = Arc::new(servers::start("dublin", LeafNodes::Leaf(world.hub_port)).await?);
        let url = server.url();
        let mut migrate = old
            .operator
            .command("migrate", &["--from", &old.nats.url(), "--to", &url]);
        let mut migrate = migrate
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("can't run `fanout migrate`")?;
        let out = migrate.stdout.take().context("it has an output")?;
        let mut lines = BufReader::new(out).lines();
        let mut new = None;
        while let Some(line) = lines.next_line().await? {
            if !is_of_a_stream(&line) {
                self.console.timed(&line);
            }
            if line.starts_with(WITHHELD) {
                let nats = Arc::clone(&server);
                let text = text.clone();
                let operator = world.operator(url.clone(), "orders-elsewhere");
                new = Some(tokio::spawn(async move {
                    Place::open(NEW, nats, |_| operator, &text).await
                }));
            }
        }
        if !migrate.wait().await?.success() {
            let mut said = String::new();
            if let Some(mut errors) = migrate.stderr.take() {
                errors.read_to_string(&mut said).await?;
            }
            bail!("`fanout migrate` failed: {}", said.trim());
        }
        let new = new
            .context("`fanout migrate` did not say that deliveries stand still")?
            .await??;
        buses.lock().await.insert(0, new.bus.clone());
        self.handle(FULFILMENT, NEW, new.bus.clone());
        let before = self.orders().len() as u64;
        self.orders_taken(before + self.events).await?;
        self.handled(FULFILMENT, &self.orders()).await?;
        let account = self.ledger.account(FULFILMENT, &self.orders());
        self.checks.at_least(
            "orders that were handled at the new server",
            self.events,
            account.at(NEW),
        );
        self.console.timed(format!(
            "fulfilment handled {} orders at the old server and {} at the new one; the bus with places went on beside it",
            account.at(OLD),
            account.at(NEW)
        ));
        Ok(Migrated { new, _old: old })
    }

    pub(super) fn orders(&self) -> BTreeSet<String> {
        self.ledger.accepted(ORDERS)
    }

    /// Waits until so many orders were taken.
    async fn orders_taken(&mut self, wanted: u64) -> Result<()> {
        let progress = self.console.progress("orders published", wanted);
        until("orders to be taken", CATCH_UP_LIMIT, LOOK_EVERY, async || {
            self.publishers_go_on()?;
            let taken = self.orders().len() as u64;
            progress.set(taken);
            Ok(match taken >= wanted {
                true => Check::Found(()),
                false => Check::NotYet(format!("{taken} of {wanted}")),
            })
        })
        .await
    }
}

/// Whether a line says how far one stream is: the bus has seven.
fn is_of_a_stream(line: &str) -> bool {
    line.starts_with("stream ")
        || [" is mirrored", " is promoted", " is open"]
            .iter()
            .any(|end| line.ends_with(end))
}
