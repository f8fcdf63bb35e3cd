//! The servers of two places of one bus, joined by a leaf node link, and what their users and the link between them may do.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::client::RequestErrorKind;
use fanout_client::{Deliveries, Subscription, connect};
use fanout_tests::{ANYONE_HERE, BusStatus, SERVED_POLICY, Served, eventually, fanout_output, free_ports, refused_to};
use fanout_transport::testing::{NatsServer, NatsSettings, TestAuthority};

use crate::cluster::{file, password, publish, write};

const PLACES: &str = "
[places.frankfurt]
number = 0

[places.virginia]
number = 1
leaf-of = \"frankfurt\"

[subscriptions.billing]
need = \"durable\"
component = \"caller:anyone\"
at = \"frankfurt\"
";

const USERS: [&str; 5] = ["bus", "operator", "monitor", "place", "system"];

struct Place {
    name: &'static str,
    nats: NatsServer,
    folder: PathBuf,
}

impl Place {
    /// A server of `deploy/nats`; `more` are variables that only one of the two files has.
    async fn start(
        name: &'static str,
        conf: &str,
        (folder, authority): (&std::path::Path, &TestAuthority),
        more: (&str, String),
    ) -> Self {
        let ports = free_ports(2);
        let signed = authority.sign(name);
        let at = folder.join(name);
        std::fs::create_dir(&at).unwrap();
        let mut variables = vec![
            ("NATS_NAME".to_owned(), format!("{name}-1")),
            ("NATS_DOMAIN".to_owned(), name.to_owned()),
            ("NATS_LISTEN".to_owned(), format!("127.0.0.1:{}", ports[0])),
            ("NATS_MONITOR".to_owned(), format!("127.0.0.1:{}", ports[1])),
            ("NATS_STORE".to_owned(), at.join("store").display().to_string()),
            ("NATS_DISK".to_owned(), "8GB".to_owned()),
            ("NATS_SYNC".to_owned(), "120s".to_owned()),
            ("NATS_CA".to_owned(), write(&at, "ca.pem", &authority.certificate())),
            (
                "NATS_CERTIFICATE".to_owned(),
                write(&at, "server.pem", &signed.certificate),
            ),
            ("NATS_KEY".to_owned(), write(&at, "server.key", &signed.key)),
            (more.0.to_owned(), more.1),
        ];
        variables.extend(USERS.map(|user| (format!("{}_PASSWORD", user.to_uppercase()), password(user))));
        let variables = variables.into_iter().map(|(k, v)| (format!("FANOUT_{k}"), v));
        let nats = NatsServer::start_with(NatsSettings {
            port: Some(ports[0]),
            config_file: Some(file(conf)),
            variables: variables.collect(),
            ..NatsSettings::default()
        })
        .await;
        Self { name, nats, folder: at }
    }

    fn url(&self) -> String {
        format!("tls://127.0.0.1:{}", self.nats.port())
    }

    fn ca(&self) -> String {
        self.folder.join("ca.pem").display().to_string()
    }

    /// The arguments by which a program comes as a user, at this place.
    fn comes_as(&self, user: &str) -> Vec<String> {
        let secret = self.folder.join(format!("{user}.password"));
        std::fs::write(&secret, password(user)).unwrap();
        let secret = secret.display().to_string();
        let ca = self.ca();
        [
            "--nats-user",
            user,
            "--nats-password-file",
            &secret,
            "--nats-ca",
            &ca,
            "--place",
            self.name,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn serves(&self) -> Served {
        let policy = self.folder.join("policy.toml");
        std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}{PLACES}")).unwrap();
        let mut args = self.comes_as("bus");
        args.extend(["--listen", "tcp://127.0.0.1:0"].map(str::to_owned));
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        Served::start(&self.url(), &policy, &args)
    }

    /// A verb of `fanout` as a user: what it printed.
    fn runs(&self, user: &str, verb: &[&str], more: &[&str]) -> String {
        let policy = self.folder.join("policy.toml").display().to_string();
        let mut args = [verb, &[&policy], more].concat();
        let (url, who) = (self.url(), self.comes_as(user));
        args.extend(["--nats", &url]);
        args.extend(who.iter().map(String::as_str));
        let (code, text) = fanout_output(&args);
        assert_eq!(code, 0, "{} {verb:?}: {text}", self.name);
        text
    }

    async fn client(&self, user: &str) -> async_nats::Client {
        ConnectOptions::with_user_and_password(user.to_owned(), password(user))
            .add_root_certificates(self.ca().into())
            .require_tls(true)
            .connect(self.url())
            .await
            .unwrap()
    }

    /// Tries to publish where a user may not, and waits until each was refused.
    async fn refuses(&self, user: &str, subjects: &[&str]) {
        let nats = self.client(user).await;
        for subject in subjects {
            nats.publish((*subject).to_owned(), "{}".into()).await.unwrap();
        }
        nats.flush().await.unwrap();
        eventually("the server refused it all", || async {
            let refused = refused_to(&self.nats, user);
            let is_refused = |subject: &&str| refused.iter().any(|line| line.contains(&format!("\"{subject}\"")));
            subjects.iter().all(is_refused).then_some(())
        })
        .await;
    }
}

/// Takes what a subscription is given, and waits with the first of it.
async fn waits_with_the_first(deliveries: &mut Deliveries, count: usize) {
    for i in 0..count {
        let delivery = deliveries.recv().await.unwrap().unwrap();
        match i {
            0 => delivery
                .retry_after(Duration::from_secs(3_600), "not now")
                .await
                .unwrap(),
            _ => delivery.ack().await.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_places_and_the_link_between_them_need_no_more_than_their_files_give() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let of = (folder.path(), &authority);
    let port = free_ports(1)[0];
    let door = ("NATS_LEAF_LISTEN", format!("127.0.0.1:{port}"));
    let frankfurt = Place::start("frankfurt", "place-hub.conf", of, door).await;
    let remote = format!("tls://place:{}@127.0.0.1:{port}", password("place"));
    let virginia = Place::start("virginia", "place-leaf.conf", of, ("NATS_LEAF_REMOTE", remote)).await;
    let buses = [frankfurt.serves(), virginia.serves()];
    let to = |i: usize| buses[i].listen[0].clone();
    for place in [&frankfurt, &virginia] {
        eventually("each place has the other's events", || async {
            place
                .runs("operator", &["status"], &[])
                .contains("has caught up")
                .then_some(())
        })
        .await;
    }
    publish(&to(0), "e1");
    publish(&to(1), "e2");
    let bus = connect(&to(0)).await.unwrap();
    let mut billing = bus.subscribe(Subscription::declared("billing")).await.unwrap();
    waits_with_the_first(&mut billing, 2).await;
    drop(billing);

    // Whoever runs the bus hands a subscription over, from either place; what waits for a retry goes along.
    for next in ["virginia", "frankfurt"] {
        let said = virginia.runs("bus", &["move"], &["billing", "--to", next, "--within", "20s"]);
        assert!(said.contains("1 that wait for a retry went along"), "{said}");
    }
    // An operator looks at each place, and at what each has of the other.
    eventually("the store is as the policy says", || async {
        let said = frankfurt.runs("operator", &["plan"], &[]);
        said.contains("nothing to do").then_some(())
    })
    .await;
    for (verb, more) in [
        (&["explain"][..], &[][..]),
        (&["pause"], &["billing"]),
        (&["resume"], &["billing"]),
        (&["rewind"], &["billing", "--to", "first"]),
        (&["errors"], &[]),
        (&["dead-letters", "list"], &[]),
    ] {
        frankfurt.runs("operator", verb, more);
    }
    for place in [&frankfurt, &virginia] {
        place.runs("operator", &["event"], &["0/1"]);
        place.runs("operator", &["check"], &[]);
    }

    // Who watches a place is answered by that place.
    for place in [&frankfurt, &virginia] {
        let monitor = place.client("monitor").await;
        let answer = monitor.request("fanout.served.payments.status", "".into()).await;
        let status: BusStatus = serde_json::from_slice(&answer.unwrap().payload).unwrap();
        assert_eq!(status.place.unwrap().name.as_str(), place.name);
    }
    for place in [&frankfurt, &virginia] {
        for user in USERS {
            assert_eq!(refused_to(&place.nats, user), [""; 0], "{} {user}", place.name);
        }
    }

    // What the link does not carry, whoever sends it: what would change a stream of another place, and events.
    let nats = virginia.client("bus").await;
    let theirs = "fanout.part.payments.0.whole.payments.acme.webhook.invoice.paid";
    for subject in [
        "$JS.frankfurt.API.STREAM.CREATE.another",
        "$JS.frankfurt.API.STREAM.UPDATE.fanout_payments_log",
        "$JS.frankfurt.API.STREAM.DELETE.fanout_payments_log",
        "$JS.frankfurt.API.STREAM.PURGE.fanout_payments_log",
        "$JS.frankfurt.API.STREAM.MSG.DELETE.fanout_payments_log",
        theirs,
    ] {
        let answer = nats.request(subject, "{}".into()).await.unwrap_err();
        assert_eq!(answer.kind(), RequestErrorKind::NoResponders, "{subject}");
    }

    // The server calls its own domain's API by the name without a domain.
    let not_theirs = [
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.STREAM.UPDATE.fanout_payments_log",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.PURGE.fanout_payments_log",
        "$JS.API.STREAM.MSG.DELETE.fanout_payments_log",
        "$JS.virginia.API.STREAM.DELETE.fanout_payments_log_100000",
        "payments.acme.webhook.invoice.paid",
        theirs,
        "$SYS.REQ.SERVER.PING.JSZ",
    ];
    for user in ["operator", "place", "monitor"] {
        frankfurt.refuses(user, &not_theirs).await;
    }
    let not_the_buses = ["payments.acme.webhook.invoice.paid", "wasmbus.ctl.v1.default.host.get"];
    frankfurt.refuses("bus", &not_the_buses).await;
}
