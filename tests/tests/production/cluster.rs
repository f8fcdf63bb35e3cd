//! The three servers of `deploy/nats` on this machine, and what programs do on them.

use std::path::{Path, PathBuf};

use async_nats::ConnectOptions;
use fanout_tests::{SERVED_POLICY, eventually, fanout_output, free_ports, refused_to};
use fanout_transport::Pem;
use fanout_transport::testing::{NatsServer, NatsSettings, TestAuthority};

/// A bcrypt hash of `operator-password`, at the lowest cost there is.
pub(crate) const OPERATOR_HASH: &str = "$2b$04$a1A69Zei8FoMpKId8JxJeuQy/Z1ePBZb2yjVsS/ySDCEH85JF5F1G";

/// A caller on the loopback, and copies that are on the disks of most servers when a publisher has its receipt.
pub(crate) const THREE_COPIES: &str = "
durability = \"on-disk\"
retention.replicas = 3

[callers.anyone]
loopback = true
publish.tenants = \"*\"
subscribe.tenants = \"*\"
";

pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nats")).join(name)
}

pub(crate) fn password(user: &str) -> String {
    format!("{user}-password")
}

/// Writes what an authority made.
pub(crate) fn write(folder: &Path, name: &str, pem: &Pem) -> String {
    let Pem::Text(text) = pem else {
        panic!("an authority makes text")
    };
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The three servers of `deploy/nats`.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<NatsServer>,
    monitors: Vec<u16>,
    folder: tempfile::TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new();
        let ca = write(folder.path(), "ca.pem", &authority.certificate());
        let ports = free_ports(9);
        let mut servers = Vec::new();
        for n in 1..=3 {
            let name = format!("fanout-{n}");
            let shown = authority.sign(&name);
            let store = folder.path().join(&name);
            let mut variables = vec![
                ("CA".to_owned(), ca.clone()),
                (
                    "CERTIFICATE".to_owned(),
                    write(folder.path(), &format!("{name}.pem"), &shown.certificate),
                ),
                (
                    "KEY".to_owned(),
                    write(folder.path(), &format!("{name}.key"), &shown.key),
                ),
                ("LISTEN".to_owned(), format!("127.0.0.1:{}", ports[n - 1])),
                ("ROUTES_LISTEN".to_owned(), format!("127.0.0.1:{}", ports[n + 2])),
                ("MONITOR".to_owned(), format!("127.0.0.1:{}", ports[n + 5])),
                ("STORE".to_owned(), store.display().to_string()),
                ("DISK".to_owned(), "8GB".to_owned()),
                ("SYNC".to_owned(), "always".to_owned()),
            ];
            for other in 1..=3 {
                let url = format!("tls://127.0.0.1:{}", ports[other + 2]);
                variables.push((format!("ROUTE_{other}"), url));
            }
            let mut variables: Vec<_> = variables
                .into_iter()
                .map(|(name, value)| (format!("FANOUT_NATS_{name}"), value))
                .collect();
            for user in ["bus", "operator", "monitor", "backup", "host", "system"] {
                // A hash holds `$`, and stands in quotes of the configuration for that.
                let secret = match user {
                    "operator" => format!("'{OPERATOR_HASH}'"),
                    _ => password(user),
                };
                variables.push((format!("FANOUT_{}_PASSWORD", user.to_uppercase()), secret));
            }
            let settings = NatsSettings {
                port: Some(ports[n - 1]),
                config_file: Some(file(&format!("server-{n}.conf"))),
                variables,
                ..NatsSettings::default()
            };
            servers.push(NatsServer::start_with(settings).await);
        }
        let cluster = Self {
            servers,
            monitors: ports[6..].to_vec(),
            folder,
        };
        let js = async_nats::jetstream::new(cluster.client("bus").await);
        eventually("the cluster has a leader", || async {
            js.query_account().await.ok().map(drop)
        })
        .await;
        cluster
    }

    /// Where the servers are, as `--nats` takes it.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<_> = self
            .servers
            .iter()
            .map(|s| format!("tls://127.0.0.1:{}", s.port()))
            .collect();
        urls.join(",")
    }

    pub(crate) fn ca(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// The arguments by which a program comes as a user.
    pub(crate) fn comes_as(&self, user: &str) -> Vec<String> {
        let secret = self.folder.path().join(format!("{user}.password"));
        std::fs::write(&secret, password(user)).unwrap();
        let secret = secret.display().to_string();
        [
            "--nats-user",
            user,
            "--nats-password-file",
            &secret,
            "--nats-ca",
            &self.ca(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    pub(crate) async fn client(&self, user: &str) -> async_nats::Client {
        ConnectOptions::with_user_and_password(user.to_owned(), password(user))
            .add_root_certificates(self.ca().into())
            .require_tls(true)
            .connect(self.urls().split(',').map(str::to_owned).collect::<Vec<_>>())
            .await
            .unwrap()
    }

    /// A policy of three copies, that of `fanout serve`.
    pub(crate) fn policy(&self) -> PathBuf {
        let path = self.folder.path().join("policy.toml");
        // Settings of the bus itself stand before the first section.
        let (bus, sections) = SERVED_POLICY.split_once("\n\n").unwrap();
        let (own, callers) = THREE_COPIES.split_once("\n\n").unwrap();
        std::fs::write(&path, format!("{bus}{own}\n\n{sections}\n{callers}")).unwrap();
        path
    }

    /// A verb of `fanout` as the operator: its exit code and output.
    pub(crate) fn operator(&self, verb: &[&str], policy: &str) -> (i32, String) {
        let mut args: Vec<_> = verb.iter().map(|word| (*word).to_owned()).collect();
        // The policy follows the verb.
        let at = if verb[0] == "dead-letters" { 2 } else { 1 };
        args.insert(at, policy.to_owned());
        args.extend(["--nats".to_owned(), self.urls()]);
        args.extend(self.comes_as("operator"));
        fanout_output(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What the servers refused to a user, a line each.
    pub(crate) fn refused_to(&self, user: &str) -> Vec<String> {
        self.servers
            .iter()
            .flat_map(|server| refused_to(server, user))
            .collect()
    }

    /// Tries to publish where a user may not, and waits until each was refused.
    pub(crate) async fn is_refused(&self, user: &str, subjects: &[&str]) {
        let nats = self.client(user).await;
        for subject in subjects {
            nats.publish((*subject).to_owned(), "{}".into()).await.unwrap();
        }
        nats.flush().await.unwrap();
        eventually("the servers refused it all", || async {
            let refused = self.refused_to(user);
            subjects
                .iter()
                .all(|subject| refused.iter().any(|line| line.contains(&format!("\"{subject}\""))))
                .then_some(())
        })
        .await;
        assert_eq!(self.refused_to(user).len(), subjects.len(), "nothing else was refused");
    }

    /// Whether a server says that it serves.
    pub(crate) async fn is_healthy(&self, n: usize) -> Option<()> {
        let url = format!("http://127.0.0.1:{}/healthz", self.monitors[n]);
        reqwest::get(url).await.ok()?.error_for_status().ok().map(drop)
    }

    /// The log's configuration and what it holds, as the bus sees them.
    pub(crate) async fn log(&self) -> async_nats::jetstream::stream::Info {
        let js = async_nats::jetstream::new(self.client("bus").await);
        let log = eventually("the log's leader answers", || async {
            js.get_stream("fanout_payments_log").await.ok()
        });
        log.await.cached_info().clone()
    }
}

pub(crate) fn publish(to: &str, id: &str) {
    let mut args = vec!["publish", "--to", to, "--tenant", "acme", "--type", "invoice.paid"];
    args.extend(["--id", id, "--data", "{}", "--timeout", "30"]);
    let (code, text) = fanout_output(&args);
    assert_eq!(code, 0, "{text}");
}

/// What the subscription `audit` is given next: the next of what is stored.
pub(crate) fn audited(to: &str, count: usize) -> String {
    let count = count.to_string();
    let (code, text) = fanout_output(&[
        "subscribe",
        "--to",
        to,
        "--need",
        "backfill",
        "--name",
        "audit",
        "--from",
        "first",
        "--count",
        &count,
    ]);
    assert_eq!(code, 0, "{text}");
    text
}
