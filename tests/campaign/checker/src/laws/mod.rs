//! The laws. Each is a function of the facts to what breaks it.

mod accounted;
mod dead_letters;
mod identity;
mod isolation;
mod lifetimes;
mod losses;
mod order;
mod quotas;
mod receipts;
mod recovery;
mod refusals;
mod scheduled;
mod status;

use crate::Facts;

/// A law: its name, and what breaks it.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// Its name.
    pub name: &'static str,
    /// What it demands, for the report.
    pub demands: &'static str,
    /// What breaks it.
    pub holds: fn(&Facts<'_>) -> Vec<String>,
}

/// Every law.
pub const LAWS: [Law; 13] = [
    Law {
        name: "accounted",
        demands: "each accepted event was handled by each durable subscription, is a dead letter, is pending, or is named in a gap",
        holds: accounted::accounted,
    },
    Law {
        name: "order",
        demands: "first deliveries of a key never go back",
        holds: order::order,
    },
    Law {
        name: "isolation",
        demands: "no event reaches the wrong tenant, subscription or caller, or with a payload that is not its own",
        holds: isolation::isolation,
    },
    Law {
        name: "lifetimes",
        demands: "a subscription is given nothing from before it was asked for, nothing after its end, and no attempt of another's",
        holds: lifetimes::lifetimes,
    },
    Law {
        name: "identity",
        demands: "one position for one tenant, source and id within the window, and that position answered",
        holds: identity::identity,
    },
    Law {
        name: "receipts",
        demands: "no receipt for what is not in the log, at the durability that the policy names",
        holds: receipts::receipts,
    },
    Law {
        name: "refusals",
        demands: "what was refused is not in the log",
        holds: refusals::refusals,
    },
    Law {
        name: "scheduled",
        demands: "a scheduled event is published once and not before it is due, a cancelled one never",
        holds: scheduled::scheduled,
    },
    Law {
        name: "dead-letters",
        demands: "a dead letter holds the event, and the reasons that its subscriber gave for refusing it often enough",
        holds: dead_letters::dead_letters,
    },
    Law {
        name: "losses",
        demands: "an exact gap names as many events as were lost in it",
        holds: losses::losses,
    },
    Law {
        name: "status",
        demands: "what a status told was true at some moment between question and answer",
        holds: status::status,
    },
    Law {
        name: "quotas",
        demands: "no tenant publishes more than its quota lets it",
        holds: quotas::quotas,
    },
    Law {
        name: "recovery",
        demands: "every unavailability ends within the bound after the last fault healed",
        holds: recovery::recovery,
    },
];
