//! Whoever reads the store for a long time notices that what it reads from is gone, and begins anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::jetstream;
use fanout_tests::types::Rejection;
use fanout_tests::{Bench, Cli, Component, Verdict, event, eventually, ingress_and_invoicing};
use futures::TryStreamExt as _;

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"
";
const LETTERS: &str = "fanout_payments_dead";

/// So many dead letters, and a handler that is mended when it is told so.
async fn letters(bench: &Bench, count: usize) -> (Component, Arc<AtomicBool>) {
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    invoicing.judge(move |_| match is_mended.load(Ordering::SeqCst) {
        true => Verdict::Handle,
        false => Verdict::Refuse(Rejection::DeadLetter("broken".into())),
    });
    for i in 0..count {
        eventually("an event is accepted", || async {
            ingress
                .publish(event("acme", "invoice.paid", &format!("e{i}")))
                .await
                .ok()
        })
        .await;
    }
    bench
        .subscription_when("invoicing", "all are dead letters", |s| {
            s.dead_letters == Some(count as u64)
        })
        .await;
    (invoicing, mended)
}

async fn redriven(bench: &Bench, invoicing: &Component, count: usize) {
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    eventually("the requests are taken", || async {
        (cli.run(&["dead-letters", "redrive"], &policy, &["--all"]).0 == 0).then_some(())
    })
    .await;
    eventually("all are handled", || async {
        (invoicing.handled().len() == count).then_some(())
    })
    .await;
    bench
        .subscription_when("invoicing", "no letter is left", |s| s.dead_letters == Some(0))
        .await;
}

/// The consumers by which requests to redrive are read, and the server of each that has one of three.
async fn readers(js: &jetstream::Context) -> Vec<(String, Option<String>)> {
    eventually("requests to redrive are read", || async {
        let letters: jetstream::stream::Stream = js.get_stream(LETTERS).await.ok()?;
        let consumers: Vec<_> = letters.consumers().try_collect().await.ok()?;
        let readers: Vec<_> = consumers
            .into_iter()
            .map(|c| (c.name, c.cluster.and_then(|cluster| cluster.leader)))
            .collect();
        (!readers.is_empty()).then_some(readers)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn redrives_go_on_when_their_reader_is_deleted() {
    const LETTERS_MADE: usize = 3;
    let bench = Bench::start(&[("ordering", "tenant")], &ingress_and_invoicing()).await;
    let (invoicing, mended) = letters(&bench, LETTERS_MADE).await;
    let js = jetstream::new(bench.client().clone());
    for (reader, _) in readers(&js).await {
        js.delete_consumer_from_stream(&reader, LETTERS).await.unwrap();
    }
    mended.store(true, Ordering::SeqCst);
    redriven(&bench, &invoicing, LETTERS_MADE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redrives_go_on_when_their_readers_server_goes() {
    const LETTERS_MADE: usize = 3;
    let settings = [("retention.replicas", "3"), ("ordering", "tenant")];
    let (mut bench, mut others) = Bench::without_provider_in_cluster(&settings, &ingress_and_invoicing()).await;
    bench.add_provider().await;
    let (invoicing, mended) = letters(&bench, LETTERS_MADE).await;
    let js = jetstream::new(bench.client().clone());
    let mut names = Vec::new();
    for other in &others {
        names.push(other.client().await.server_info().server_name);
    }
    // One of the servers that the test may take away has it; else it is made again until that is so.
    let taken = eventually("a server that may go has the reader", || async {
        for (reader, server) in readers(&js).await {
            let server = server?;
            match names.iter().position(|name| *name == server) {
                Some(i) => return Some(i),
                None => drop(js.delete_consumer_from_stream(&reader, LETTERS).await),
            }
        }
        None
    })
    .await;
    others[taken].kill();
    mended.store(true, Ordering::SeqCst);
    redriven(&bench, &invoicing, LETTERS_MADE).await;
}
