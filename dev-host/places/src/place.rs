//! One place of a bus, or where a bus without places runs: a server, a `fanout serve` beside it, and what reaches both.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use fanout_client::{Bus, Start, Subscription, connect};
use fanout_plan::status::{MirrorStatus, PlaceStatus};
use fanout_tests::Served;
use fanout_tests::hosted::Hosted;
use fanout_transport::testing::NatsServer;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::ledger::Where;
use crate::operator::Operator;
use crate::story::{CATCH_UP_LIMIT, LOOK_EVERY};
use crate::wait::{Check, until};

/// Shared by the payment provider and the ingress of this run; both are on this machine and gone with it.
pub(crate) const SECRET: &str = "whsec_of_the_demo_of_places";

/// What an instance logs that has gone over to another policy.
const IN_FORCE: &str = "the policy is in force";

/// A log that is read gives its next event sooner.
const NOTHING_COMES_FOR: Duration = Duration::from_secs(1);

/// Where a bus runs.
pub(crate) struct Place {
    pub(crate) name: Where,
    /// An instance that goes before its server has nothing to say of it.
    served: Served,
    pub(crate) bus: Bus,
    /// The URL at which the bus is served.
    pub(crate) url: String,
    pub(crate) operator: Operator,
    pub(crate) nats: Arc<NatsServer>,
}

/// Partition and offset of an event, and its id.
pub(crate) type Log = BTreeMap<(u32, u64), String>;

impl Place {
    /// Starts an instance of a bus at a server. Its policy, and its log beside it, get the file name `file`.
    pub(crate) async fn open(
        name: Where,
        nats: Arc<NatsServer>,
        operator: impl FnOnce(String) -> Operator,
        text: &str,
    ) -> Result<Self> {
        let operator = operator(nats.url());
        let policy = operator.policy.clone();
        std::fs::write(&policy, text).with_context(|| format!("can't write {}", policy.display()))?;
        let (fanout, url, place) = (operator.fanout.clone(), nats.url(), operator.place);
        let starting = tokio::task::spawn_blocking(move || {
            let mut arguments = vec!["--listen", "tcp://127.0.0.1:0"];
            arguments.extend(place.into_iter().flat_map(|place| ["--place", place]));
            Served::try_start_by(Command::new(fanout), &url, &policy, &arguments)
        });
        let served = starting
            .await?
            .map_err(|said| anyhow!("the bus at {name} is not ready: {said}"))?;
        let url = served.listen.first().context("it listens nowhere")?.clone();
        Ok(Self {
            name,
            bus: connect(&url).await?,
            url,
            served,
            operator,
            nats,
        })
    }

    /// Brings the instance to another policy.
    pub(crate) async fn is_brought_to(&self, text: &str) -> Result<()> {
        let policy = &self.operator.policy;
        std::fs::write(policy, text).with_context(|| format!("can't write {}", policy.display()))?;
        let times = || self.served.log().matches(IN_FORCE).count();
        let before = times();
        self.served.signal("HUP");
        let what = format!("the next policy to be in force at {}", self.name);
        until(&what, CATCH_UP_LIMIT, LOOK_EVERY, async || {
            Ok(match times() > before {
                true => Check::Found(()),
                false => Check::NotYet("its instance has not said so".to_owned()),
            })
        })
        .await
    }

    /// How far the mirrors of others' events are here; an error where that could not be read.
    pub(crate) async fn mirrors(&self) -> Result<Vec<MirrorStatus>> {
        let status = self.operator.status().await?;
        let mirrors = status.place.and_then(|PlaceStatus { mirrors, .. }| mirrors);
        mirrors.with_context(|| format!("nobody could read how far the mirrors at {} are", self.name))
    }

    /// Starts the component webhook-ingress beside this instance, which is given webhooks of the source `stripe`.
    pub(crate) async fn ingress(&self, folder: &Path) -> Result<Arc<Hosted>> {
        let settings = [
            "source.stripe.scheme=stripe".to_owned(),
            format!("source.stripe.secret={SECRET}"),
            "source.stripe.tenant=pointer:/data/object/metadata/tenant".to_owned(),
        ];
        let arguments: Vec<_> = settings
            .into_iter()
            .flat_map(|setting| ["--config".to_owned(), setting])
            .collect();
        // Its log is named for the component.
        let folder = folder.join(self.name);
        std::fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
        let bus = self.url.clone();
        let starting =
            tokio::task::spawn_blocking(move || Hosted::start("webhook_ingress.wasm", &bus, &arguments, &folder));
        Ok(Arc::new(starting.await.context("the ingress did not start")?))
    }

    /// Reads the log as it is kept at this place, to the last offset of each partition.
    pub(crate) async fn log(&self) -> Result<Log> {
        let heads = self.operator.status().await?.heads;
        let heads = heads.with_context(|| format!("nobody could read how long the log at {} is", self.name))?;
        // One of this name at two places would be one subscription.
        let file = self.operator.policy.file_stem().unwrap_or_default();
        let name = format!("audit-{}", file.to_string_lossy());
        let subscription = Subscription::backfill(&name, Start::First).prefetch(256);
        let mut deliveries = self.bus.subscribe(subscription).await?;
        let (mut log, mut settling) = (Log::new(), JoinSet::new());
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        // Some offsets are nobody's event, such as the one at which a migration closed the log: that all was read is seen by the last.
        let ends = |log: &Log| {
            heads
                .0
                .iter()
                .all(|(partition, last)| *last == 0 || log.contains_key(&(*partition, *last)))
        };
        loop {
            let Ok(next) = timeout(NOTHING_COMES_FOR, deliveries.recv()).await else {
                if ends(&log) {
                    break;
                }
                if Instant::now() > deadline {
                    bail!(
                        "the log at {} is read up to {:?}, and not to {heads:?}",
                        self.name,
                        log.keys().next_back()
                    );
                }
                continue;
            };
            let delivery = next.context("the backfill ended")??;
            let position = delivery.position();
            log.insert((position.partition, position.offset), delivery.event().id.clone());
            settling.spawn(delivery.ack());
        }
        while let Some(settled) = settling.join_next().await {
            // One whose lease is over is delivered again, and was read.
            drop(settled?);
        }
        drop(deliveries);
        self.bus.unsubscribe(&name).await?;
        Ok(log)
    }
}
