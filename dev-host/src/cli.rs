//! The command line of `fanout-dev`. `cargo xtask demo` fills in the paths; tests give them by environment.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::transport::Transport;

/// nats-server, wadm and a wasmCloud host in one process.
#[derive(Debug, Parser)]
#[command(name = "fanout-dev", version, about)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the parts, deploy a manifest, say READY, and stay until a signal or the end of standard input
    Up(Up),
    /// Tell the story: thousands of webhooks, a subscriber down, the provider killed, a late backfill, poison events
    Demo(Demo),
    /// Run a component on a bus over wRPC, without a wasmCloud host
    Run(Run),
    /// Run a command until standard input ends, however its parent ends
    Guard(Guard),
}

/// Where the parts are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Parts {
    /// The nats-server to run, 2.11 or newer
    #[arg(long, env = "FANOUT_NATS_SERVER", default_value = "nats-server")]
    pub(crate) nats_server: PathBuf,
    /// The fanout-provider binary
    #[arg(long, env = "FANOUT_PROVIDER_BIN")]
    pub(crate) provider: Option<PathBuf>,
    /// The fanout-dev-keyvalue binary
    #[arg(long, env = "FANOUT_KEYVALUE_BIN")]
    pub(crate) keyvalue: Option<PathBuf>,
    /// The `fanout` binary, for a bus that is a process of its own
    #[arg(long, env = "FANOUT_BIN")]
    pub(crate) fanout: Option<PathBuf>,
    /// The folder with the components (*.wasm)
    #[arg(long, env = "FANOUT_COMPONENTS")]
    pub(crate) components: Option<PathBuf>,
    /// The wadm manifest, with placeholders such as @PARTS@
    #[arg(long, env = "FANOUT_MANIFEST")]
    pub(crate) manifest: PathBuf,
    /// What the run's secrets backend hands out: a JSON object of texts, by the key that the manifest gives
    #[arg(long, env = "FANOUT_SECRETS", value_name = "FILE")]
    pub(crate) secrets: Option<PathBuf>,
    /// Where a failed run leaves its logs; by default, beside the other temporary folders
    #[arg(long, env = "FANOUT_LOGS")]
    pub(crate) logs: Option<PathBuf>,
}

/// `fanout-dev up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) parts: Parts,
    /// Print one line of JSON instead of the READY lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// `fanout-dev demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    pub(crate) parts: Parts,
    /// What carries calls and deliveries between the host and the bus
    #[arg(long, value_enum, default_value_t)]
    pub(crate) transport: Transport,
    /// How many webhooks to post
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) events: u32,
    /// The seed that the webhooks are made from
    #[arg(long, default_value_t = 7)]
    pub(crate) seed: u64,
    /// How many requests may be under way at once
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) concurrency: u32,
    /// How many seconds the parts may take until everything answers
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub(crate) ready_limit: f64,
    /// Leave everything running afterwards and print commands to try
    #[arg(long)]
    pub(crate) stay: bool,
    /// Write the numbers to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// `fanout-dev guard`.
#[derive(Debug, Args)]
pub(crate) struct Guard {
    /// A folder to remove once the command has ended
    #[arg(long, value_name = "DIR")]
    pub(crate) remove: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

/// `fanout-dev run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The component, the very file that a wasmCloud host would be given
    pub(crate) component: PathBuf,
    /// The bus: tcp://, tls://, unix:, quic://, webtransport://, or nats://host:port?target=LATTICE.BUS
    #[arg(long, value_parser = bus)]
    pub(crate) bus: Result<fanout_transport::Endpoint, fanout_transport::EndpointError>,
    /// The component's name; by default, that of its file
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where its `wasi:http/incoming-handler` is served, an address of this machine
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<std::net::SocketAddr>,
    /// A value of its `wasi:config`; any number of times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) config: Vec<(String, String)>,
    /// A secret of its `wasmcloud:secrets`, read from a file; any number of times
    #[arg(long, value_name = "KEY=FILE", value_parser = key_value)]
    pub(crate) secret: Vec<(String, String)>,
    /// A subscription, in the words of a link's settings: "subscription=invoicing need=durable event-types=invoice.*";
    /// any number of times
    #[arg(long, value_name = "SETTINGS")]
    pub(crate) subscribe: Vec<String>,
    /// How long one invocation of the component may take
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub(crate) deadline_ms: u64,
    /// The authorities of the bus's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// The certificate that is shown to the bus, PEM
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Print one line of JSON instead of the READY line
    #[arg(long)]
    pub(crate) json: bool,
}

/// One that can't be read is told later: the message that is made here would repeat it, a password of NATS included.
fn bus(text: &str) -> Result<Result<fanout_transport::Endpoint, fanout_transport::EndpointError>, Infallible> {
    Ok(text.parse())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
