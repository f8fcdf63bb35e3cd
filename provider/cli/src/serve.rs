//! `serve`: the bus as a plain server.

use std::path::PathBuf;

use anyhow::Result;
use fanout_plan::PlaceName;
use fanout_plan::listen::{Listening, TlsFiles};
use fanout_provider::{ServeError, Server, TailLimits};

use crate::bus;
use crate::nats::Nats;
use crate::terminal::{json_line, say};

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

/// What the log's lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// An object a line, with the names that spans have
    Json,
}

pub(crate) async fn serve(args: &Serve, json: bool) -> Result<()> {
    fanout_provider::log_as_json(args.log == LogFormat::Json);
    fanout_provider::log_to_standard_error();
    let connection = args.nats.connection()?;
    let shown = connection.access.shown();
    let tls = args.tls_certificate.clone().zip(args.tls_key.clone());
    let server = Server {
        policy: args.policy.clone(),
        place: args.place.clone(),
        nats: connection.access,
        jetstream: connection.jetstream,
        listening: Listening {
            endpoints: args.listen.clone(),
            tls: tls.map(|(certificate, key)| TlsFiles {
                certificate,
                key,
                client_ca: args.tls_client_ca.clone(),
                client_crl: args.tls_client_crl.clone(),
            }),
            allow_unauthenticated_network_peers: args.allow_unauthenticated_network_peers,
            by_flags: !args.listen.is_empty() || args.tls_certificate.is_some(),
            ..Listening::default()
        },
        tails: TailLimits::default(),
    };
    fanout_provider::serve(server, |bus, endpoints| {
        let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        let said = if json {
            say!(
                "{}",
                json_line(&serde_json::json!({ "serving": bus, "listen": endpoints }))
            )
        } else {
            say!("serving bus {bus} on {}", endpoints.join(" "))
        };
        // A server whose output nobody reads serves all the same.
        drop(said);
    })
    .await
    .map_err(|e| {
        let what = match &e {
            ServeError::Store(source) => bus::why(source, &shown),
            _ => return e.into(),
        };
        anyhow::Error::new(e).context(what)
    })
}
