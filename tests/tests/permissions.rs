//! `deploy/nats/payments.conf` on a server that enforces it: each user can do its work, and nothing else.

use std::collections::HashMap;
use std::path::PathBuf;

use async_nats::ConnectOptions;
use fanout_tests::types::Rejection;
use fanout_tests::{
    ANYONE_HERE, BusStatus, Component, LinkTo, Provider, SERVED_POLICY, Served, Verdict, event, eventually,
    fanout_output, ingress_and_invoicing, refused_to,
};
use fanout_transport::testing::{NatsServer, NatsSettings};
use wasmcloud_core::HostData;

const LOG: &str = "fanout_payments_log";

fn password(user: &str) -> String {
    format!("{user}-password")
}

struct World {
    nats: NatsServer,
    folder: tempfile::TempDir,
}

impl World {
    /// Whoever gives no credentials is `anonymous`, one of the file's users: a provider in a host can be given no password.
    async fn start(anonymous: Option<&str>) -> Self {
        let file = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nats");
            std::fs::read_to_string(format!("{folder}/{name}")).unwrap()
        };
        let mut config = String::new();
        for user in ["bus", "operator", "monitor", "backup", "host", "system"] {
            config.push_str(&format!(
                "FANOUT_{}_PASSWORD: {}\n",
                user.to_uppercase(),
                password(user)
            ));
        }
        if let Some(user) = anonymous {
            config.push_str(&format!("no_auth_user: {user}\n"));
        }
        // The server reads this text from a folder of its own, where the included file is not.
        let included = "host-permissions.conf";
        let accounts = file("payments.conf").replace(&format!("include \"{included}\""), &file(included));
        config.push_str(&accounts);
        let settings = NatsSettings {
            config: Some(config),
            ..NatsSettings::default()
        };
        Self {
            nats: NatsServer::start_with(settings).await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn url(&self, user: &str) -> String {
        format!("nats://{user}:{}@{}", password(user), self.nats.address())
    }

    async fn client(&self, user: &str) -> async_nats::Client {
        ConnectOptions::with_user_and_password(user.to_owned(), password(user))
            .connect(self.nats.address())
            .await
            .unwrap()
    }

    fn policy(&self) -> PathBuf {
        let path = self.folder.path().join("policy.toml");
        let journal = "[journal]\ndeliveries = \"all\"\n";
        std::fs::write(&path, format!("{SERVED_POLICY}{journal}{ANYONE_HERE}")).unwrap();
        path
    }

    /// Events in the log, as the bus itself sees them.
    async fn stored(&self) -> u64 {
        let js = async_nats::jetstream::new(self.client("bus").await);
        let mut log = js.get_stream(LOG).await.unwrap();
        log.info().await.unwrap().state.messages
    }
}

/// Tries what only the bus may do: takes its log away, writes an event past its quotas and callers, and forges a subscription.
async fn attack(nats: &async_nats::Client) {
    for subject in [
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.PURGE.fanout_payments_log",
        "payments.acme.webhook.invoice.paid",
        "$KV.fanout_payments_registry.mine",
        "fanout.dead.payments.audit.acme.0.1",
    ] {
        nats.publish(subject, "{}".into()).await.unwrap();
    }
    nats.flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_bus_and_its_operator_need_no_more_and_a_monitor_can_only_look() {
    let world = World::start(None).await;
    let policy = world.policy();
    let bus = Served::start(&world.url("bus"), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let to = bus.listen[0].clone();
    let subscribe = |need: &'static str, name: &'static str, more: &[&str]| {
        let mut args = vec!["subscribe", "--to", &to, "--need", need, "--name", name];
        args.extend(more);
        fanout_output(&args)
    };
    let publish = |id: &str| {
        let (code, text) = fanout_output(&[
            "publish",
            "--to",
            &to,
            "--tenant",
            "acme",
            "--type",
            "invoice.paid",
            "--id",
            id,
            "--data",
            "{}",
        ]);
        assert_eq!(code, 0, "{text}");
    };
    publish("1");
    publish("2");
    let (code, text) = subscribe("backfill", "audit", &["--from", "first", "--count", "2"]);
    assert_eq!(code, 0, "{text}");

    let operator = world.url("operator");
    let file = policy.display().to_string();
    for verb in [
        &["plan"][..],
        &["status"],
        &["pause", "audit"],
        &["resume", "audit"],
        &["rewind", "audit", "--to", "first"],
        &["dead-letters", "list"],
        &["errors"],
        &["event", "0/1"],
    ] {
        // Verbs with a subscription take the policy before it.
        let mut args = Vec::from(verb);
        let at = args
            .iter()
            .position(|a| ["audit", "0/1"].contains(a))
            .unwrap_or(args.len());
        args.insert(at, &file);
        args.extend(["--nats", &operator]);
        let (code, text) = fanout_output(&args);
        assert_eq!(code, 0, "{verb:?}: {text}");
    }
    assert_eq!(refused_to(&world.nats, "bus"), [""; 0]);
    assert_eq!(refused_to(&world.nats, "operator"), [""; 0]);

    let monitor = world.client("monitor").await;
    for what in ["status", "metrics"] {
        let answer = monitor
            .request(format!("fanout.served.payments.{what}"), "".into())
            .await;
        assert!(!answer.unwrap().payload.is_empty(), "{what}");
    }
    let stored = world.stored().await;
    attack(&monitor).await;
    eventually("the server refused it all", || async {
        (refused_to(&world.nats, "monitor").len() == 5).then_some(())
    })
    .await;
    assert_eq!(world.stored().await, stored);
}

/// Two dead letters: one is given to its subscription again, the other is taken away.
async fn operator_takes_dead_letters(world: &World, ingress: &Component, invoicing: &Component) {
    invoicing.judge(|_| Verdict::Refuse(Rejection::DeadLetter("not today".to_owned())));
    for id in ["2", "3"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    let (policy, operator) = (world.policy().display().to_string(), world.url("operator"));
    let letters = |verb: &[&str]| {
        let mut args = vec!["dead-letters", verb[0], &policy];
        args.extend(&verb[1..]);
        args.extend(["--nats", &operator]);
        let (code, text) = fanout_output(&args);
        assert_eq!(code, 0, "{verb:?}: {text}");
        text
    };
    eventually("both are dead letters", || async {
        let list = letters(&["list"]);
        (list.matches("not today").count() == 2).then_some(())
    })
    .await;
    invoicing.judge(|_| Verdict::Handle);
    assert!(letters(&["show", "1"]).contains("not today"));
    letters(&["redrive", "1"]);
    eventually("the first letter is handled", || async {
        (letters(&["list"]).matches("not today").count() == 1).then_some(())
    })
    .await;
    letters(&["discard", "2"]);
    assert!(!letters(&["list"]).contains("not today"));
    assert_eq!(refused_to(&world.nats, "operator"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_a_host_needs_no_more_and_the_hosts_components_only_call() {
    let world = World::start(Some("bus")).await;
    let settings = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.webhook.{event-type}"),
        ("retry.schedule", "20ms"),
    ];
    let settings: HashMap<_, _> = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let links = ingress_and_invoicing();
    let data = HostData {
        host_id: "test-host".into(),
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: world.nats.url(),
        provider_key: "bus".into(),
        config: settings,
        link_definitions: links.iter().map(LinkTo::definition).collect(),
        ..HostData::default()
    };
    let _provider = Provider::start(&data, &world.folder.path().join("provider.log"));
    let host = world.client("host").await;
    let ingress = Component::new(host.clone(), "ingress").await;
    let invoicing = Component::new(host.clone(), "invoicing").await;
    invoicing.up().await;

    ingress.publish(event("acme", "invoice.paid", "1")).await.unwrap();
    eventually("the component handled it", || async {
        (invoicing.handled() == ["1"]).then_some(())
    })
    .await;
    operator_takes_dead_letters(&world, &ingress, &invoicing).await;
    let monitor = world.client("monitor").await;
    let status: BusStatus = eventually("the provider answers", || async {
        let answer = monitor.request("fanout.default.bus.status", "".into()).await.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    })
    .await;
    assert!(status.subscription("invoicing").is_some(), "{status:?}");
    assert_eq!(refused_to(&world.nats, "bus"), [""; 0]);
    assert_eq!(refused_to(&world.nats, "host"), [""; 0]);

    let stored = world.stored().await;
    attack(&host).await;
    eventually("the server refused it all", || async {
        (refused_to(&world.nats, "host").len() == 5).then_some(())
    })
    .await;
    assert_eq!(world.stored().await, stored);
}
