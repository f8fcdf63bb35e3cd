//! The server of an edge and its users.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::ConnectOptions;
use fanout_plan::subscription::MadeBy;
use fanout_tests::{
    BusStatus, Component, LinkTo, Provider, SERVED_POLICY, Served, event, eventually, every_event, free_ports,
    ingress_and_invoicing, refused_to, subscriber,
};
use fanout_transport::CallContext;
use fanout_transport::testing::{NatsServer, NatsSettings, TestAuthority};
use wasmcloud_core::HostData;

use crate::cluster::{file, password, write};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_and_its_host_need_no_more_than_the_file_of_an_edge_gives() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let ca = write(folder.path(), "ca.pem", &authority.certificate());
    let shown = |name: &str| {
        let signed = authority.sign(name);
        let certificate = write(folder.path(), &format!("{name}.pem"), &signed.certificate);
        (certificate, write(folder.path(), &format!("{name}.key"), &signed.key))
    };
    // The bus, elsewhere. Its store is no matter of the edge's.
    let hub = NatsServer::start().await;
    let policy = folder.path().join("policy.toml");
    let caller = "\n[callers.edge-frankfurt]\ncertificate-dns = \"edge-frankfurt.example.org\"\n\
        publish.tenants = \"*\"\nsubscribe.tenants = \"*\"\n";
    std::fs::write(&policy, format!("{SERVED_POLICY}{caller}")).unwrap();
    let (certificate, key) = shown("bus.example.org");
    let mut args = vec!["--listen", "tls://127.0.0.1:0", "--tls-client-ca", &ca];
    args.extend(["--tls-certificate", &certificate, "--tls-key", &key]);
    let bus = Served::start(&hub.url(), &policy, &args);

    let port = free_ports(1)[0];
    let mut variables = vec![
        ("FANOUT_EDGE_LISTEN".to_owned(), format!("127.0.0.1:{port}")),
        (
            "FANOUT_EDGE_STORE".to_owned(),
            folder.path().join("store").display().to_string(),
        ),
    ];
    for user in ["edge", "monitor", "host"] {
        variables.push((format!("FANOUT_{}_PASSWORD", user.to_uppercase()), password(user)));
    }
    let nats = NatsServer::start_with(NatsSettings {
        port: Some(port),
        config_file: Some(file("edge.conf")),
        variables,
        ..NatsSettings::default()
    })
    .await;
    let client = |user: &'static str| {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password(user));
        let address = nats.address();
        async move { options.connect(address).await.unwrap() }
    };
    let (certificate, key) = shown("edge-frankfurt.example.org");
    let settings = [
        ("role", "edge"),
        ("upstream", &bus.listen[0]),
        ("tls.server-ca", &ca),
        ("tls.certificate", &certificate),
        ("tls.key", &key),
    ];
    let settings: HashMap<_, _> = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let mut links = ingress_and_invoicing();
    links.push(LinkTo::caller("reports", &["subscriber"], "*"));
    let data = HostData {
        host_id: "test-host".into(),
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: format!("nats://edge:{}@{}", password("edge"), nats.address()),
        provider_key: "bus".into(),
        config: settings,
        link_definitions: links.iter().map(LinkTo::definition).collect(),
        ..HostData::default()
    };
    let _edge = Provider::start(&data, &folder.path().join("provider.log"));
    let host = client("host").await;
    let ingress = Component::new(host.clone(), "ingress").await;
    let invoicing = Component::new(host.clone(), "invoicing").await;
    let reports = Component::new(host.clone(), "reports").await;
    invoicing.up().await;
    reports.up().await;

    // A subscription by a call, which the edge remembers in its bucket.
    let options = every_event();
    eventually("the bus makes it", || async {
        let within = CallContext::within(Duration::from_secs(10));
        let made = subscriber::subscribe_durable(reports.bus(), within, "report", &options).await;
        made.ok()?.ok()
    })
    .await;
    let monitor = client("monitor").await;
    eventually("both subscriptions are there", || async {
        let answer = monitor.request("fanout.default.bus.status", "".into()).await.ok()?;
        let status: BusStatus = serde_json::from_slice(&answer.payload).ok()?;
        let made_by_call = status.subscription("report")?.made_by == Some(MadeBy::Call);
        (made_by_call && status.subscription("invoicing")?.problem.is_none()).then_some(())
    })
    .await;
    eventually("the bus stores it", || async {
        ingress.publish(event("acme", "invoice.paid", "e1")).await.ok()
    })
    .await;
    eventually("both are given it", || async {
        (invoicing.handled() == ["e1"] && reports.handled() == ["e1"]).then_some(())
    })
    .await;
    for user in ["edge", "monitor", "host"] {
        assert_eq!(refused_to(&nats, user), [""; 0], "{user}");
    }

    let attacks = [
        ("edge", "wasmbus.ctl.v1.default.host.get"),
        ("edge", "$KV.LATTICEDATA_default.mine"),
        ("edge", "$JS.API.STREAM.DELETE.KV_fanout_edge_default_bus"),
        ("edge", "$JS.API.STREAM.CREATE.fanout_payments_log"),
        ("host", "$KV.fanout_edge_default_bus.report"),
        ("host", "$JS.API.STREAM.DELETE.KV_fanout_edge_default_bus"),
        ("monitor", "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish"),
        ("monitor", "$KV.fanout_edge_default_bus.report"),
    ];
    for (user, subject) in attacks {
        let nats = client(user).await;
        nats.publish(subject, "{}".into()).await.unwrap();
        nats.flush().await.unwrap();
    }
    for (user, subject) in attacks {
        eventually("the server refused it", || async {
            let refused = refused_to(&nats, user);
            refused
                .iter()
                .any(|line| line.contains(&format!("\"{subject}\"")))
                .then_some(())
        })
        .await;
    }
}
