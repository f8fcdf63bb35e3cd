//! The command line: its verbs, and the arguments that several of them take. A verb that has a file has its own there.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use fanout_plan::subscription::Start;
use fanout_plan::{LossAllowed, PlaceName, Position, SubscriptionName, TenantId, link};
use fanout_transport::Secret;
use jiff::{Span, SpanRelativeTo};

use crate::backup::Backup;
use crate::dead_letters::DeadLetters;
use crate::errors::Errors;
use crate::listen::Listen;
use crate::migrate::Migrate;
use crate::nats::{How, Nats};
use crate::publish::Publish;
use crate::ready::Ready;
use crate::serve::Serve;
use crate::subscribe::{Subscribe, Unsubscribe};
use crate::tail::Tail;
use crate::webhook::Webhook;
use crate::why::Why;

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
    /// Say everything that is wrong with a policy, and what could be lost under it; of what a server holds, if one is
    /// named (--nats, --context, or their variables)
    Check(Explain),
    /// Say what a policy makes in the store: each part, why it exists, which rule it keeps to, what it costs
    Explain(Explain),
    /// Say what each server of a bus needs under a load: disk, memory, open files, with the formula of each figure
    Size(Size),
    /// Show the steps that would bring a store to a policy, an empty one unless a server is named (--nats, --context, or
    /// their variables); changes nothing
    Plan(Store),
    /// Take those steps
    Apply(Apply),
    /// Say how a bus and its subscriptions are doing
    Status(Store),
    /// Take a whole bus to another server or cluster, a JetStream domain of its own, while it runs
    Migrate(Migrate),
    /// Put one subscription back to an earlier place in the log; no other notices
    Rewind {
        #[command(flatten)]
        store: Store,
        /// The subscription
        subscription: SubscriptionName,
        /// Where it begins again: first, a time such as 2026-11-22T10:00:00Z, or a position such as 0/42
        #[arg(long, value_parser = link::start)]
        to: Start,
        /// Pass over events before that place that it has not handled
        #[arg(long)]
        skip_unhandled: bool,
    },
    /// Stop the deliveries of a subscription; its events are kept for as long as the log keeps them
    Pause {
        #[command(flatten)]
        store: Store,
        /// The subscription
        subscription: SubscriptionName,
    },
    /// Let the deliveries of a subscription go on
    Resume {
        #[command(flatten)]
        store: Store,
        /// The subscription
        subscription: SubscriptionName,
    },
    /// Hand a subscription over to another place of its bus: it goes on there where it was
    ///
    /// What was interrupted is finished by the same command again; with the place that the subscription comes from, it goes on there.
    /// With --from-lost the place that has it need not be there: the subscription goes on by what the other places know of it.
    Move {
        #[command(flatten)]
        store: Store,
        /// The subscription
        subscription: SubscriptionName,
        /// The place that is to deliver it
        #[arg(long, value_name = "PLACE")]
        to: PlaceName,
        /// How long what is in flight is awaited, such as 10s; without it, as long as an event can be in flight
        #[arg(long, value_name = "DURATION", value_parser = span)]
        within: Option<Duration>,
        /// The place that has it is lost, and can't hand it over: what it handled last, which nobody else knows, comes again
        #[arg(long, conflicts_with = "within")]
        from_lost: bool,
    },
    /// Say what subscriptions lost because it expired, or was purged, before they handled it
    Lost {
        #[command(flatten)]
        store: Store,
        /// Of this subscription only
        subscription: Option<SubscriptionName>,
        /// Tell of it no more: somebody has seen it
        #[arg(long)]
        seen: bool,
    },
    /// Copy the streams of a bus into a folder, with what is settled; the bus goes on meanwhile
    Backup(Backup),
    /// Put the streams of a backup back where none of them is, before the bus is started
    Restore(Backup),
    /// Follow the log
    Tail(Tail),
    /// Say where an event is stored, and what became of it at each subscription
    Event(OneEvent),
    /// Say why events are refused: each reason with its dead letters and retries, first and last time and an example
    Errors(Errors),
    /// Look at events that were dead-lettered, give them to their subscription again, or take them away
    DeadLetters(DeadLetters),
    /// Verify, sign or send one webhook
    Webhook(Webhook),
    /// Run a bus as a server, for programs that connect
    Serve(Serve),
    /// Make a token, by which a program that calls over HTTP is known
    ///
    /// The token is printed once, alone on standard output, and kept nowhere: `fanout token > orders.token`. The line for the
    /// policy, which holds only the token's SHA-256, goes to standard error.
    Token,
    /// Publish an event to a bus
    Publish(Publish),
    /// Print a subscription's events, one on a line, and acknowledge each; it lasts until `unsubscribe`
    ///
    /// A subscription lasts after the command ends, and its events wait for whoever asks for them under its name:
    /// `fanout unsubscribe` ends it. One that the operator declared ends with its declaration.
    ///
    /// With --manual each delivery is a line of JSON with a `token`, and a program settles it by a line that it writes to
    /// standard input: `ack TOKEN`, `retry TOKEN [AFTER]` (such as `retry 3 10s`; without AFTER, by the bus's schedule) or
    /// `dead-letter TOKEN REASON`. Where one delivery alone is in flight, TOKEN may be left out. A bad line is reported on
    /// standard error and settles nothing. The end of standard input ends the command, and releases what is in flight.
    Subscribe(Subscribe),
    /// Post a subscription's events to a program on this machine, and acknowledge each that it takes
    ///
    /// An answer of 2xx acknowledges an event. Any other answer, and none, asks for a retry: it comes again by the bus's
    /// schedule, and becomes a dead letter once its attempts are used up. Without --name the subscription is this
    /// command's own and ends with it; with --name it lasts until `fanout unsubscribe`.
    Listen(Box<Listen>),
    /// Say whether an event matches an event pattern, and if not, which field stops it
    ///
    /// Exit codes: 0 it matches, 1 it does not, 2 the pattern or the event is not legal.
    Match {
        /// The event pattern, as JSON
        #[arg(long, value_name = "FILE")]
        pattern: PathBuf,
        /// The event, as JSON: {"tenant", "type", "source", "id", …, "data"}
        #[arg(value_name = "EVENT")]
        event: PathBuf,
    },
    /// Say which subscriptions an event is for, and of the others what stops it: its tenant, its type, what the subscriber may
    /// have, or a field that the event pattern wants otherwise
    ///
    /// Looks at what the policy declares; where a server is named (--nats, --context, or their variables), at all subscriptions of
    /// its bus. Of what the links of components grant, a policy says nothing.
    ///
    /// Exit codes: 0 it is for one of them, 1 it is for none, 2 the policy or the event is not legal, or there is no such
    /// subscription, 3 the store can't be reached.
    Why(Why),
    /// End a subscription: what waits for it is no longer kept for it
    Unsubscribe(Unsubscribe),
    /// Say whether a bus that listens on HTTP can be used: a health check
    ///
    /// Exit codes: 0 it can, 1 it can't, 3 it can't be reached.
    Ready(Ready),
    /// Write the manual pages, for `man`
    #[command(hide = true)]
    ManualPages {
        /// The folder for them; with --json they are printed
        folder: Option<PathBuf>,
    },
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
    /// Which of the policy's places this is about
    #[arg(long, value_name = "PLACE", env = "FANOUT_PLACE")]
    pub(crate) place: Option<PlaceName>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Events a second to count costs with
    #[arg(long, default_value_t = 100)]
    pub(crate) rate: u64,
    /// Bytes of an event's payload to count costs with
    #[arg(long, default_value_t = 1024)]
    pub(crate) event_bytes: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Size {
    #[command(flatten)]
    pub(crate) load: Explain,
    /// Tenants that publish
    #[arg(long, default_value_t = 100)]
    pub(crate) tenants: u64,
    /// Event types of each tenant
    #[arg(long, default_value_t = 10)]
    pub(crate) event_types: u64,
    /// Connections to one server: instances of the bus, and other clients
    #[arg(long, default_value_t = 10)]
    pub(crate) connections: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Change this setting, subscription or place although stored events may be lost by it
    #[arg(long, value_name = "SETTING")]
    pub(crate) accept_loss: Vec<LossAllowed>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Store {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    #[command(flatten)]
    pub(crate) nats: Nats,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OneEvent {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Its id, with --tenant, or its position, such as 0/42
    pub(crate) which: Which,
    /// The tenant of the event
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Its source, where an id stands for several events
    #[arg(long)]
    pub(crate) source: Option<String>,
}

/// An event, as it is looked for.
#[derive(Clone, Debug)]
pub(crate) enum Which {
    Position(Position),
    Id(String),
}

impl FromStr for Which {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Infallible> {
        Ok(match link::start(s) {
            Ok(Start::Position(position)) => Self::Position(position),
            _ => Self::Id(s.to_owned()),
        })
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Id(id) => write!(f, "{id:?}"),
        }
    }
}

/// A bus, and who calls it.
#[derive(Debug, clap::Args)]
pub(crate) struct To {
    /// The bus: tcp://, tls://, unix:, quic://, webtransport://, http://, https://, or nats://…?target=LATTICE.PROVIDER
    #[arg(long, value_name = "URL", env = "FANOUT_BUS", hide_env_values = true)]
    pub(crate) to: Secret,
    /// Who signed the bus's certificate, as PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The certificate to show, as PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// Its key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The name in the bus's certificate, where it is not the URL's host
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub(crate) tls_server_name: Option<String>,
    /// On http and https: a file with the token to show, as `fanout token` makes one; instead of FANOUT_TOKEN, which holds the
    /// token itself
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) nats: How,
    /// On a lattice: the component to call as
    #[arg(long, value_name = "ID")]
    pub(crate) component: Option<String>,
    /// On a lattice: the link to call by
    #[arg(long, default_value = "default")]
    pub(crate) link: String,
    /// Seconds for a whole request, tries and waits for a quota included
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: u64,
}

/// A duration as people write it: `90s`, `1h`, `2 days`.
pub(crate) fn span(s: &str) -> Result<Duration, String> {
    let span: Span = s
        .parse()
        .map_err(|_| "write a duration, such as 30m, 1h or 2d".to_owned())?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let span = span.ok().and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| "write a duration that is not negative, in days at most".to_owned())
}
