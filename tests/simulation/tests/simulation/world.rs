//! One simulation: hosts, faults, and the time when there are no more of them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanout_transport::testing::use_network;
use tokio::sync::{Notify, watch};
use turmoil::Sim;

use crate::dice::Dice;
use crate::history::History;
use crate::net::Simulated;
use crate::store::Store;
use crate::{bus, caller, edge, publisher, relay, worker};

/// What is measured is late by this at most: the network moves once in a tick.
pub const SLACK: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(10);
/// After the last fault, everything is delivered within this time, and everybody has been answered.
const DELIVERED: Duration = Duration::from_secs(60);
/// After the end, everybody has ended within this time.
const ENDED: Duration = Duration::from_secs(40);

/// What the simulation is about, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Faults come and go.
    Faults,
    /// There are none any more: what was accepted is delivered.
    Calm,
    /// Programs end.
    Over,
}

/// What all parts share. Clones are the same world.
#[derive(Clone, Debug)]
pub struct World {
    seed: u64,
    /// What happened.
    pub history: History,
    store: Store,
    phase: Arc<watch::Sender<Phase>>,
    leaves: Arc<Notify>,
    /// What each part that is there still has to do before the end.
    undone: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            history: History::default(),
            store: Store::default(),
            phase: Arc::new(watch::Sender::new(Phase::Faults)),
            leaves: Arc::default(),
            undone: Arc::default(),
        }
    }

    /// The dice of a part.
    pub fn dice(&self, part: &str, incarnation: u64) -> Dice {
        Dice::of(self.seed, part, incarnation)
    }

    /// The bus's store.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// What it is about now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Ends when that phase has begun.
    pub async fn reaches(&self, phase: Phase) {
        // The world outlives its parts.
        self.phase.subscribe().wait_for(|now| *now >= phase).await.ok();
    }

    /// Ends when the bus is told to leave.
    pub async fn leaves(&self) {
        self.leaves.notified().await;
    }

    /// A part has done what it had to do before the end.
    pub fn done(&self, part: &str) {
        self.history.note(format_args!("{part} is done"));
        self.undone.lock().unwrap().insert(part.to_owned(), true);
    }

    fn undone(&self) -> Vec<String> {
        let undone = self.undone.lock().unwrap();
        let undone = undone.iter().filter(|(_, is_done)| !**is_done);
        undone.map(|(part, _)| part.clone()).collect()
    }
}

/// Something that is wrong with a link or a host, until it is right again.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Partition,
    OneWay { to_bus: bool },
    Hold,
    Crash,
}

/// One simulation.
struct Simulation<'a> {
    world: World,
    sim: Sim<'a>,
    dice: Dice,
    /// Hosts that call the bus, and where: itself, or the relay.
    programs: Vec<(String, &'static str)>,
    is_relayed: bool,
    /// What is wrong with which host's link to what it calls, or with itself, until when.
    faults: BTreeMap<String, (Fault, Duration)>,
}

/// Runs the simulation of a seed.
pub fn simulate(seed: u64) -> History {
    use_network(Simulated);
    let world = World::new(seed);
    let mut simulation = Simulation::new(&world);
    simulation.faults_come_and_go();
    simulation.all_is_delivered();
    simulation.everybody_ends();
    world.history
}

impl<'a> Simulation<'a> {
    fn new(world: &World) -> Self {
        let mut dice = world.dice("world", 0);
        let mut builder = turmoil::Builder::new();
        builder
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3_600))
            .rng_seed(world.seed)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(dice.milliseconds(2, 60))
            .tcp_capacity(4_096)
            .enable_random_order();
        let mut simulation = Self {
            world: world.clone(),
            sim: builder.build(),
            dice,
            programs: Vec::new(),
            is_relayed: false,
            faults: BTreeMap::new(),
        };
        simulation.host("bus", bus::run);
        simulation.cast();
        simulation
    }

    fn host<F, Fut>(&mut self, name: &str, software: F)
    where
        F: Fn(World, u64) -> Fut + 'a,
        Fut: Future<Output = turmoil::Result> + 'static,
    {
        let (world, incarnations) = (self.world.clone(), Rc::new(Cell::new(0)));
        self.sim.host(name, move || {
            incarnations.set(incarnations.get() + 1);
            software(world.clone(), incarnations.get())
        });
    }

    /// A host that calls the bus, itself or by the relay.
    fn program<F, Fut>(&mut self, name: &str, software: F)
    where
        F: Fn(Part) -> Fut + 'a,
        Fut: Future<Output = turmoil::Result> + 'static,
    {
        let to = if self.dice.chance(40) { "relay" } else { "bus" };
        if to == "relay" && !self.is_relayed {
            self.is_relayed = true;
            self.host("relay", relay::run);
        }
        self.programs.push((name.to_owned(), to));
        self.world.undone.lock().unwrap().insert(name.to_owned(), false);
        let part = name.to_owned();
        self.host(name, move |world, incarnation| {
            software(Part {
                dice: world.dice(&part, incarnation),
                name: part.clone(),
                url: format!("tcp://{to}:7761"),
                incarnation,
                world,
            })
        });
    }

    /// Who is there.
    fn cast(&mut self) {
        self.program("publisher-1", publisher::run);
        match self.dice.roll(4) {
            0 => self.program("caller-1", caller::run),
            1 => {
                self.program("worker-1", |part| worker::run(part, "work"));
                self.program("worker-2", |part| worker::run(part, "work"));
            }
            2 => self.program("edge-1", edge::run),
            _ => {
                self.program("worker-1", |part| worker::run(part, "work"));
                self.program("caller-1", caller::run);
            }
        }
        if self.dice.chance(50) {
            self.program("ordered-1", |part| worker::run(part, "ordered"));
        }
        if self.dice.chance(20) {
            self.program("publisher-2", publisher::run);
        }
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            self.world
                .history
                .broken(format_args!("no host ends with an error: {error}"));
        }
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.world.history.note_at(self.sim.elapsed(), what);
    }

    fn faults_come_and_go(&mut self) {
        let end = self.dice.milliseconds(3_000, 10_000);
        let mut next = self.dice.milliseconds(300, 1_500);
        while self.sim.elapsed() < end {
            self.step();
            let now = self.sim.elapsed();
            let over = self.faults.iter().filter(|(_, (_, until))| *until <= now);
            for name in over.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                self.heal(&name);
            }
            if now >= next {
                self.fault();
                next = now + self.dice.milliseconds(100, 1_500);
            }
        }
        for name in self.faults.keys().cloned().collect::<Vec<_>>() {
            self.heal(&name);
        }
        self.sim.set_max_message_latency(Duration::from_millis(20));
        self.note("there are no more faults");
        self.world.phase.send_replace(Phase::Calm);
    }

    /// Something goes wrong.
    fn fault(&mut self) {
        let now = self.sim.elapsed();
        let until = now + self.dice.milliseconds(50, 3_500);
        match self.dice.roll(10) {
            0 => {
                self.note("the bus is told to leave");
                self.world.leaves.notify_waiters();
            }
            1 => {
                let latency = self.dice.milliseconds(2, 250);
                self.note(format_args!("messages take up to {latency:?}"));
                self.sim.set_max_message_latency(latency);
            }
            2 | 3 => {
                let who = if self.is_relayed && self.dice.chance(30) {
                    "relay"
                } else {
                    "bus"
                };
                self.begin(who.to_owned(), Fault::Crash, until);
            }
            4 => {
                let (name, _) = self.dice.one_of(&self.programs).clone();
                self.begin(name, Fault::Crash, until);
            }
            fault => {
                let (name, _) = self.dice.one_of(&self.programs).clone();
                let fault = match fault {
                    5 | 6 => Fault::Partition,
                    7 => Fault::OneWay {
                        to_bus: self.dice.chance(50),
                    },
                    _ => Fault::Hold,
                };
                self.begin(name, fault, until);
            }
        }
    }

    fn called_by(&self, name: &str) -> &'static str {
        let program = self.programs.iter().find(|(program, _)| program == name);
        program.map_or("bus", |(_, to)| *to)
    }

    fn begin(&mut self, name: String, fault: Fault, until: Duration) {
        if self.faults.contains_key(&name) {
            return;
        }
        self.note(format_args!("{name}: {fault:?} until {until:?}"));
        let to = self.called_by(&name);
        match fault {
            Fault::Partition => self.sim.partition(&*name, to),
            Fault::OneWay { to_bus: true } => self.sim.partition_oneway(&*name, to),
            Fault::OneWay { to_bus: false } => self.sim.partition_oneway(to, &*name),
            Fault::Hold => self.sim.hold(&*name, to),
            Fault::Crash => self.sim.crash(&*name),
        }
        self.faults.insert(name, (fault, until));
    }

    fn heal(&mut self, name: &str) {
        let Some((fault, _)) = self.faults.remove(name) else {
            return;
        };
        self.note(format_args!("{name}: {fault:?} is over"));
        let to = self.called_by(name);
        match fault {
            Fault::Partition | Fault::OneWay { .. } => self.sim.repair(name, to),
            Fault::Hold => self.sim.release(name, to),
            Fault::Crash => self.sim.bounce(name),
        }
    }

    fn all_is_delivered(&mut self) {
        let deadline = self.sim.elapsed() + DELIVERED;
        loop {
            self.step();
            let (undone, open) = (self.world.undone(), self.world.store.kept().open());
            if undone.is_empty() && open.is_empty() {
                break;
            }
            if self.sim.elapsed() > deadline {
                self.world.history.broken(format_args!(
                    "within {DELIVERED:?} after the last fault all is delivered and answered: {undone:?} are not done, \
                     and not settled are {open:?}"
                ));
                break;
            }
        }
        self.world.phase.send_replace(Phase::Over);
    }

    fn everybody_ends(&mut self) {
        let deadline = self.sim.elapsed() + ENDED;
        let mut hosts: Vec<_> = self.programs.iter().map(|(name, _)| name.clone()).collect();
        hosts.push("bus".to_owned());
        loop {
            self.step();
            hosts.retain(|host| self.sim.is_host_running(host.as_str()));
            if hosts.is_empty() {
                return;
            }
            if self.sim.elapsed() > deadline {
                self.world
                    .history
                    .broken(format_args!("everybody ends within {ENDED:?}: {hosts:?} do not"));
                return;
            }
        }
    }
}

/// One program: who it is, and whom it calls.
#[derive(Debug)]
pub struct Part {
    /// Its host.
    pub name: String,
    /// The bus's URL.
    pub url: String,
    /// How often its host was started.
    pub incarnation: u64,
    /// Its choices.
    pub dice: Dice,
    /// The world.
    pub world: World,
}
