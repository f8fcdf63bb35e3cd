//! The command line of `listen`.

use std::path::PathBuf;

use clap::Arg;
use clap::builder::ArgPredicate;
use reqwest::Url;
use webhook_signature::Scheme;

use crate::args::To;
use crate::subscribe::{Events, Need, in_flight};
use crate::webhook::args::{parameter, scheme};

#[derive(Debug, clap::Args)]
#[command(mut_arg("to", unless_replayed))]
pub(crate) struct Listen {
    /// Unused with --replay: what a variable says of a bus is no error there, and what a flag says is.
    #[command(flatten)]
    pub(crate) to: To,
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) forward: Forward,
    /// Keep each event that comes as a file of this folder, which only this user may read: `--replay` posts it again
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
    /// Post the event in this file, which --save or `fanout --json subscribe` wrote, once and without a bus; - for
    /// standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["Which", "Events", "save", "tls_ca", "tls_certificate", "tls_key", "tls_server_name", "token_file", "component", "link", "timeout"]
    )]
    pub(crate) replay: Option<PathBuf>,
}

/// Whose events.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// What is needed
    #[arg(long, default_value = "durable")]
    pub(crate) need: Need,
    /// The subscription's name: it lasts, and the same one again goes on where it was. Without it, a new subscription
    /// that ends with this command
    #[arg(long, required_if_eq("need", "declared"))]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) events: Events,
    /// Post at most so many events at a time, 1 to 1000; with 1, one after the other
    #[arg(long, value_name = "DELIVERIES", default_value_t = 8, value_parser = in_flight())]
    pub(crate) max_in_flight: u32,
}

/// Where to, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Forward {
    /// Where to post each event, such as http://localhost:3000/hook
    #[arg(long = "forward", value_name = "URL", value_parser = http_url)]
    pub(crate) url: Url,
    /// Let --forward name a host other than this machine. Events hold what belongs to tenants: a name mistyped or copied
    /// from elsewhere would hand it to strangers, and without TLS to anyone on the way
    #[arg(long)]
    pub(crate) anywhere: bool,
    /// Seconds for a post and its answer; then the event is retried. Keep it below the bus's `delivery.ack-wait`, 30s by
    /// default
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) forward_timeout: u64,
    /// The authorities of the certificate of an https URL, PEM; by default the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) forward_tls_ca: Option<PathBuf>,
    /// Sign each post as a webhook by this scheme, such as standard-webhooks, with the event's id and the time it is
    #[arg(long, value_name = "SCHEME", value_parser = scheme, requires = "secret_file")]
    pub(crate) sign: Option<Scheme>,
    /// A file with the secret to sign with
    #[arg(long, value_name = "FILE", requires = "sign")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Take a secret of fewer than 16 bytes, which whoever sees one webhook can find by trying
    #[arg(long, requires = "sign")]
    pub(crate) allow_short_secret: bool,
    /// A parameter of the scheme; once for each
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter, requires = "sign")]
    pub(crate) parameters: Vec<(String, String)>,
}

/// The URL of a bus, which --replay needs none of: it takes the place of one that is no bus's.
fn unless_replayed(to: Arg) -> Arg {
    to.required(false)
        .required_unless_present("replay")
        .default_value_if("replay", ArgPredicate::IsPresent, "none:")
}

fn http_url(text: &str) -> Result<Url, String> {
    let expected = "write an http or https URL such as http://localhost:3000/hook";
    let url: Url = text.parse().map_err(|error| format!("{error}: {expected}"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(format!("{other} is not spoken here: {expected}")),
    }
}
