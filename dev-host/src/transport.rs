//! What carries calls and deliveries between the host and the bus, and the configuration that each takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fanout_transport::Pem;
use fanout_transport::testing::TestAuthority;

/// The name that the bus's policy knows the edge by, in its certificate.
const EDGE: &str = "edge.fanout.example";

/// The transports of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Transport {
    /// The provider in the host is the bus: calls and deliveries go over the lattice
    #[default]
    Nats,
    /// The bus is another process with a store of its own, reached over plain TCP
    Tcp,
    /// The same over QUIC with mutual TLS, by certificates made for the run
    Quic,
}

impl Transport {
    /// For a person.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::Tcp => "TCP",
            Self::Quic => "QUIC with mutual TLS",
        }
    }

    /// For a program.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }

    /// Where the bus is told to listen; `None` when it is the provider itself.
    pub(crate) fn listen(self) -> Option<&'static str> {
        match self {
            Self::Nats => None,
            Self::Tcp => Some("tcp://127.0.0.1:0"),
            Self::Quic => Some("quic://127.0.0.1:0"),
        }
    }
}

/// Files that two sides show each other.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) authority: PathBuf,
    pub(crate) bus: (PathBuf, PathBuf),
    pub(crate) edge: (PathBuf, PathBuf),
}

impl Certificates {
    /// Makes an authority that signs for this run alone, and writes what each side needs. Its own key is in no file.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let authority = TestAuthority::new();
        let signed = |name: &str, file: &str| -> Result<(PathBuf, PathBuf)> {
            let identity = authority.sign(name);
            Ok((
                write(folder.join(format!("{file}.pem")), &identity.certificate)?,
                write(folder.join(format!("{file}.key")), &identity.key)?,
            ))
        };
        Ok(Self {
            bus: signed("localhost", "bus")?,
            edge: signed(EDGE, "edge")?,
            authority: write(folder.join("ca.pem"), &authority.certificate())?,
        })
    }
}

fn write(path: PathBuf, pem: &Pem) -> Result<PathBuf> {
    let Pem::Text(text) = pem else {
        bail!("a certificate of this run is no text");
    };
    std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// The policy file of the bus: the manifest's own policy, and the one caller that there is.
pub(crate) fn policy_file(policy: &BTreeMap<String, String>, certificates: Option<&Certificates>) -> Result<String> {
    let mut lines = String::new();
    for (key, value) in policy {
        // A TOML string; JSON's escapes are a subset of TOML's.
        let value = serde_json::to_string(value).context("a setting can't be quoted")?;
        lines += &format!("{key} = {value}\n");
    }
    let known = match certificates {
        Some(_) => format!("certificate-dns = \"{EDGE}\""),
        None => "loopback = true".to_owned(),
    };
    Ok(format!(
        "{lines}\n[callers.edge]\n{known}\npublish.tenants = \"*\"\nsubscribe.tenants = \"*\"\n"
    ))
}

/// What the provider in the host is configured with instead of that policy.
pub(crate) fn edge_settings(
    policy: &BTreeMap<String, String>,
    upstream: &str,
    certificates: Option<&Certificates>,
) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([
        ("role".to_owned(), "edge".to_owned()),
        ("upstream".to_owned(), upstream.to_owned()),
    ]);
    if let Some(deadline) = policy.get("delivery.deadline") {
        settings.insert("delivery.deadline".to_owned(), deadline.clone());
    }
    if let Some(Certificates {
        authority,
        edge: (certificate, key),
        ..
    }) = certificates
    {
        let files = [
            ("tls.server-ca", authority),
            ("tls.certificate", certificate),
            ("tls.key", key),
        ];
        settings.extend(files.map(|(key, path)| (key.to_owned(), path.display().to_string())));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_goes_to_the_bus_and_the_edge_gets_the_way_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::make(folder.path()).expect("made");
        let policy = BTreeMap::from([
            ("bus".to_owned(), "payments".to_owned()),
            ("delivery.deadline".to_owned(), "2s".to_owned()),
        ]);
        let file = policy_file(&policy, Some(&certificates)).expect("a policy");
        assert!(
            file.starts_with("bus = \"payments\"\ndelivery.deadline = \"2s\"\n"),
            "{file}"
        );
        assert!(
            file.contains("certificate-dns = \"edge.fanout.example\"") && !file.contains("loopback"),
            "{file}"
        );
        let plain = policy_file(&policy, None).expect("a policy");
        assert!(plain.contains("loopback = true"), "{plain}");

        let settings = edge_settings(&policy, "quic://127.0.0.1:1", Some(&certificates));
        let keys: Vec<_> = settings.keys().map(String::as_str).collect();
        let expected = [
            "delivery.deadline",
            "role",
            "tls.certificate",
            "tls.key",
            "tls.server-ca",
            "upstream",
        ];
        assert_eq!(keys, expected);
        for file in ["ca.pem", "bus.pem", "bus.key", "edge.pem", "edge.key"] {
            let text = std::fs::read_to_string(folder.path().join(file)).expect("written");
            assert!(text.starts_with("-----BEGIN"), "{file}");
        }
    }
}
