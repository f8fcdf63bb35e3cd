//! Does what a schedule says to a world, tells the history, and sees whether it happened.

mod store;

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use fanout_campaign_checker::history::{Durability, Micros, What};
use fanout_tests::nemesis::{Frozen, Proxy, Way};
use futures::TryStreamExt as _;

use self::store::{change_key, consumer, delete_consumer, purge, registry, step_down, stream};
use crate::cluster::{slow_down, speed_up};
use crate::disk::Disk;
use crate::instance::Instance;
use crate::schedule::{Fault, Kind, Step};
use crate::world::{LOG, World, until};

/// What an instance logs when it is told to read its files.
const READ_AGAIN: &str = "the policy was read again";
/// What a server that is not told to sync at once has synced by then, as the policy's page says.
const SYNCED_AFTER: Micros = 120_000_000;
/// How long copies may take to catch up before one of them is harmed.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(20);

/// How long an operator's request may take while other things go wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// A fault that goes on, and how it ends.
struct Ongoing {
    number: u64,
    end: End,
}

/// How a fault ends.
enum End {
    /// There is nothing to mend.
    Nothing,
    StartServers(Vec<usize>),
    Thaw(Frozen, Option<String>),
    JoinServer(usize),
    FreeDisk(usize),
    MendDevice(usize),
    ReplaceDevice(usize),
    /// The true time again.
    SetClock(usize),
    StartBuses(Vec<usize>),
    StartEverything,
    /// The store's proxies of an instance.
    Store(usize),
    Clients(usize),
    /// Its links are quick again.
    QuickServer(usize),
    QuickStore(usize),
    QuickClients(usize),
    StartEdge,
    /// The component's.
    Link,
    PutKey(String, Vec<u8>),
}

impl End {
    /// What others need to come back is there first: an instance starts once its connections and its servers are there.
    fn turn(&self) -> u8 {
        match self {
            Self::Store(_) | Self::Clients(_) => 0,
            _ if self.is_of_servers() => 1,
            _ => 2,
        }
    }

    /// What instances need is there again with it.
    fn is_of_servers(&self) -> bool {
        matches!(
            self,
            Self::StartServers(_)
                | Self::Thaw(_, None)
                | Self::JoinServer(_)
                | Self::FreeDisk(_)
                | Self::MendDevice(_)
                | Self::ReplaceDevice(_)
                | Self::StartEverything
        )
    }
}

/// Does a step: its faults begin together, go on for a while, and are healed together.
pub(crate) async fn take(world: &mut World, step: &Step) -> Result<()> {
    tokio::time::sleep(Duration::from_millis(step.pause_ms)).await;
    let mut ongoing = Vec::new();
    for fault in &step.faults {
        ongoing.push(begin(world, *fault).await?);
    }
    tokio::time::sleep(Duration::from_millis(step.hold_ms)).await;
    ongoing.sort_by_key(|fault| fault.end.turn());
    for fault in ongoing {
        end(world, fault).await?;
    }
    // What could not be in force at once may be by now.
    world.see_policy_in_force();
    Ok(())
}

async fn begin(world: &mut World, Fault { kind, target }: Fault) -> Result<Ongoing> {
    let number = world.recorder.number();
    let servers = world.cluster.servers.len();
    let (server, bus) = (target % servers, target % world.buses.len());
    let now = world.recorder.now();
    // Whoever has a majority loses what it had not synced.
    let unsynced_since = (kind == Kind::PowerLossAll).then(|| now.saturating_sub(SYNCED_AFTER));
    let on = on(kind, world, server, bus, target).await;
    let what = What::Fault {
        fault: number,
        kind: kind.name(),
        on: on.clone(),
        redelivers: kind.redelivers(),
        unsynced_since,
    };
    world.recorder.tell("nemesis", what);
    let (seen, end) = match kind {
        Kind::PowerLoss | Kind::FailingDisk | Kind::FlipBit if !may_be_harmed(world, kind).await => {
            (false, End::Nothing)
        }
        Kind::KillServer | Kind::UpgradeServer => {
            world.cluster.servers[server].nats.kill();
            (true, End::StartServers(vec![server]))
        }
        Kind::KillTwoServers => {
            let killed = vec![server, (server + 1) % servers];
            killed.iter().for_each(|i| world.cluster.servers[*i].nats.kill());
            (true, End::StartServers(killed))
        }
        Kind::KillAllServers => {
            world.cluster.servers.iter_mut().for_each(|node| node.nats.kill());
            (true, End::StartServers((0..servers).collect()))
        }
        Kind::FreezeServer => freeze(world.cluster.servers[server].nats.id(), None).await,
        Kind::PartitionServer => (world.cluster.partition(server), End::JoinServer(server)),
        Kind::MuteServer => (world.cluster.mute(server), End::JoinServer(server)),
        Kind::SlowServer => (world.cluster.slow_down(server).await, End::QuickServer(server)),
        Kind::PowerLoss => (lose_power(world, &[server])?, End::StartServers(vec![server])),
        Kind::PowerLossAll => {
            let all: Vec<_> = (0..servers).collect();
            (lose_power(world, &all)?, End::StartServers(all))
        }
        Kind::FullDisk => (disk(world, server)?.fill()?, End::FreeDisk(server)),
        Kind::SlowDisk => (disk(world, server)?.slow_down(true).await?, End::MendDevice(server)),
        Kind::FailingDisk => (disk(world, server)?.fail().await?, End::ReplaceDevice(server)),
        Kind::FlipBit => {
            let node = &mut world.cluster.servers[server];
            node.nats.kill();
            let flipped = node.disk.as_ref().context("it has no disk of its own")?.flip_bit(LOG);
            (flipped.is_ok(), End::StartServers(vec![server]))
        }
        Kind::StepDownStream | Kind::StepDownConsumer => (step_down(world, kind, target).await, End::Nothing),
        Kind::KillBus => {
            kill_bus(world, bus);
            (true, End::StartBuses(vec![bus]))
        }
        Kind::UpgradeBus => {
            kill_bus(world, bus);
            (world.buses[bus].upgrade(), End::StartBuses(vec![bus]))
        }
        Kind::StepClock => {
            world.buses[bus].step_clock(Some(target / 7 % 2 == 0))?;
            (clock_is_off(world, bus).await, End::SetClock(bus))
        }
        Kind::FreezeBus => match &world.buses[bus].served {
            Some(served) => freeze(served.id(), Some(world.buses[bus].name.clone())).await,
            None => (false, End::Nothing),
        },
        Kind::KillEverything => {
            world.cluster.servers.iter_mut().for_each(|node| node.nats.kill());
            (0..world.buses.len()).for_each(|i| kill_bus(world, i));
            (true, End::StartEverything)
        }
        Kind::CutStore => (cut(&world.buses[bus].store), End::Store(bus)),
        Kind::HoldStore => (hold(&world.buses[bus].store, target).await, End::Store(bus)),
        Kind::CutClients => (cut(std::slice::from_ref(&world.buses[bus].clients)), End::Clients(bus)),
        Kind::HoldClients => (
            hold(std::slice::from_ref(&world.buses[bus].clients), target).await,
            End::Clients(bus),
        ),
        Kind::SlowStore => {
            let store: Vec<_> = world.buses[bus].store.iter().collect();
            (slow_down(&store).await, End::QuickStore(bus))
        }
        Kind::SlowClients => (slow_down(&[&world.buses[bus].clients]).await, End::QuickClients(bus)),
        Kind::KillEdge => {
            world.edge.providers[0].kill();
            (true, End::StartEdge)
        }
        Kind::FreezeEdge => freeze(world.edge.providers[0].id(), None).await,
        Kind::DeleteConsumer => (delete_consumer(world, target).await, End::Nothing),
        Kind::DeleteKey | Kind::CorruptKey => change_key(world, kind, target).await.unwrap_or((false, End::Nothing)),
        Kind::PurgeLog => (purge(world, target).await.unwrap_or(false), End::Nothing),
        Kind::RotateCertificate => {
            world.put_certificate()?;
            (reload(world).await, End::Nothing)
        }
        Kind::ChangeQuota
        | Kind::ChangeTopology
        | Kind::ChangeRetention
        | Kind::ChangeRetries
        | Kind::ChangeOrdering => {
            world.change_policy(kind, target)?;
            // In force it may be later, once the store is there.
            let seen = reload(world).await;
            in_force(world).await;
            (seen, End::Nothing)
        }
        Kind::Relink => (unlink(world).await, End::Link),
    };
    if seen {
        world.recorder.tell("nemesis", What::Seen { fault: number });
    }
    let how = if seen { "" } else { " (not seen to happen)" };
    crate::say(format!("  {} of {on}{how}", kind.name()));
    Ok(Ongoing { number, end })
}

async fn on(kind: Kind, world: &World, server: usize, bus: usize, target: usize) -> String {
    match kind {
        Kind::KillTwoServers => format!("s{server} and s{}", (server + 1) % world.cluster.servers.len()),
        Kind::KillAllServers | Kind::PowerLossAll | Kind::KillEverything => "all".to_owned(),
        Kind::KillServer
        | Kind::FreezeServer
        | Kind::PartitionServer
        | Kind::MuteServer
        | Kind::SlowServer
        | Kind::PowerLoss
        | Kind::FullDisk
        | Kind::SlowDisk
        | Kind::FailingDisk
        | Kind::FlipBit
        | Kind::UpgradeServer => format!("s{server}"),
        Kind::KillBus
        | Kind::FreezeBus
        | Kind::StepClock
        | Kind::UpgradeBus
        | Kind::CutStore
        | Kind::HoldStore
        | Kind::SlowStore
        | Kind::CutClients
        | Kind::HoldClients
        | Kind::SlowClients => format!("instance {}", world.buses[bus].name),
        Kind::KillEdge | Kind::FreezeEdge | Kind::Relink => "the edge".to_owned(),
        Kind::StepDownStream => stream(world, target).await.unwrap_or_else(|_| "a stream".to_owned()),
        Kind::StepDownConsumer | Kind::DeleteConsumer => consumer(world, target)
            .await
            .map_or_else(|_| "a consumer".to_owned(), |(_, consumer)| consumer),
        Kind::DeleteKey | Kind::CorruptKey => "the registry".to_owned(),
        Kind::PurgeLog => "the log".to_owned(),
        Kind::RotateCertificate => "both instances".to_owned(),
        Kind::ChangeQuota
        | Kind::ChangeTopology
        | Kind::ChangeRetention
        | Kind::ChangeRetries
        | Kind::ChangeOrdering => {
            let mut changed = world.rules.clone();
            changed.change(kind, target);
            changed.to_string()
        }
    }
}

async fn end(world: &mut World, Ongoing { number, end }: Ongoing) -> Result<()> {
    // Instances hear of each other through the servers.
    let is_of_servers = end.is_of_servers();
    match end {
        End::Nothing => {}
        End::StartServers(servers) => start_servers(world, &servers).await,
        End::Thaw(frozen, instance) => {
            frozen.thaw();
            if let Some(instance) = instance {
                world.recorder.tell(
                    &instance,
                    What::InstanceBack {
                        instance: instance.clone(),
                    },
                );
            }
        }
        End::JoinServer(i) => world.cluster.join(i),
        End::FreeDisk(i) => {
            disk(world, i)?.free_up()?;
            // A server that could not write has stopped JetStream: the operator starts it again.
            world.cluster.servers[i].nats.restart().await;
        }
        End::MendDevice(i) => {
            disk(world, i)?.slow_down(false).await?;
        }
        End::ReplaceDevice(i) => {
            let node = &mut world.cluster.servers[i];
            node.nats.kill();
            node.disk.as_mut().context("it has no disk of its own")?.mend()?;
            node.nats.restart().await;
        }
        End::SetClock(i) => {
            let instance = &world.buses[i];
            instance.step_clock(None)?;
            let back = What::InstanceBack {
                instance: instance.name.clone(),
            };
            world.recorder.tell(&instance.name, back);
        }
        End::StartBuses(buses) => {
            for i in buses {
                world.restart(i).await?;
            }
        }
        End::StartEverything => {
            let all: Vec<_> = (0..world.cluster.servers.len()).collect();
            start_servers(world, &all).await;
            for i in 0..world.buses.len() {
                world.restart(i).await?;
            }
        }
        End::Store(i) => {
            world.buses[i].store.iter().for_each(Proxy::reset);
            let name = world.buses[i].name.clone();
            world
                .recorder
                .tell(&name, What::InstanceBack { instance: name.clone() });
        }
        End::Clients(i) => world.buses[i].clients.reset(),
        End::QuickServer(i) => world.cluster.speed_up(i),
        End::QuickStore(i) => world.buses[i].store.iter().for_each(speed_up),
        End::QuickClients(i) => speed_up(&world.buses[i].clients),
        End::StartEdge => world.edge.restart_provider(0).await,
        End::Link => world.edge.put_link(&World::handler_link()).await,
        End::PutKey(key, value) => {
            let bucket = registry(world).await?;
            until("the operator mends the key", Duration::from_secs(30), async || {
                bucket.put(&key, value.clone().into()).await.is_ok()
            })
            .await?;
        }
    }
    if is_of_servers {
        for Instance { name, .. } in &world.buses {
            world.recorder.tell(name, What::InstanceBack { instance: name.clone() });
        }
    }
    world.recorder.tell("nemesis", What::Healed { fault: number });
    Ok(())
}

/// Several at once: a cluster has no leader before most are there.
async fn start_servers(world: &mut World, servers: &[usize]) {
    let nodes = world
        .cluster
        .servers
        .iter_mut()
        .enumerate()
        .filter(|(i, _)| servers.contains(i));
    let starting = nodes.map(|(_, node)| async move {
        match node.newer.take() {
            Some(binary) => node.nats.restart_as(binary).await,
            None => node.nats.restart().await,
        }
    });
    futures::future::join_all(starting).await;
}

fn lose_power(world: &mut World, servers: &[usize]) -> Result<bool> {
    for i in servers {
        world.cluster.servers[*i].nats.kill();
    }
    for i in servers {
        let disk = world.cluster.servers[*i].disk.as_mut();
        disk.context("it has no disk of its own")?.lose_power()?;
    }
    Ok(true)
}

fn disk(world: &World, server: usize) -> Result<&Disk> {
    let disk = world.cluster.servers[server].disk.as_ref();
    disk.context("it has no disk of its own")
}

/// Seen once a line of its log has another time.
async fn clock_is_off(world: &World, bus: usize) -> bool {
    until("its log has another time", PATIENCE, async || {
        world.buses[bus].signal("HUP");
        world.buses[bus].clock_is_off(READ_AGAIN)
    })
    .await
    .is_ok()
}

/// Seen once the kernel says that it is stopped.
async fn freeze(process: u32, instance: Option<String>) -> (bool, End) {
    let frozen = Frozen::process(process);
    let is_stopped = async || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    let seen = until("it is stopped", Duration::from_secs(1), is_stopped).await.is_ok();
    (seen, End::Thaw(frozen, instance))
}

fn kill_bus(world: &mut World, i: usize) {
    // Dropped, it is killed and waited for.
    drop(world.buses[i].served.take());
}

fn cut(proxies: &[Proxy]) -> bool {
    let seen = proxies.iter().any(|proxy| proxy.connections() > 0);
    proxies.iter().for_each(Proxy::cut);
    seen
}

/// Seen once something waits.
async fn hold(proxies: &[Proxy], target: usize) -> bool {
    let way = [Way::ToServer, Way::ToClient][target / 7 % 2];
    proxies.iter().for_each(|proxy| proxy.hold(way));
    until("something waits", Duration::from_secs(1), async || {
        proxies.iter().any(|p| p.waiting() > 0)
    })
    .await
    .is_ok()
}

async fn reload(world: &World) -> bool {
    let read = |i: usize| {
        let log = world.buses[i].served.as_ref().map(fanout_tests::Served::log);
        log.map_or(0, |log| log.matches(READ_AGAIN).count())
    };
    let before: Vec<_> = (0..world.buses.len()).map(read).collect();
    world.buses.iter().for_each(|instance| instance.signal("HUP"));
    until("the policy was read again", PATIENCE, async || {
        (0..world.buses.len()).all(|i| read(i) > before[i])
    })
    .await
    .is_ok()
}

/// Waits until every copy of every stream has what the others have, where the policy promises nothing else: two copies that lose
/// what they had not synced, the second before the first has caught up, are most of them. On the disk nothing is lost with the power.
async fn may_be_harmed(world: &World, kind: Kind) -> bool {
    if kind != Kind::FlipBit && world.rules.durability == Durability::OnDisk {
        return true;
    }
    let js = jetstream::new(world.admin.clone());
    let caught_up = until("every copy has caught up", CAUGHT_UP_WITHIN, async || {
        let Ok(streams) = js.streams().try_collect::<Vec<_>>().await else {
            return false;
        };
        let mut clusters = streams.iter().filter_map(|stream| stream.cluster.as_ref());
        clusters.all(|cluster| {
            cluster.leader.is_some() && cluster.replicas.iter().all(|copy| copy.current && !copy.offline)
        })
    });
    let done = caught_up.await.is_ok();
    let (name, on) = ("wait until every copy has caught up".to_owned(), kind.name());
    world.recorder.tell("nemesis", What::Operation { name, on, done });
    done
}

/// Waits a little until every instance goes by the policy.
async fn in_force(world: &mut World) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !world.see_policy_in_force() && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Seen once the edge has no link to the component.
async fn unlink(world: &mut World) -> bool {
    let link = World::handler_link();
    world.edge.delete_link(&link).await;
    until("it is unlinked", PATIENCE, async || {
        let status = world.edge.status().await;
        status.is_some_and(|s| s.links.iter().all(|l| l.component != link.component))
    })
    .await
    .is_ok()
}
