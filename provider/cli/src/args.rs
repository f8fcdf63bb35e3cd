//! The command line.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, Subcommand};
use fanout_plan::subscription::Start;
use fanout_plan::{PlaceName, Position, SubscriptionName, TenantId, Timestamp, TypePattern, link};
use fanout_transport::Secret;
use jiff::tz::TimeZone;
use jiff::{Span, SpanRelativeTo};
use reqwest::Url;

use crate::listen::Listen;
use crate::nats::{How, Nats};
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
    /// Change this setting although stored events may be lost by it
    #[arg(long, value_name = "SETTING")]
    pub(crate) accept_loss: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Store {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    #[command(flatten)]
    pub(crate) nats: Nats,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) store: Store,
    /// The folder of the backup
    pub(crate) folder: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    /// Where the bus is
    #[arg(long, value_name = "URL")]
    pub(crate) from: Secret,
    /// Where it goes: another JetStream domain, from which a leaf node link leads to the first
    #[arg(long, value_name = "URL")]
    pub(crate) to: Secret,
    /// Say what there is and how far it has come, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave the bus where it was, and remove the copies; not once it has switched
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) back: bool,
    /// How long deliveries under way may take before the switch is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) drain_seconds: u64,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Events of these tenants only
    #[arg(long)]
    pub(crate) tenant: Vec<TenantId>,
    /// Events of these types only, such as `invoice.*`
    #[arg(long = "type", value_name = "PATTERN")]
    pub(crate) event_type: Vec<TypePattern>,
    /// Events that match the event pattern in this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) pattern: Option<PathBuf>,
    /// Begin here: first, a time such as 2026-11-22T10:00:00Z, or a position such as 0/42; without it, with the next event
    #[arg(long, value_parser = link::start)]
    pub(crate) from: Option<Start>,
    /// End after so many events; without it, never
    #[arg(long)]
    pub(crate) count: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) store: Store,
    /// The event, as JSON: {"tenant", "type", "source", "id", …, "data"}
    #[arg(value_name = "EVENT")]
    pub(crate) event: PathBuf,
    /// Of this subscription only
    pub(crate) subscription: Option<SubscriptionName>,
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

#[derive(Debug, clap::Args)]
pub(crate) struct Errors {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Of this subscription only
    pub(crate) subscription: Option<SubscriptionName>,
    /// Of this tenant only
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Refused in this time only, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub(crate) since: Option<Duration>,
}

/// A duration as people write it: `90s`, `1h`, `2 days`.
fn span(s: &str) -> Result<Duration, String> {
    let span: Span = s
        .parse()
        .map_err(|_| "write a duration, such as 30m, 1h or 2d".to_owned())?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours());
    let span = span.ok().and_then(|span| Duration::try_from(span).ok());
    span.ok_or_else(|| "write a duration that is not negative, in days at most".to_owned())
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
    /// Give them to the subscription they came from again, in each tenant's order; a letter goes once it is handled
    #[command(
        group = clap::ArgGroup::new("which").required(true).args(["numbers", "all"]),
        // From the group alone it would be the other way round.
        override_usage = "fanout dead-letters redrive [OPTIONS] <POLICY> <NUMBERS...|--all>"
    )]
    Redrive {
        #[command(flatten)]
        store: Store,
        /// Their numbers
        numbers: Vec<u64>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// With --all: of this subscription only
        #[arg(long, requires = "all")]
        subscription: Option<SubscriptionName>,
        /// With --all: of this tenant only
        #[arg(long, requires = "all")]
        tenant: Option<TenantId>,
    },
    /// Take them away for good, all of them or none; prints each as its receipt
    Discard {
        #[command(flatten)]
        store: Store,
        /// Their numbers
        #[arg(required = true)]
        numbers: Vec<u64>,
    },
}

/// What the log's lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// An object a line, with the names that spans have
    Json,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ready {
    /// Where it listens, such as https://bus.example.org:7780
    #[arg(
        value_name = "URL",
        env = "FANOUT_READY_URL",
        default_value = "http://127.0.0.1:7780"
    )]
    pub(crate) url: Url,
    /// Who signed its certificate, as PEM; without it, the system's authorities
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// What the log's lines are; what is logged says RUST_LOG
    #[arg(long, value_name = "FORMAT", env = "FANOUT_LOG", default_value = "text")]
    pub(crate) log: LogFormat,
    /// The policy, as TOML; read again on SIGHUP
    #[arg(long)]
    pub(crate) policy: PathBuf,
    /// Which of the policy's places this instance is at
    #[arg(long, value_name = "PLACE", env = "FANOUT_PLACE")]
    pub(crate) place: Option<PlaceName>,
    #[command(flatten)]
    pub(crate) nats: Nats,
    /// Where to listen, such as tcp://127.0.0.1:7761, https://0.0.0.0:7780 or unix:/run/bus.sock; may be given several
    /// times; instead of the policy's `listen`
    #[arg(long, value_name = "URL")]
    pub(crate) listen: Vec<String>,
    /// The server's certificate and those that signed it, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_certificate: Option<String>,
    /// Its key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<String>,
    /// Who signs callers' certificates, as PEM; callers must show one
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_client_ca: Option<String>,
    /// What that authority has revoked, as PEM or DER
    #[arg(long, value_name = "FILE", requires = "tls_client_ca")]
    pub(crate) tls_client_crl: Option<String>,
    /// Listen beyond this machine without knowing who calls: peers of the network may connect, and are nobody
    #[arg(long)]
    pub(crate) allow_unauthenticated_network_peers: bool,
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

#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    pub(crate) to: To,
    /// Whose event it is
    #[arg(long)]
    pub(crate) tenant: String,
    /// Its type, such as invoice.paid
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: String,
    /// Its id: the same one of its source again is the same event
    #[arg(long)]
    pub(crate) id: String,
    /// The payload: @FILE, - for standard input, or the text itself
    #[arg(long, default_value = "")]
    pub(crate) data: String,
    /// Where it comes from, a URI reference; without it, the caller's own source
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) source: String,
    /// What it is about
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// The payload's media type
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Events of one tenant with one key are kept in order
    #[arg(long, value_name = "KEY")]
    pub(crate) ordering_key: Option<String>,
    /// A CloudEvents extension; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = extension)]
    pub(crate) extension: Vec<(String, String)>,
    /// Publish it later: at a time such as 2026-11-22T10:00:00Z, or from now on such as +10m
    #[arg(long, value_name = "TIME", value_parser = later)]
    pub(crate) at: Option<Timestamp>,
    /// The W3C trace context that it is published in, as a `traceparent` header has it
    #[arg(long, value_name = "TRACEPARENT")]
    pub(crate) traceparent: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Subscribe {
    #[command(flatten)]
    pub(crate) to: To,
    /// What is needed
    #[arg(long)]
    pub(crate) need: Need,
    /// The subscription's name; the same one again goes on where it was
    #[arg(long)]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) events: Events,
    /// Print deliveries as JSON lines with a `token`, and settle each only by a line of standard input: `ack TOKEN`,
    /// `retry TOKEN [AFTER]` or `dead-letter TOKEN REASON`
    #[arg(long)]
    pub(crate) manual: bool,
    /// With --manual: at most so many deliveries that are not settled, 1 to 1000; with 1, TOKEN can always be left out
    #[arg(long, value_name = "DELIVERIES", requires = "manual", default_value_t = 64, value_parser = in_flight())]
    pub(crate) max_in_flight: u32,
}

/// Which events a subscription is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Where a backfill begins: first, a time such as 2026-11-22T10:00:00Z, or a position such as 0/42
    #[arg(long, value_parser = link::start)]
    pub(crate) from: Option<Start>,
    /// Of this tenant only; may be given several times
    #[arg(long)]
    pub(crate) tenant: Vec<String>,
    /// Events of these types only, such as invoice.*; may be given several times
    #[arg(long = "type", value_name = "PATTERN")]
    pub(crate) event_type: Vec<String>,
    /// Events that match the event pattern in this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) pattern: Option<PathBuf>,
    /// End after so many deliveries
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unsubscribe {
    #[command(flatten)]
    pub(crate) to: To,
    /// The subscription's name
    #[arg(long)]
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// Fast, at most once
    Queue,
    /// Everything from now on, at least once
    Durable,
    /// The retained log, then live
    Backfill,
    /// What the operator declared under this name
    Declared,
}

/// How many deliveries may be in flight: as many as a fetch of the bus brings at most.
pub(crate) fn in_flight() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1000)
}

/// A time, or after `+` how long from now.
fn later(s: &str) -> Result<Timestamp, String> {
    let time = match s.strip_prefix('+') {
        None => s.strip_prefix("time:").unwrap_or(s).parse().ok(),
        // Days are those of UTC: 24 hours.
        Some(wait) => wait.parse::<Span>().ok().and_then(|wait| {
            let due = jiff::Timestamp::now().to_zoned(TimeZone::UTC).checked_add(wait).ok()?;
            Some(due.timestamp().into())
        }),
    };
    time.ok_or_else(|| {
        "write a time such as 2026-11-22T10:00:00Z, or a wait such as +90s, +10m, +1h30m or +2d".to_owned()
    })
}

fn extension(s: &str) -> Result<(String, String), String> {
    s.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "write NAME=VALUE".to_owned())
}
