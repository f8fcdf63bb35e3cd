//! A provider that listens, and one caller of it that may act for `acme`, `globex` and `loud`.

use std::process::Command;
use std::time::Duration;

use async_nats::jetstream;
use fanout_tests::{Bench, LinkTo, eventually};
use fanout_transport::testing::TestAuthority;
use fanout_transport::{CallContext, ClientTls, ConnectOptions, Endpoint, Pem, Remote};

/// The most that an event may take.
pub(crate) const MAX_EVENT_BYTES: usize = 256 << 10;
/// The way to a bus that leads through an edge.
const EDGE: &str = "edge";
const TENANTS: &str = "acme,globex,loud";
const CALLER: &str = "caller";
const INTERFACES: [&str; 4] = ["publisher", "subscriber", "inbox", "status"];

pub(crate) struct World {
    pub(crate) bench: Bench,
    /// The edge that is called in the bus's stead, on a lattice of its own.
    edge: Option<Bench>,
    pub(crate) bus: Remote,
    way: String,
    tls: Option<ClientTls>,
    _folder: tempfile::TempDir,
}

impl World {
    /// A bus that works.
    pub(crate) async fn new(way: &str) -> Self {
        Self::start(way, false).await
    }

    /// A bus whose log's name is taken by a stream that is not the bus's.
    pub(crate) async fn unready(way: &str) -> Self {
        Self::start(way, true).await
    }

    async fn start(way: &str, name_is_taken: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new();
        let write = |name: &str, pem: &Pem| {
            let Pem::Text(text) = pem else {
                panic!("the authority keeps all in memory")
            };
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let mut settings = vec![
            ("event.max-bytes", "256KiB".to_owned()),
            ("retention.max-bytes", "4MiB".to_owned()),
            ("quota.tenant.loud.events-per-second", "1".to_owned()),
            ("publish.deadline", "500ms".to_owned()),
            ("callers.caller.publish.tenants", TENANTS.to_owned()),
            ("callers.caller.subscribe.tenants", TENANTS.to_owned()),
        ];
        let mut tls = None;
        let listen = match way {
            "nats" => {
                settings.truncate(4);
                way.to_owned()
            }
            "unix" => {
                let uid = Command::new("id").arg("-u").output().expect("id runs").stdout;
                let uid = String::from_utf8(uid).expect("a number").trim().to_owned();
                settings.push(("callers.caller.unix-uid", uid));
                format!("unix:{}", folder.path().join("bus.sock").display())
            }
            _ if way.starts_with("tcp:") || way.starts_with("http:") || way == EDGE => {
                settings.push(("callers.caller.loopback", "true".to_owned()));
                way.replace(EDGE, "tcp://127.0.0.1:0")
            }
            _ => {
                let server = authority.sign("localhost");
                settings.push(("tls.certificate", write("server.pem", &server.certificate)));
                settings.push(("tls.key", write("server.key", &server.key)));
                settings.push(("tls.client-ca", write("ca.pem", &authority.certificate())));
                settings.push(("callers.caller.certificate-dns", CALLER.to_owned()));
                tls = Some(authority.client(CALLER));
                way.to_owned()
            }
        };
        if listen != "nats" {
            settings.push(("listen", listen.clone()));
        }
        let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let links = [
            LinkTo::caller(CALLER, &INTERFACES, TENANTS),
            LinkTo::caller(CALLER, &INTERFACES, "a,,b").named("broken"),
        ];
        let here = if listen == "nats" { &links[..] } else { &[] };
        let mut bench = Bench::without_provider(&settings, here).await;
        if name_is_taken {
            let foreign = jetstream::stream::Config {
                name: "fanout_payments_log".to_owned(),
                subjects: vec!["foreign.>".to_owned()],
                ..jetstream::stream::Config::default()
            };
            let store = jetstream::new(bench.client().clone());
            store.create_stream(foreign).await.unwrap();
        }
        bench.add_provider().await;
        let mut edge = None;
        if way == EDGE {
            let upstream = endpoint(&bench).await;
            let mut beside = Bench::with_config(&[("role", EDGE), ("upstream", &upstream)], &links).await;
            beside.add_provider().await;
            edge = Some(beside);
        }
        let bus = connect(edge.as_ref().unwrap_or(&bench), way, tls.clone()).await;
        Self {
            bench,
            edge,
            bus,
            way: way.to_owned(),
            tls,
            _folder: folder,
        }
    }

    pub(crate) fn is_on_a_lattice(&self) -> bool {
        ["nats", EDGE].contains(&self.way.as_str())
    }

    /// From now on the caller may act for this tenant alone.
    pub(crate) async fn allow_only(&mut self, tenant: &str) {
        if self.edge.is_some() {
            // The bus has the last word.
            self.bench.change("callers.caller.publish.tenants", tenant).await;
            self.bench.change("callers.caller.subscribe.tenants", tenant).await;
            return;
        }
        if self.is_on_a_lattice() {
            let narrow = LinkTo::caller(CALLER, &INTERFACES, tenant);
            self.bench.put_link(&narrow).await;
            return;
        }
        self.bench.set("callers.caller.publish.tenants", tenant);
        self.bench.set("callers.caller.subscribe.tenants", tenant);
        self.bench.restart_provider(0).await;
        self.bus = connect(&self.bench, &self.way, self.tls.clone()).await;
    }

    /// Kills the bus behind an edge, if there is one.
    pub(crate) fn kill_bus_of_edge(&mut self) -> bool {
        if self.edge.is_some() {
            self.bench.providers[0].kill();
        }
        self.edge.is_some()
    }

    /// Changes a stream of the bus's behind its back.
    pub(crate) async fn spoil(&self, stream: &str, change: fn(&mut jetstream::stream::Config)) {
        let store = jetstream::new(self.bench.client().clone());
        let mut config = store.get_stream(stream).await.unwrap().cached_info().config.clone();
        change(&mut config);
        store.update_stream(&config).await.unwrap();
    }
}

/// Where the bus listens: the last place, since a provider that was started again logs it again.
async fn endpoint(bench: &Bench) -> String {
    eventually("the provider listens", || async {
        let log = bench.providers[0].log();
        let (_, said) = log.rsplit_once("endpoint=")?;
        Some(said.split_whitespace().next()?.replace("127.0.0.1", "localhost"))
    })
    .await
}

async fn connect(bench: &Bench, way: &str, tls: Option<ClientTls>) -> Remote {
    let endpoint = if ["nats", EDGE].contains(&way) {
        format!("{}?target=default.bus", bench.nats.url())
    } else {
        endpoint(bench).await
    };
    let endpoint: Endpoint = endpoint.parse().unwrap_or_else(|e| panic!("{endpoint}: {e}"));
    eventually("the bus is reached", || async {
        let options = ConnectOptions {
            tls: tls.clone(),
            source: CALLER.to_owned(),
            ..ConnectOptions::default()
        };
        Remote::connect(&endpoint, options).await.ok()
    })
    .await
}

/// A call that may take as long as a fetch waits.
pub(crate) fn patient() -> CallContext {
    CallContext::within(Duration::from_secs(12))
}
