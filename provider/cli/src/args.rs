//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use fanout_plan::{SubscriptionName, TenantId};

use crate::webhook::Webhook;

/// A bus, planned and looked after from the command line.
///
/// Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the store, or a URL, can't be reached.
#[derive(Debug, Parser)]
#[command(name = "fanout", version)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Read a policy and say everything that is wrong with it
    Check(PolicyFile),
    /// Say what a policy makes in the store: each part, why it exists, which rule it keeps to, what it costs
    Explain(Explain),
    /// Show the steps that would bring a store to a policy; changes nothing
    Plan(Plan),
    /// Take those steps
    Apply(Apply),
    /// Say how a bus and its subscriptions are doing
    Status(Store),
    /// Look at events that were set aside, and take them away
    DeadLetters(DeadLetters),
    /// Verify, sign or send one webhook
    Webhook(Webhook),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyFile {
    /// The policy, as TOML
    pub(crate) policy: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    /// Explain the subscriptions of this server's bus too
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
    /// Events a second to count costs with
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u64,
    /// Bytes of an event's payload to count costs with
    #[arg(long, default_value_t = 1024)]
    pub(crate) event_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    /// Compare with what this server holds; without it, with an empty store
    #[arg(long, value_name = "URL")]
    pub(crate) nats: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) store: Store,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Store {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    /// The NATS server
    #[arg(long, value_name = "URL", env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    pub(crate) nats: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    pub(crate) verb: DeadLetterVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterVerb {
    /// List them, oldest first
    List {
        #[command(flatten)]
        store: Store,
        /// Of this subscription only
        #[arg(long)]
        subscription: Option<SubscriptionName>,
        /// Of this tenant only
        #[arg(long)]
        tenant: Option<TenantId>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show one, with its attributes, attempts and payload
    Show {
        #[command(flatten)]
        store: Store,
        /// Its number
        number: u64,
    },
    /// Take one away for good; prints it as its receipt
    Discard {
        #[command(flatten)]
        store: Store,
        /// Its number
        number: u64,
    },
}
