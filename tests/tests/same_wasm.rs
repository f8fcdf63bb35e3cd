//! The same component files on every transport, without a wasmCloud host: the very files that the demo deploys on one.
//!
//! webhook-ingress takes signed webhooks and publishes them, invoicing writes a line for each; the bus between them is
//! reached by another URL each time, and killed in the middle.

use std::process::Command;

use fanout_tests::hosted::{Hosted, stripe_webhook};
use fanout_tests::{ANYONE_HERE, Bench, LinkTo, SERVED_POLICY, Served, eventually};
use fanout_transport::Pem;
use fanout_transport::testing::{NatsServer, TestAuthority};
use serde_json::Value;

/// Webhooks of the tenant that is counted.
const WEBHOOKS: usize = 60;
const SECRET: &str = "whsec_of_same_wasm_test";
const AMOUNT: i64 = 1_900;

/// Posts a webhook until it is taken, as its sender would.
async fn post(ingress: &Hosted, tenant: &str, id: &str) {
    let what = format!("webhook {id} is taken");
    eventually(&what, || async {
        let taken = tokio::task::block_in_place(|| ingress.http(&stripe_webhook(SECRET, tenant, id, AMOUNT)));
        taken.filter(|(status, _)| (200..300).contains(status)).map(drop)
    })
    .await;
}

/// Invoice lines of a tenant, and their sum.
fn lines(invoicing: &Hosted, tenant: &str) -> (u64, i64) {
    let request = format!("GET /invoices/{tenant} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    let answer = tokio::task::block_in_place(|| invoicing.http(&request));
    let Some((200, body)) = answer else { return (0, 0) };
    let totals: Value = serde_json::from_str(&body).unwrap();
    let total = &totals["tenants"][tenant];
    (
        total["lines"].as_u64().unwrap_or(0),
        total["amounts"]["eur"].as_i64().unwrap_or(0),
    )
}

/// Runs both components on a bus; `kill` kills it and starts it again.
async fn the_same_files_work(bus: &str, ingress_args: &[String], invoicing_args: &[String], kill: impl AsyncFnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "source.stripe.scheme=stripe".to_owned(),
        format!("source.stripe.secret={SECRET}"),
        "source.stripe.tenant=pointer:/data/object/metadata/tenant".to_owned(),
        "source.stripe.tolerance=300s".to_owned(),
    ];
    let config = settings
        .into_iter()
        .flat_map(|setting| ["--config".to_owned(), setting]);
    let ingress_args: Vec<_> = config.chain(ingress_args.iter().cloned()).collect();
    let subscription = "subscription=invoicing need=durable event-types=invoice.* batch-size=10 concurrency=2";
    let invoicing_args: Vec<_> = ["--subscribe".to_owned(), subscription.to_owned()]
        .into_iter()
        .chain(invoicing_args.iter().cloned())
        .collect();
    let ingress = Hosted::start("webhook_ingress.wasm", bus, &ingress_args, folder.path());
    let invoicing = Hosted::start("invoicing.wasm", bus, &invoicing_args, folder.path());

    // What is kept is kept from the subscription's making on: that is seen by the first line that comes.
    let mut probes = 0..;
    eventually("invoicing is given events", || {
        let probe = probes.next().unwrap();
        let (ingress, invoicing) = (&ingress, &invoicing);
        async move {
            post(ingress, "probe", &format!("probe_{probe}")).await;
            (lines(invoicing, "probe").0 > 0).then_some(())
        }
    })
    .await;

    for i in 0..WEBHOOKS / 2 {
        post(&ingress, "acme", &format!("evt_{i}")).await;
    }
    let (_, ()) = tokio::join!(
        async {
            for i in WEBHOOKS / 2..WEBHOOKS {
                post(&ingress, "acme", &format!("evt_{i}")).await;
            }
        },
        kill()
    );
    // A sender that got no answer posts again: it is the same event.
    for i in 0..5 {
        post(&ingress, "acme", &format!("evt_{i}")).await;
    }
    let expected = (WEBHOOKS as u64, AMOUNT * WEBHOOKS as i64);
    eventually("each webhook is one line", || async {
        (lines(&invoicing, "acme") == expected).then_some(())
    })
    .await;
}

/// On `fanout serve`, listening on `listen`.
async fn served(listen: &str, policy: &str, serve_args: &[String], ingress: &[String], invoicing: &[String]) {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    std::fs::write(&file, format!("{SERVED_POLICY}{policy}")).unwrap();
    let start = |listen: &str| {
        let listen = ["--listen", listen];
        let args: Vec<_> = listen
            .into_iter()
            .chain(serve_args.iter().map(String::as_str))
            .collect();
        Served::start(&nats.url(), &file, &args)
    };
    let mut bus = start(listen);
    let url = bus.listen[0].replace("127.0.0.1", "localhost");
    let again = bus.listen[0].clone();
    the_same_files_work(&url, ingress, invoicing, async || {
        bus.kill();
        bus = tokio::task::block_in_place(|| start(&again));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_nats() {
    let links = [
        LinkTo::caller("webhook-ingress", &["publisher"], "*"),
        LinkTo::caller("invoicing", &["subscriber", "inbox"], "*"),
    ];
    let mut bench = Bench::start(&[], &links).await;
    let url = format!("{}?target=default.bus", bench.nats.url());
    the_same_files_work(&url, &[], &[], async || bench.restart_provider(0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp() {
    served("tcp://127.0.0.1:0", ANYONE_HERE, &[], &[], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let uid = Command::new("id").arg("-u").output().expect("id runs").stdout;
    let uid = String::from_utf8(uid).expect("a number").trim().to_owned();
    let policy = format!("\n[callers.here]\nunix-uid = {uid}\npublish.tenants = \"*\"\nsubscribe.tenants = \"*\"\n");
    let socket = format!("unix:{}", folder.path().join("bus.sock").display());
    served(&socket, &policy, &[], &[], &[]).await;
}

/// Each component shows a certificate of its own, and may do no more than it needs.
#[tokio::test(flavor = "multi_thread")]
async fn over_quic_with_mutual_tls() {
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
    let ca = write("ca.pem", &authority.certificate());
    let show = |name: &str| {
        let identity = authority.sign(name);
        let certificate = write(&format!("{name}.pem"), &identity.certificate);
        let key = write(&format!("{name}.key"), &identity.key);
        ["--tls-certificate".to_owned(), certificate, "--tls-key".to_owned(), key]
    };
    let serve = [
        show("localhost").to_vec(),
        vec!["--tls-client-ca".to_owned(), ca.clone()],
    ]
    .concat();
    let caller = |name: &str| [show(name).to_vec(), vec!["--tls-ca".to_owned(), ca.clone()]].concat();
    let policy = "
[callers.webhook-ingress]
certificate-cn = \"webhook-ingress\"
publish.tenants = \"*\"

[callers.invoicing]
certificate-dns = \"invoicing\"
subscribe.tenants = \"*\"
subscribe.event-types = [\"invoice.*\"]
";
    let (ingress, invoicing) = (caller("webhook-ingress"), caller("invoicing"));
    served("quic://127.0.0.1:0", policy, &serve, &ingress, &invoicing).await;
}
