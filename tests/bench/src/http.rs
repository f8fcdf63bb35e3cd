//! The bus over HTTP, beside a session on a Unix socket and the plain client: publishing, fetching and settling, and live
//! tails.
//!
//! The callers over HTTP write requests and scan responses, and do nothing else: what a client library costs is its own.

mod connection;
mod fetching;
mod publishing;
mod tails;

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use fanout_tests::free_ports;
use fanout_transport::{ConnectOptions, Remote, raise_open_files};

use crate::case::Size;
use crate::report::Report;
use crate::world::World;

/// Callers that are known by tokens: each may have 448 live tails.
pub(crate) const TOKENS: [&str; 3] = ["fanout_bench-one", "fanout_bench-two", "fanout_bench-three"];
/// Their SHA-256.
pub(crate) const HASHES: [&str; 3] = [
    "f34cb7904c58d2f9029e24480a5c3b1fd984de2c8609482071c74c1a64c37b40",
    "b698413d579caebeb47c9f2846c8b36412eae7f941c707d6a13db2698b29793c",
    "e22e7d0c825655281470b97629ae5186eb1aea01d9fe2338ae212e9b6a3abaf1",
];

/// A bus that is reached in each way.
struct Ways {
    world: World,
    unix: Remote,
    /// Of HTTP.
    address: String,
    _folder: tempfile::TempDir,
}

impl Ways {
    async fn start() -> Result<Self> {
        // A thousand readers, each with a connection.
        raise_open_files();
        let folder = tempfile::tempdir()?;
        let socket = format!("unix:{}", folder.path().join("bus.sock").display());
        let user = std::fs::metadata(folder.path())?.uid().to_string();
        let address = format!("127.0.0.1:{}", free_ports(1)[0]);
        let listen = format!("{socket}, http://{address}");
        let mut settings = vec![
            ("listen".to_owned(), listen),
            ("callers.here.unix-uid".to_owned(), user),
            ("callers.local.loopback".to_owned(), "true".to_owned()),
        ];
        for (i, hash) in HASHES.iter().enumerate() {
            settings.push((format!("callers.tail-{i}.token-sha256"), (*hash).to_owned()));
            settings.push((format!("callers.tail-{i}.subscribe.tenants"), "*".to_owned()));
        }
        for caller in ["here", "local"] {
            settings.push((format!("callers.{caller}.publish.tenants"), "*".to_owned()));
            settings.push((format!("callers.{caller}.subscribe.tenants"), "*".to_owned()));
        }
        let settings: Vec<_> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let world = World::start(None, &settings, &[]).await;
        Ok(Self {
            unix: Remote::connect(&socket.parse()?, ConnectOptions::default()).await?,
            world,
            address,
            _folder: folder,
        })
    }
}

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let ways = Ways::start().await?;
    publishing::run(report, size, &ways).await?;
    fetching::run(report, size, &ways).await?;
    tails::run(report, size, &ways).await
}
