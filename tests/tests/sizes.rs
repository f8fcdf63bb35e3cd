//! What is too large is refused when it is published, and what is accepted always has a dead letter; what another client
//! put on the bus's subjects has one that says what did not fit. Nothing stays behind of what was refused and settled.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use fanout_tests::types::{Attribute, Event, PublishError, Rejection};
use fanout_tests::{Bench, Verdict, event, eventually, ingress_and_invoicing};

/// An event with as many extension attributes as may be, each of this value.
fn with_attributes(id: &str, value: &str) -> Event {
    let extension = |i| Attribute {
        name: format!("x{i:02}"),
        value: value.to_owned(),
    };
    Event {
        extensions: (0..32).map(extension).collect(),
        ..event("acme", "invoice.paid", id)
    }
}

fn stream_of<'a>(bench: &'a Bench, name: &'a str) -> impl Future<Output = Option<stream::Info>> + use<'a> {
    let js = jetstream::new(bench.client().clone());
    async move { Some(js.get_stream(name).await.ok()?.cached_info().clone()) }
}

/// The dead letters by position, once there are so many.
async fn letters(bench: &Bench, count: u64) -> Vec<jetstream::message::StreamMessage> {
    let dead = eventually(&format!("there are {count} dead letters"), || async {
        let dead = jetstream::new(bench.client().clone())
            .get_stream("fanout_payments_dead")
            .await
            .ok()?;
        (dead.cached_info().state.messages >= count).then_some(dead)
    })
    .await;
    let mut letters = Vec::new();
    for number in 1..=count {
        letters.push(dead.get_raw_message(number).await.unwrap());
    }
    letters.sort_by_key(|letter| {
        letter
            .headers
            .get("fanout-dead-position")
            .map(|p| p.as_str().to_owned())
    });
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_has_a_dead_letter_however_large_it_is() {
    let settings = [("ordering", "tenant"), ("event.max-bytes", "1043456")];
    let bench = Bench::start(&settings, &ingress_and_invoicing()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.id.as_str() {
        "largest" => Verdict::Refuse(Rejection::Retry("!".repeat(2_000))),
        _ => Verdict::Handle,
    });
    // Not printable ASCII, it takes three bytes for each.
    let refused = ingress.publish(with_attributes("too large", &"é".repeat(512))).await;
    let Err(PublishError::TooLarge(problem)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(problem.code, "event-too-large");
    assert!(problem.message.contains("attributes"), "{}", problem.message);
    // The largest attributes and the largest payload that are taken, and the longest reason.
    let largest = |id: &str, chars: usize| Event {
        data: Bytes::from(vec![b'x'; 1_043_456 - 62_000]),
        ..with_attributes(id, &"é".repeat(chars))
    };
    let mut chars = 340;
    while ingress.publish(largest("largest", chars)).await.is_err() {
        chars -= 1;
    }
    assert!(chars > 300, "so large attributes are taken: {chars}");
    ingress.publish(event("acme", "invoice.paid", "next")).await.unwrap();
    let letter = letters(&bench, 1).await.remove(0);
    let header = |name: &str| letter.headers.get(name).map(|v| v.as_str().to_owned());
    assert_eq!(letter.payload.len(), 1_043_456 - 62_000);
    assert_eq!(header("ce-x31"), Some("%C3%A9".repeat(chars)));
    assert_eq!(
        (header("ce-id"), header("fanout-dead-left-out")),
        (Some("largest".into()), None)
    );
    let attempts: serde_json::Value = serde_json::from_str(&header("fanout-dead-attempts").unwrap()).unwrap();
    assert_eq!(attempts.as_array().unwrap().last().unwrap()["attempt"], 3);
    eventually("the next of the tenant is handled", || async {
        (invoicing.handled() == ["next"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_filled_to_the_brim_has_a_dead_letter_that_says_what_is_missing() {
    let bench = Bench::start(&[("ordering", "tenant")], &ingress_and_invoicing()).await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.id.as_str() {
        "next" => Verdict::Handle,
        _ => Verdict::Refuse(Rejection::Retry("!".repeat(1_000))),
    });
    let js = jetstream::new(bench.client().clone());
    let publish = async |id: &str, more: &[(&str, usize)], payload: usize| {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", id);
        headers.insert("ce-source", "/theirs");
        for (name, size) in more {
            headers.insert(*name, "v".repeat(*size));
        }
        let subject = "payments.acme.webhook.invoice.paid";
        let sent = js
            .publish_with_headers(subject, headers, vec![b'x'; payload].into())
            .await;
        sent.unwrap().await.unwrap();
    };
    let attribute: Vec<String> = (0..32).map(|i| format!("ce-y{i:02}")).collect();
    let attributes: Vec<_> = attribute.iter().map(|name| (name.as_str(), 1_000)).collect();
    // All of its headers, of which the client's own can go; its payload; no event at all.
    publish("full", &[&attributes[..], &[("theirs", 32_900)]].concat(), 10).await;
    publish("heavy", &[], (1 << 20) - 60).await;
    publish("none", &[("ce-time", 65_000)], 10).await;
    publish("next", &[], 10).await;
    eventually("the next of the tenant is handled", || async {
        (invoicing.handled() == ["next"]).then_some(())
    })
    .await;
    let letters = letters(&bench, 3).await;
    let header = |i: usize, name: &str| letters[i].headers.get(name).map(|v| v.as_str().to_owned());
    assert_eq!(header(0, "fanout-dead-left-out").as_deref(), Some("theirs"));
    assert_eq!(header(0, "ce-id").as_deref(), Some("full"), "every attribute is there");
    assert_eq!(header(0, "ce-y31"), Some("v".repeat(1_000)));
    let left_out = header(1, "fanout-dead-left-out").unwrap();
    assert!(left_out.contains("bytes of payload"), "{left_out}");
    assert!(letters[1].payload.len() > 1_000_000);
    let whose = (header(1, "ce-id"), header(1, "fanout-dead-id"));
    assert_eq!(whose, (None, Some("heavy".into())), "what is left is not taken for all");
    assert_eq!(header(2, "fanout-dead-left-out").as_deref(), Some("ce-time"));
    for (i, attempts) in [3, 3, 1].into_iter().enumerate() {
        let said: serde_json::Value = serde_json::from_str(&header(i, "fanout-dead-attempts").unwrap()).unwrap();
        assert_eq!(said.as_array().unwrap().len(), attempts, "{said}");
    }
    let of = |id: &str| invoicing.seen(|s| s.deliveries.iter().filter(|d| d.event.id == id).count());
    assert_eq!(
        (of("full"), of("heavy"), of("none")),
        (3, 3, 0),
        "no attempt is made in vain"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_and_is_settled_leaves_nothing_behind() {
    let bench = Bench::start(&[], &ingress_and_invoicing()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    for i in 0..50 {
        let published = ingress.publish(event("acme", "invoice.paid", &format!("e{i}")));
        published.await.unwrap();
    }
    eventually("all are handled", || async {
        (invoicing.handled().len() == 50).then_some(())
    })
    .await;
    eventually("nothing is remembered of their attempts", || async {
        // What is noted of how far the subscription has come stays: a message for each of its consumers.
        let attempts = stream_of(&bench, "KV_fanout_payments_attempts").await?;
        (attempts.state.last_sequence >= 100 && attempts.state.messages <= 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_given_by_hand_stay_unless_the_policy_names_them() {
    let mut bench = Bench::start(&[], &ingress_and_invoicing()).await;
    let js = jetstream::new(bench.client().clone());
    let dead = stream_of(&bench, "fanout_payments_dead").await.unwrap();
    let by_hand = stream::Config {
        max_bytes: 1 << 20,
        max_messages: 7,
        ..dead.config
    };
    js.update_stream(by_hand).await.unwrap();
    bench.change("dead-letters.max-age", "40d").await;
    eventually("its age is another, and its bounds are not", || async {
        let config = stream_of(&bench, "fanout_payments_dead").await?.config;
        let is = (config.max_age.as_secs() / 86_400, config.max_messages, config.max_bytes);
        (is == (40, 7, 1 << 20)).then_some(())
    })
    .await;
    bench.change("dead-letters.max-events", "9").await;
    eventually("the bound that is named is the policy's", || async {
        let config = stream_of(&bench, "fanout_payments_dead").await?.config;
        ((config.max_messages, config.max_bytes) == (9, 1 << 20)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_dead_letters_are_full_it_is_said_and_nothing_is_lost() {
    let mut bench = Bench::start(&[("dead-letters.max-events", "1")], &ingress_and_invoicing()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|_| Verdict::Refuse(Rejection::DeadLetter("never".into())));
    for id in ["a", "b"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    let status = bench
        .subscription_when("invoicing", "it says what is full", |s| s.code() == "store-full")
        .await;
    let message = status.problem.unwrap().message;
    assert!(
        message.contains("dead-letters.max-events") && message.contains("tenant acme"),
        "{message}"
    );
    bench.change("dead-letters.max-events", "10").await;
    letters(&bench, 2).await;
}
