//! Many who ask at once: hundreds of programs subscribe in the moment in which a bus is there again, and each is served.

use std::path::Path;

use fanout_client::{Bus, Deliveries, Event, Subscription, connect};
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served};
use fanout_transport::testing::NatsServer;
use futures::future::join_all;

const PROGRAMS: usize = 300;

fn serve(nats: &NatsServer, policy: &Path, listen: &str) -> Served {
    Served::start(&nats.url(), policy, &["--listen", listen])
}

/// Subscribes all of them at once, each over its own connection. Nobody is refused.
async fn subscribe_all(programs: &[Bus]) -> Vec<Deliveries> {
    let asked = programs.iter().enumerate().map(|(i, bus)| async move {
        let wanted = Subscription::durable(format!("program{i}")).event_types(["invoice.*"]);
        bus.subscribe(wanted).await
    });
    let (mut given, mut refused) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(deliveries) => given.push(deliveries),
            Err(error) => refused.push(error.to_string()),
        }
    }
    assert!(refused.is_empty(), "{} failed: {}", refused.len(), refused[0]);
    given
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_that_subscribe_at_once_are_all_served() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let many = format!("\n[limits]\nsubscriptions-per-caller = {PROGRAMS}\n");
    std::fs::write(&policy, format!("{SERVED_POLICY}{many}{ANYONE_HERE}")).unwrap();
    let mut served = serve(&nats, &policy, "tcp://127.0.0.1:0");
    let url = served.listen[0].clone();
    let programs: Vec<Bus> = join_all((0..PROGRAMS).map(|_| connect(&url)))
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    drop(subscribe_all(&programs).await);
    served.kill();
    served = serve(&nats, &policy, &url);
    drop(subscribe_all(&programs).await);
    let receipt = programs[0]
        .publish(&Event::new("acme", "invoice.paid", "1"))
        .await
        .unwrap();
    assert_eq!(receipt.durable_subscriptions as usize, PROGRAMS);
    drop(served);
}
