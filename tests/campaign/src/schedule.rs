//! What is done to a bus in one round: decided by a seed, written to a file, and read from it to do the same again.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use fanout_campaign_checker::history::{Durability, Ordering};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// One round: a world, what its programs decide by, and what goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    /// Decides everything that programs choose.
    pub(crate) seed: u64,
    /// Servers, and copies of everything.
    pub(crate) replicas: usize,
    pub(crate) ordering: Ordering,
    pub(crate) durability: Durability,
    /// The steps, one after another.
    pub(crate) steps: Vec<Step>,
}

/// Faults that begin together and are healed together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Milliseconds from the last step's end to this one's beginning.
    pub(crate) pause_ms: u64,
    /// Milliseconds until what can be healed is.
    pub(crate) hold_ms: u64,
    pub(crate) faults: Vec<Fault>,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Which server, bus, stream or consumer, modulo how many there are.
    pub(crate) target: usize,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A server is killed, and started again at the end.
    KillServer,
    /// A server is stopped for a while, and goes on.
    FreezeServer,
    /// Two of three servers are killed.
    KillTwoServers,
    /// All servers are killed.
    KillAllServers,
    /// A server and each other server hear nothing of each other.
    PartitionServer,
    /// A server is not heard by the others, and hears them.
    MuteServer,
    /// The links between a server and the others are slow, and lose pieces.
    SlowServer,
    /// A stream's leader steps down.
    StepDownStream,
    /// A consumer's leader steps down.
    StepDownConsumer,
    /// A server's power fails: what it had not synced is gone.
    PowerLoss,
    /// The power of all servers fails at once.
    PowerLossAll,
    /// A server's disk is full.
    FullDisk,
    /// A server's disk takes a quarter of a second for each write.
    SlowDisk,
    /// A server's disk answers that it can't write or read; then the machine starts again with what the disk holds.
    FailingDisk,
    /// One bit of a block of the log is another, on one server.
    FlipBit,
    /// A server is replaced by a newer version, on its store.
    UpgradeServer,
    /// An instance of the bus is killed.
    KillBus,
    /// An instance of the bus is stopped for a while, and goes on as if nothing had been.
    FreezeBus,
    /// The clock of an instance is an hour off.
    StepClock,
    /// An instance is replaced by this version of the bus, beside one of an earlier version.
    UpgradeBus,
    /// All servers and instances are killed.
    KillEverything,
    /// An instance has no connection to the store.
    CutStore,
    /// What an instance sends to the store, or is sent, waits; then its connections break.
    HoldStore,
    /// The link between an instance and the store is slow, and loses pieces.
    SlowStore,
    /// Callers have no connection to an instance.
    CutClients,
    /// What callers send to an instance, or are sent, waits; then their connections break.
    HoldClients,
    /// The link between callers and an instance is slow, and loses pieces.
    SlowClients,
    /// The edge is killed.
    KillEdge,
    /// The edge is stopped for a while.
    FreezeEdge,
    /// An operator deletes a consumer of the log.
    DeleteConsumer,
    /// An operator purges the message that a key of the registry is.
    DeleteKey,
    /// An operator overwrites a key of the registry with what nobody can read, and puts it back at the end.
    CorruptKey,
    /// An operator purges the part of the log that is more than a minute old.
    PurgeLog,
    /// The listeners' certificate is another.
    RotateCertificate,
    /// The policy gives a tenant another quota.
    ChangeQuota,
    /// The policy divides the log otherwise, or has events travel elsewhere.
    ChangeTopology,
    /// The policy keeps events for longer or shorter, and more or fewer bytes of them.
    ChangeRetention,
    /// The policy has refused events tried again otherwise, and oftener or less often.
    ChangeRetries,
    /// The policy asks for another order, or for none.
    ChangeOrdering,
    /// The link of the component behind the edge is deleted, and put again at the end.
    Relink,
}

/// What this machine lets a campaign do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    /// Filesystems of its own.
    pub(crate) disks: bool,
    /// Disks below them that can be slow, and fail.
    pub(crate) devices: bool,
    /// Clocks of its own for an instance.
    pub(crate) clocks: bool,
    /// An older bus to begin with.
    pub(crate) older_bus: bool,
    /// An older nats-server to begin with.
    pub(crate) older_server: bool,
}

impl Kind {
    /// As it is written.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it can be done in such a world. A bit that flips in the only copy is a loss that nobody can mend, and a power
    /// loss of all that have not synced is one that the policy does not promise against: it is done only by name.
    pub(crate) fn is_possible(self, means: Means, replicas: usize, durability: Durability, is_named: bool) -> bool {
        match self {
            Self::KillTwoServers
            | Self::PartitionServer
            | Self::MuteServer
            | Self::SlowServer
            | Self::StepDownStream
            | Self::StepDownConsumer => replicas > 1,
            Self::FlipBit => replicas > 1 && means.disks,
            Self::UpgradeServer => means.older_server,
            Self::PowerLoss if replicas == 1 => false,
            Self::PowerLossAll => means.disks && (durability == Durability::OnDisk || is_named),
            Self::FailingDisk if replicas == 1 => means.devices && durability == Durability::OnDisk && is_named,
            Self::FailingDisk | Self::SlowDisk => means.devices,
            Self::PowerLoss | Self::FullDisk => means.disks,
            Self::StepClock => means.clocks,
            Self::UpgradeBus => means.older_bus,
            _ => true,
        }
    }

    /// Whether it is done to a filesystem of the server's own.
    pub(crate) fn needs_a_disk(self) -> bool {
        matches!(
            self,
            Self::PowerLoss | Self::PowerLossAll | Self::FullDisk | Self::FlipBit
        ) || self.needs_a_device()
    }

    /// Whether it is done to what is below that filesystem.
    pub(crate) fn needs_a_device(self) -> bool {
        matches!(self, Self::SlowDisk | Self::FailingDisk)
    }

    /// What must not be done to one thing twice at a time.
    fn touches(self, target: usize, replicas: usize) -> Vec<String> {
        match self {
            Self::KillServer
            | Self::FreezeServer
            | Self::FullDisk
            | Self::SlowDisk
            | Self::FlipBit
            | Self::UpgradeServer => vec![format!("server {}", target % replicas)],
            // Two of three that lose what was not synced are most of them.
            Self::PowerLoss | Self::FailingDisk => {
                vec![format!("server {}", target % replicas), "what is not synced".to_owned()]
            }
            Self::KillTwoServers | Self::KillAllServers | Self::PowerLossAll => {
                (0..replicas).map(|i| format!("server {i}")).collect()
            }
            Self::PartitionServer | Self::MuteServer | Self::SlowServer => vec!["routes".to_owned()],
            Self::KillBus | Self::FreezeBus | Self::StepClock | Self::UpgradeBus | Self::RotateCertificate => {
                (0..2).map(|i| format!("bus {i}")).collect()
            }
            // What an edge that stood still has in its hands is from before the change.
            Self::ChangeQuota
            | Self::ChangeTopology
            | Self::ChangeRetention
            | Self::ChangeRetries
            | Self::ChangeOrdering => ["bus 0", "bus 1", "edge"].map(str::to_owned).into(),
            Self::KillEverything => {
                let servers = (0..replicas).map(|i| format!("server {i}"));
                servers.chain((0..2).map(|i| format!("bus {i}"))).collect()
            }
            Self::CutStore | Self::HoldStore | Self::SlowStore => vec![format!("store of {}", target % 2)],
            Self::CutClients | Self::HoldClients | Self::SlowClients => vec![format!("clients of {}", target % 2)],
            Self::KillEdge | Self::FreezeEdge | Self::Relink => vec!["edge".to_owned()],
            Self::DeleteConsumer | Self::StepDownConsumer => vec!["consumers".to_owned()],
            Self::DeleteKey | Self::CorruptKey => vec!["registry".to_owned()],
            Self::PurgeLog | Self::StepDownStream => vec!["streams".to_owned()],
        }
    }

    /// Whether a server may forget by it what it was told of settlements: it writes that behind its answers.
    pub(crate) fn redelivers(self) -> bool {
        matches!(
            self,
            Self::KillServer
                | Self::FreezeServer
                | Self::KillTwoServers
                | Self::KillAllServers
                | Self::PartitionServer
                | Self::MuteServer
                | Self::SlowServer
                | Self::StepDownConsumer
                | Self::PowerLoss
                | Self::PowerLossAll
                | Self::FullDisk
                | Self::SlowDisk
                | Self::FailingDisk
                | Self::FlipBit
                | Self::UpgradeServer
                | Self::KillEverything
                | Self::DeleteConsumer
        )
    }

    /// What only a store that answers can do.
    fn needs_a_store(self) -> bool {
        matches!(
            self,
            Self::DeleteConsumer
                | Self::DeleteKey
                | Self::CorruptKey
                | Self::PurgeLog
                | Self::StepDownStream
                | Self::StepDownConsumer
        )
    }

    /// What takes the store away.
    fn takes_the_store(self, replicas: usize) -> bool {
        match self {
            Self::KillTwoServers | Self::KillAllServers | Self::KillEverything | Self::PowerLossAll => true,
            Self::KillServer
            | Self::FreezeServer
            | Self::FullDisk
            | Self::SlowDisk
            | Self::FailingDisk
            | Self::UpgradeServer => replicas == 1,
            _ => false,
        }
    }
}

impl Schedule {
    /// Decided by a seed: so many steps of these kinds.
    pub(crate) fn decide(seed: u64, steps: usize, kinds: &[Kind], of: (usize, Durability)) -> Self {
        let (replicas, durability) = of;
        let mut dice = StdRng::seed_from_u64(seed);
        let ordering = if dice.random_bool(0.7) {
            Ordering::Key
        } else {
            Ordering::None
        };
        let steps = (0..steps).map(|i| {
            let mut faults = Vec::new();
            let mut touched: Vec<String> = Vec::new();
            // One at a time as a rule; two that meet find what one does not.
            for _ in 0..if dice.random_bool(0.25) { 2 } else { 1 } {
                let Some(&kind) = kinds.choose(&mut dice) else { continue };
                let target = dice.random_range(0..60);
                let touches = kind.touches(target, replicas);
                let is_taken = touches.iter().any(|t| touched.contains(t));
                let meets = faults.iter().any(|other: &Fault| {
                    (kind.needs_a_store() && other.kind.takes_the_store(replicas))
                        || (other.kind.needs_a_store() && kind.takes_the_store(replicas))
                });
                if !is_taken && !meets {
                    touched.extend(touches);
                    faults.push(Fault { kind, target });
                }
            }
            let long = dice.random_bool(0.08);
            let hold_ms = if long { 30_000 } else { dice.random_range(500..6_000) };
            // Now and then long enough to see that all recovers by itself.
            let pause_ms = if i % 6 == 5 {
                12_000
            } else {
                dice.random_range(300..4_000)
            };
            Step {
                pause_ms,
                hold_ms,
                faults,
            }
        });
        Self {
            seed,
            replicas,
            ordering,
            durability,
            steps: steps.collect(),
        }
    }

    /// Writes it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
    }

    /// Reads one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no schedule", path.display()))
    }

    /// Whether a server needs a filesystem of its own.
    pub(crate) fn needs_disks(&self) -> bool {
        self.kinds().any(Kind::needs_a_disk)
    }

    /// Whether that needs a device that can be slow and fail.
    pub(crate) fn needs_devices(&self) -> bool {
        self.kinds().any(Kind::needs_a_device)
    }

    /// Whether there is such a fault.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds().any(|other| other == kind)
    }

    fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.steps.iter().flat_map(|step| &step.faults).map(|fault| fault.kind)
    }

    /// How many faults it has.
    pub(crate) fn faults(&self) -> usize {
        self.steps.iter().map(|step| step.faults.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_another_one_otherwise() {
        let decide = |seed| Schedule::decide(seed, 20, Kind::value_variants(), (3, Durability::OnDisk));
        assert_eq!(decide(7), decide(7));
        assert_ne!(decide(7).steps, decide(8).steps);
    }

    #[test]
    fn what_meets_in_a_step_does_not_touch_the_same() {
        for seed in 0..200 {
            for step in Schedule::decide(seed, 20, Kind::value_variants(), (3, Durability::OnDisk)).steps {
                let touched: Vec<_> = step.faults.iter().flat_map(|f| f.kind.touches(f.target, 3)).collect();
                let once: std::collections::BTreeSet<_> = touched.iter().collect();
                assert_eq!(once.len(), touched.len(), "{step:?}");
            }
        }
    }
}
