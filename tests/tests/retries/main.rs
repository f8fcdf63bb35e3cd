//! Refused events wait without holding up others, and nothing is lost while they do.

mod fetched;
mod others;
mod store;
mod subscription;

use fanout_tests::types::{Delivery, Rejection};
use fanout_tests::{Bench, Component, LinkTo, SubscriptionStatus, Verdict, event, eventually};

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[delivery]
deadline = \"500ms\"
ack-wait = \"2s\"
";

/// Nothing that is refused is due while a test waits.
const LATE: (&str, &str) = ("retry.schedule", "10m");

fn links(reach: &str, more: &[(&str, &str)]) -> Vec<LinkTo> {
    let mut settings = vec![
        ("subscription", "invoicing"),
        ("need", "durable"),
        ("event-types", "invoice.*"),
    ];
    settings.extend_from_slice(more);
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &[reach], &settings),
        LinkTo::caller("invoicing", &["subscriber", "inbox"], "*"),
    ]
}

async fn publish(ingress: &Component, tenant: &str, ids: std::ops::Range<usize>) {
    for i in ids {
        let published = ingress.publish(event(tenant, "invoice.paid", &format!("{tenant}-{i:03}")));
        published.await.unwrap();
    }
}

/// Refuses acme's for now, and handles all others.
fn refuses_acme(d: &Delivery) -> Verdict {
    match d.event.tenant.as_str() {
        "acme" => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    }
}

async fn handles(component: &Component, id: &str) {
    eventually(&format!("{id} is handled"), || async {
        component.handled().iter().any(|i| i == id).then_some(())
    })
    .await;
}

async fn waits_for_retry(bench: &Bench, count: usize) -> SubscriptionStatus {
    let what = format!("{count} wait for a retry, and nothing else does");
    bench
        .subscription_when("invoicing", &what, |s| {
            s.waiting_for_retry == Some(count as u64) && s.pending == Some(0) && s.in_flight == Some(0)
        })
        .await
}

/// How often each of these was delivered, and the highest number of an attempt.
fn attempts(component: &Component, tenant: &str) -> (usize, u32) {
    component.seen(|s| {
        let of_tenant = s.deliveries.iter().filter(|d| d.event.tenant == tenant);
        (
            of_tenant.clone().count(),
            of_tenant.map(|d| d.attempt).max().unwrap_or(0),
        )
    })
}
