//! The bus of the runbook: three servers of `deploy/nats` that begin as the older version, two instances, a leaf, and the desk
//! at which the operator types.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fanout_client::{ClientIdentity, ClientTls, Options, Pem};
use fanout_tests::{Transcript, beside_the_tests, eventually, free_ports};

use crate::machines::Machines;

/// Everything that the operator changes is a line of it.
const POLICY: &str = r#"bus = "payments"
subject = "payments.{tenant}.webhook.{event-type}"
revision = 1
retention.replicas = 1
retention.max-bytes = "8MiB"
retry.schedule = ["50ms"]
retry.max-attempts = 3

[delivery]
deadline = "2s"
ack-wait = "5s"

[subscriptions.reports]
need = "durable"
component = "caller:load"
event-types = "report.*"

[callers.load]
certificate-uri = "spiffe://example.org/load"
publish.tenants = "*"
subscribe.tenants = "*"

[callers.orders]
token-sha256 = ["LEAKED"]
publish.tenants = ["acme"]
"#;

const USERS: [&str; 6] = ["bus", "operator", "monitor", "backup", "host", "system"];

pub(crate) struct World {
    pub(crate) machines: Machines,
    desk: PathBuf,
    policy: String,
    /// Of the servers: for clients, for routes, their numbers.
    nats: Vec<u16>,
    /// Of each instance: over TLS, over HTTP.
    listens: Vec<u16>,
    leaf: Vec<u16>,
}

impl World {
    pub(crate) async fn start() -> Self {
        let machines = Machines::new(&[
            "nats-1",
            "nats-2",
            "nats-3",
            "bus-1",
            "bus-2",
            "leaf-1",
            "reports-1",
            "desk",
        ]);
        let mut world = Self {
            desk: machines.folder("desk"),
            machines,
            policy: String::new(),
            nats: free_ports(9),
            listens: free_ports(4),
            leaf: free_ports(3),
        };
        world.authority();
        let (_, leaked) = world.fanout(&["token", "--json"]);
        let leaked: serde_json::Value = serde_json::from_str(&leaked).unwrap();
        fs::write(world.desk.join("leaked.token"), leaked["token"].as_str().unwrap()).unwrap();
        world.policy = POLICY.replace("LEAKED", leaked["sha256"].as_str().unwrap());
        for n in 1..=3 {
            world.server(n);
        }
        world.leaf_server();
        for n in 1..=2 {
            world.instance(n);
        }
        world.at_the_desk();
        for n in 1..=3 {
            world.machines.ssh(&format!("nats-{n}"), "systemctl start nats-server");
        }
        world.machines.ssh("leaf-1", "systemctl start nats-server");
        eventually("the cluster has a leader", || async {
            world
                .fanout(&["plan", "payments.toml", "--context", "bus"])
                .0
                .then_some(())
        })
        .await;
        for n in 1..=2 {
            world
                .machines
                .ssh(&format!("bus-{n}"), "systemctl start fanout@payments");
        }
        eventually("both instances serve", || async {
            let serve = |n| world.log_of(n).contains("the policy is in force");
            (serve(1) && serve(2)).then_some(())
        })
        .await;
        world
    }

    /// What an instance logged.
    pub(crate) fn log_of(&self, instance: usize) -> String {
        let log = self
            .machines
            .folder(&format!("bus-{instance}"))
            .join("fanout@payments.log");
        fs::read_to_string(log).unwrap_or_default()
    }

    /// The console blocks below a heading, typed at the desk.
    pub(crate) fn session(&self, page: &str, heading: &str) -> Transcript {
        let page = page
            .replace("bus-1.example.org:7761", &format!("localhost:{}", self.listens[0]))
            .replace(
                "https://bus-1.example.org:7780",
                &format!("http://localhost:{}", self.listens[2]),
            );
        let root = self.machines.folder("").display().to_string();
        let variables = [("MACHINES".to_owned(), root.trim_end_matches('/').to_owned())];
        Transcript::of(&page, heading, &[4333]).at(&self.desk, &self.machines.programs(), &variables)
    }

    /// Where an instance listens, over TLS.
    pub(crate) fn bus(&self, instance: usize) -> String {
        format!("tls://localhost:{}", self.listens[instance - 1])
    }

    /// How a program comes that may do everything.
    pub(crate) fn load(&self) -> Options {
        let file = |name: &str| Pem::File(self.desk.join(name));
        let mut options = Options::default();
        options.tls = Some(ClientTls {
            server_ca: file("ca.pem"),
            identity: Some(ClientIdentity {
                certificate: file("load.pem"),
                key: file("load.key"),
            }),
            server_name: None,
        });
        options.deadline = std::time::Duration::from_secs(3);
        options
    }

    /// A client of the store, as the bus comes.
    pub(crate) async fn store(&self) -> async_nats::jetstream::Context {
        let password = fs::read_to_string(self.machines.folder("bus-1").join("etc/fanout/nats.password")).unwrap();
        let client = async_nats::ConnectOptions::with_user_and_password("bus".to_owned(), password.trim().to_owned())
            .add_root_certificates(self.desk.join("ca.pem"))
            .connect(self.urls().split(',').map(str::to_owned).collect::<Vec<_>>())
            .await
            .unwrap();
        async_nats::jetstream::new(client)
    }

    /// Whether a verb of `fanout` succeeds at the desk, and what it prints.
    pub(crate) fn fanout(&self, args: &[&str]) -> (bool, String) {
        let done = Command::new(beside_the_tests("fanout"))
            .args(args)
            .current_dir(&self.desk)
            .env("XDG_CONFIG_HOME", &self.desk)
            .output()
            .unwrap();
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    fn urls(&self) -> String {
        let urls: Vec<_> = self.nats[..3]
            .iter()
            .map(|port| format!("tls://localhost:{port}"))
            .collect();
        urls.join(",")
    }

    /// An authority, whose key is at the desk, and what it signs before anything runs.
    fn authority(&self) {
        self.at_desk(
            "openssl req -x509 -newkey ed25519 -noenc -days 3650 -subj '/CN=our authority' \
             -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.pem",
        );
        fs::write(
            self.desk.join("server.ext"),
            "subjectAltName = DNS:localhost, IP:127.0.0.1\nextendedKeyUsage = serverAuth, clientAuth\n",
        )
        .unwrap();
        fs::write(
            self.desk.join("load.ext"),
            "subjectAltName = URI:spiffe://example.org/load\nextendedKeyUsage = clientAuth\n",
        )
        .unwrap();
        for (name, ext) in [
            ("nats-1", "server"),
            ("nats-2", "server"),
            ("nats-3", "server"),
            ("bus", "server"),
            ("load", "load"),
        ] {
            self.at_desk(&format!(
                "openssl req -newkey ed25519 -noenc -subj /CN={name} -keyout {name}.key -out {name}.csr && \
                 openssl x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 90 -extfile {ext}.ext -out {name}.pem"
            ));
        }
    }

    fn at_desk(&self, command: &str) {
        let done = Command::new("sh")
            .args(["-c", command])
            .current_dir(&self.desk)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    fn copy(&self, from: &str, machine: &str, to: &str) {
        fs::copy(self.desk.join(from), self.machines.folder(machine).join(to)).unwrap();
    }

    /// A server of `deploy/nats`, with a door for leaves, as the older version.
    fn server(&self, n: usize) {
        let machine = format!("nats-{n}");
        let folder = self.machines.folder(&machine);
        let deployed = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nats"));
        for name in ["cluster.conf", "payments.conf", "host-permissions.conf"] {
            fs::copy(deployed.join(name), folder.join("etc/nats").join(name)).unwrap();
        }
        // What lies behind a leaf names the domain.
        let shared = folder.join("etc/nats/cluster.conf");
        let text = fs::read_to_string(&shared).unwrap();
        fs::write(shared, text.replace("jetstream {\n", "jetstream {\n  domain: hub\n")).unwrap();
        let own = fs::read_to_string(deployed.join(format!("server-{n}.conf"))).unwrap();
        let leaves = match n {
            1 => format!(
                "leafnodes {{\n  listen: \"127.0.0.1:{}\"\n  authorization {{ user: leaf, password: leaf-password, account: PAYMENTS }}\n}}\n",
                self.leaf[1]
            ),
            _ => String::new(),
        };
        self.machines
            .write(&machine, "etc/nats/server.conf", &format!("{own}{leaves}"));
        for (from, to) in [
            ("ca.pem".to_owned(), "etc/nats/ca.pem"),
            (format!("{machine}.pem"), "etc/nats/server.pem"),
            (format!("{machine}.key"), "etc/nats/server.key"),
        ] {
            self.copy(&from, &machine, to);
        }
        let within = |path: &str| folder.join(path).display().to_string();
        let mut variables = vec![
            ("NATS_LISTEN", format!("127.0.0.1:{}", self.nats[n - 1])),
            ("NATS_ROUTES_LISTEN", format!("127.0.0.1:{}", self.nats[n + 2])),
            ("NATS_MONITOR", format!("127.0.0.1:{}", self.nats[n + 5])),
            ("NATS_STORE", within("var/lib/nats")),
            ("NATS_DISK", "4GB".to_owned()),
            ("NATS_SYNC", "120s".to_owned()),
            ("NATS_CA", within("etc/nats/ca.pem")),
            ("NATS_CERTIFICATE", within("etc/nats/server.pem")),
            ("NATS_KEY", within("etc/nats/server.key")),
        ]
        .into_iter()
        .map(|(name, value)| format!("FANOUT_{name}={value}\n"))
        .collect::<String>();
        for other in 1..=3 {
            let port = self.nats[other + 2];
            variables += &format!("FANOUT_NATS_ROUTE_{other}=tls://localhost:{port}\n");
        }
        self.machines.write(&machine, "etc/nats/nats.env", &variables);
        let unit = "set -a\n. etc/nats/nats.env\n. etc/nats/passwords.env\nexec usr/local/bin/nats-server --config etc/nats/server.conf\n";
        self.machines.write(&machine, "units/nats-server", unit);
        let passwords: String = USERS
            .map(|user| format!("FANOUT_{}_PASSWORD={user}-password\n", user.to_uppercase()))
            .concat();
        fs::write(self.desk.join("passwords.env"), &passwords).unwrap();
        self.machines.write(&machine, "etc/nats/passwords.env", &passwords);
        self.machines.write(&machine, "monitor", &self.nats[n + 5].to_string());
        let older =
            std::env::var_os("FANOUT_NATS_SERVER_OLDER").expect("FANOUT_NATS_SERVER_OLDER names a nats-server 2.12");
        fs::copy(older, folder.join("usr/local/bin/nats-server")).unwrap();
    }

    /// A server far away that is joined to the first, and keeps nothing.
    fn leaf_server(&self) {
        let [listen, hub, monitor] = self.leaf[..] else {
            panic!("a leaf has three ports")
        };
        let conf = format!(
            "server_name: leaf-1\nlisten: \"127.0.0.1:{listen}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             leafnodes {{ reconnect: \"500ms\", remotes: [{{ url: \"nats://leaf:leaf-password@127.0.0.1:{hub}\" }}] }}\n"
        );
        self.machines.write("leaf-1", "etc/nats/server.conf", &conf);
        self.machines.write("leaf-1", "monitor", &monitor.to_string());
        self.machines.write(
            "leaf-1",
            "units/nats-server",
            "exec usr/local/bin/nats-server --config etc/nats/server.conf\n",
        );
        fs::copy(
            newest(),
            self.machines.folder("leaf-1").join("usr/local/bin/nats-server"),
        )
        .unwrap();
    }

    fn instance(&self, n: usize) {
        let machine = format!("bus-{n}");
        self.machines.write(&machine, "etc/fanout/payments.toml", &self.policy);
        self.machines
            .write(&machine, "etc/fanout/nats.password", "bus-password\n");
        for (from, to) in [("ca.pem", "ca.pem"), ("bus.pem", "bus.pem"), ("bus.key", "bus.key")] {
            self.copy(from, &machine, &format!("etc/fanout/{to}"));
        }
        let (tls, http) = (self.listens[n - 1], self.listens[n + 1]);
        let options = format!(
            "--listen tls://localhost:{tls} --listen http://localhost:{http} --tls-certificate etc/fanout/bus.pem \
             --tls-key etc/fanout/bus.key --tls-client-ca etc/fanout/ca.pem"
        );
        let variables = format!(
            "NATS_URL={}\nNATS_USER=bus\nNATS_PASSWORD_FILE=etc/fanout/nats.password\nNATS_CA=etc/fanout/ca.pem\n\
             FANOUT_OPTIONS='{options}'\nFANOUT_READY_URL=http://localhost:{http}\n",
            self.urls()
        );
        self.machines.write(&machine, "etc/fanout/payments.env", &variables);
        self.machines.write(
            &machine,
            "environment",
            &format!("FANOUT_READY_URL=http://localhost:{http}\n"),
        );
        let unit = "set -a\n. etc/fanout/payments.env\nexec usr/local/bin/fanout serve --policy etc/fanout/payments.toml $FANOUT_OPTIONS\n";
        self.machines.write(&machine, "units/fanout@payments", unit);
        fs::copy(
            beside_the_tests("fanout"),
            self.machines.folder(&machine).join("usr/local/bin/fanout"),
        )
        .unwrap();
    }

    /// What the operator has before the first procedure: the policy, contexts, the newest programs.
    fn at_the_desk(&self) {
        fs::write(self.desk.join("payments.toml"), &self.policy).unwrap();
        fs::copy(newest(), self.desk.join("nats-server")).unwrap();
        fs::copy(beside_the_tests("fanout"), self.desk.join("fanout")).unwrap();
        // The program of a subscriber, before and after it was mended.
        fs::write(self.desk.join("reports"), "mended\n").unwrap();
        self.machines.write("reports-1", "usr/local/bin/reports", "broken\n");
        self.machines.write("reports-1", "units/reports", "exec sleep 600\n");
        let contexts = self.desk.join("nats/context");
        fs::create_dir_all(&contexts).unwrap();
        let context = |name: &str, url: &str, user: &str| {
            let ca = self.desk.join("ca.pem");
            let text = format!("{{\"url\":{url:?},\"user\":{user:?},\"password\":\"{user}-password\",\"ca\":{ca:?}}}");
            fs::write(contexts.join(format!("{name}.json")), text).unwrap();
        };
        for user in ["bus", "operator", "backup"] {
            context(user, &self.urls(), user);
        }
        let leaf = format!(
            "{{\"url\":\"nats://localhost:{}\",\"jetstream_domain\":\"hub\"}}",
            self.leaf[0]
        );
        fs::write(contexts.join("leaf.json"), leaf).unwrap();
    }
}

fn newest() -> PathBuf {
    let named = std::env::var_os("FANOUT_NATS_SERVER").unwrap_or_else(|| "nats-server".into());
    let named = Path::new(&named).to_owned();
    if named.components().count() > 1 {
        return named;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(&named))
        .find(|file| file.exists());
    found.expect("there is a nats-server")
}
