//! The experiments by name, and what each is given and gives back.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum;

use crate::plot::Plot;
use crate::raw::Raw;
use crate::table::Table;
use crate::{latency, leaf, migration, mirrored, regions, retention, subjects, transport};

/// How large an experiment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Seconds: shows that the harness works.
    Smoke,
    /// Minutes.
    Quick,
    /// What the question asks for.
    Full,
}

impl Scale {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }

    /// One of three sizes.
    pub(crate) fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What an experiment works with.
pub(crate) struct Lab {
    pub(crate) scale: Scale,
    seed: u64,
    pub(crate) raw: Raw,
    started: std::time::Instant,
}

impl Lab {
    pub(crate) fn new(scale: Scale, seed: u64, raw: Raw) -> Self {
        Self {
            scale,
            seed,
            raw,
            started: std::time::Instant::now(),
        }
    }

    /// One of `choices`, by the seed: the `i`th draw is the same in every run (splitmix64).
    pub(crate) fn draw(&self, i: u64, choices: u64) -> u64 {
        mixed(
            self.seed
                .wrapping_add(i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        ) % choices
    }

    /// Says what is under way.
    pub(crate) fn say(&self, what: impl AsRef<str>) {
        let seconds = self.started.elapsed().as_secs_f64();
        tell!("{seconds:7.1} s  {}", what.as_ref());
    }
}

/// A number's bits, well mixed (splitmix64's last step).
pub(crate) fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What came of an experiment.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) tables: Vec<Table>,
    pub(crate) plots: Vec<Plot>,
    /// The few figures that the summary tells, by name.
    pub(crate) figures: BTreeMap<String, String>,
}

impl Findings {
    /// A figure for the summary.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<String>) {
        self.figures.insert(name.to_owned(), value.into());
    }
}

/// The experiments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Experiment {
    /// Does a tenant prefix isolate, or do streams of their own scale better?
    Subjects,
    /// What is lost, and what is said about it, when the consumer is down?
    Retention,
    /// Does a leaf node with a filtered mirror keep the semantics?
    Leaf,
    /// The same through a bus with places: a part of the page on the leaf.
    LeafFanout,
    /// Does one logical bus hold over two regions and a leaf?
    Regions,
    /// The same through a bus with places: a part of the page on regions.
    RegionsFanout,
    /// How long does a whole bus take to go to another server?
    Migration,
    /// What changes with the transport, across a line with delay and loss?
    Transport,
    /// How long from a publish to a handler?
    Latency,
}

impl Experiment {
    /// All of them, in the order of the questions.
    pub(crate) const ALL: [Self; 9] = [
        Self::Subjects,
        Self::Retention,
        Self::Leaf,
        Self::LeafFanout,
        Self::Regions,
        Self::RegionsFanout,
        Self::Migration,
        Self::Transport,
        Self::Latency,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Subjects => "subjects",
            Self::Retention => "retention",
            Self::Leaf => "leaf",
            Self::LeafFanout => "leaf-fanout",
            Self::Regions => "regions",
            Self::RegionsFanout => "regions-fanout",
            Self::Migration => "migration",
            Self::Transport => "transport",
            Self::Latency => "latency",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Subjects => "one log for all tenants, a few shards, or a stream for each",
            Self::Retention => "what a consumer that was away finds when it is back",
            Self::Leaf => "a leaf node with a filtered mirror, and its link cut",
            Self::LeafFanout => "a place that is a leaf, beside a bare mirror",
            Self::Regions => "two regions and a leaf, and each link cut",
            Self::RegionsFanout => "places in two regions and a leaf, beside bare mirrors",
            Self::Migration => "a whole bus to another server, beside a bare mirror",
            Self::Transport => "the same program over NATS, TCP and QUIC",
            Self::Latency => "how long from a publish to a handler",
        }
    }

    /// The experiment on whose page it has a part, which is written without the rest of the page.
    pub(crate) fn part_of(self) -> Option<Self> {
        match self {
            Self::LeafFanout => Some(Self::Leaf),
            Self::RegionsFanout => Some(Self::Regions),
            _ => None,
        }
    }

    /// What its page is called.
    pub(crate) fn file(self) -> String {
        format!("{}.md", self.part_of().unwrap_or(self).name())
    }

    /// The page, or the part of one, with places for tables and plots.
    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::Subjects => include_str!("../pages/subjects.md"),
            Self::Retention => include_str!("../pages/retention.md"),
            Self::Leaf => include_str!("../pages/leaf.md"),
            Self::LeafFanout => include_str!("../pages/leaf-fanout.md"),
            Self::Regions => include_str!("../pages/regions.md"),
            Self::RegionsFanout => include_str!("../pages/regions-fanout.md"),
            Self::Migration => include_str!("../pages/migration.md"),
            Self::Transport => include_str!("../pages/transport.md"),
            Self::Latency => include_str!("../pages/latency.md"),
        }
    }

    pub(crate) async fn run(self, lab: &Lab) -> Result<Findings> {
        match self {
            Self::Subjects => subjects::run(lab).await,
            Self::Retention => retention::run(lab).await,
            Self::Leaf => leaf::run(lab).await,
            Self::LeafFanout => mirrored::leaf(lab).await,
            Self::Regions => regions::run(lab).await,
            Self::RegionsFanout => mirrored::regions(lab).await,
            Self::Migration => migration::run(lab).await,
            Self::Transport => transport::run(lab).await,
            Self::Latency => latency::run(lab).await,
        }
    }
}
