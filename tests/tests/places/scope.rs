//! Subscriptions that are given what is published at their own place, by whoever makes them.

use fanout_tests::fanout;
use fanout_tests::http_caller::HttpCaller;
use serde_json::{Value, json};

use super::*;

/// The ids that `fanout subscribe` prints until it has printed so many.
fn printed(place: &Place, args: &[&str], count: &str) -> Vec<String> {
    let to = ["--json", "subscribe", "--to", &place.served.listen[0], "--count", count];
    let (code, out, err) = fanout(&[&to[..], args].concat());
    assert_eq!(code, 0, "{err}");
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_place_has_of_its_own_is_none_that_was_moved_there() {
    let (_link, frankfurt, shop) = joined("").await;
    let mut of_all = frankfurt.subscribe(Subscription::durable("dup")).await;
    let of_shop = shop.subscribe(Subscription::durable("dup").of_this_place()).await;
    for place in [&frankfurt, &shop] {
        let (code, said) = place.says(&["move"], &["dup", "--to", "shop"]);
        assert!(code != 0 && said.contains("subscription-conflict"), "{said}");
        assert!(
            said.contains("place shop") && said.contains("place frankfurt"),
            "{said}"
        );
    }
    let (code, said) = frankfurt.says(&["move"], &["local", "--to", "shop"]);
    assert!(code != 0 && said.contains("conflicting-settings"), "{said}");
    // It is where it was, and moves once nothing is in its way.
    tokio::join!(frankfurt.publish(0, 0..5), shop.publish(100_000, 0..5));
    take(&mut of_all, 10).await;
    of_all.stop(PATIENCE).await;
    drop(of_shop);
    shop.bus.unsubscribe("dup").await.unwrap();
    let (code, said) = frankfurt.says(&["move"], &["dup", "--to", "shop"]);
    assert_eq!(code, 0, "{said}");

    // Where it was, every verb says where it is.
    for (verb, more) in [
        (&["pause"][..], &["dup"][..]),
        (&["resume"], &["dup"]),
        (&["rewind"], &["dup", "--to", "first"]),
        (&["lost"], &["dup"]),
    ] {
        let (code, said) = frankfurt.says(verb, more);
        assert!(code != 0 && said.contains("at-another-place"), "{verb:?}: {said}");
        assert!(said.contains("place shop"), "{verb:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_subscribes_says_that_the_events_of_one_place_are_wanted() {
    let (link, frankfurt, shop) = joined("").await;
    let mine = || Subscription::durable("mine").of_this_place();
    let mut of_frankfurt = frankfurt.subscribe(mine()).await;
    let mut of_shop = shop.subscribe(mine()).await;
    let http = HttpCaller::at(&shop.served.listen[1]);
    let here = |need: &str| json!({"need": need, "scope": "here"});
    let made = http.json("PUT", "/v1/subscriptions/over-http", here("durable")).await;
    assert_eq!(made.good()["name"], "over-http");
    let refused = http.json("PUT", "/v1/subscriptions/odd", here("queue")).await;
    assert_eq!(refused.problem(400), "invalid-request");
    tokio::join!(frankfurt.publish(0, 0..20), shop.publish(100_000, 0..20));

    let given = take(&mut of_frankfurt, 20).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 0..20));
    let given = take(&mut of_shop, 20).await;
    assert_eq!(of("shop", &given), numbered("shop", 0..20), "of its own place alone");
    // Of one place a backfill begins at a position.
    let backfill = [
        "--need", "backfill", "--name", "late", "--scope", "here", "--from", "100000/6",
    ];
    let mut late = printed(&shop, &backfill, "15");
    late.sort();
    assert_eq!(late, numbered("shop", 5..20));

    let (code, said) = shop.says(&["rewind"], &["mine", "--to", "100000/11"]);
    assert_eq!(code, 0, "{said}");
    let given = take(&mut of_shop, 10).await;
    assert_eq!(of("shop", &given), numbered("shop", 10..20), "and so does a rewind");

    // Asked for again with the events of all places it is another one.
    let refused = shop.bus.subscribe(Subscription::durable("mine")).await.unwrap_err();
    assert_eq!(refused.code, "subscription-conflict", "{refused}");
    // A queue subscription is of its place anyway.
    let queue = [
        "subscribe",
        "--to",
        &shop.served.listen[0],
        "--need",
        "queue",
        "--name",
        "fast",
    ];
    let (code, _, err) = fanout(&[&queue[..], &["--scope", "here"]].concat());
    assert!(code == 2 && err.contains("--scope"), "{err}");

    shop.mirrors_the_other().await;
    let status = shop.status();
    let waiting = status.subscription("over-http").and_then(|s| s.pending);
    assert_eq!(waiting, Some(20), "nothing of the other place");

    // What was published at the other place is none of its events, and who published it is known there.
    for name in ["local", "mine", "over-http"] {
        assert_eq!(at(&event(&shop, "0/1"), name), ("other-place", "frankfurt"));
        assert_ne!(at(&event(&shop, "100000/1"), name).0, "other-place");
    }
    let life = http.get("/v1/life?position=0/1").await.good();
    assert_eq!(at(&life["events"][0], "local"), ("other-place", "frankfurt"));
    for told in [&life["events"][0], &event(&shop, "0/1"), &event(&shop, "100000/1")] {
        let publisher = &told["publisher"];
        assert_eq!(
            (&publisher["state"], &publisher["by"]),
            (&"known".into(), &"caller:anyone".into())
        );
    }
    let file = shop.policy.with_file_name("event.json");
    std::fs::write(
        &file,
        r#"{"tenant": "acme", "type": "invoice.paid", "source": "s", "id": "1"}"#,
    )
    .unwrap();
    let why = |more: &[&str]| shop.says(&["why"], &[&[file.to_str().unwrap(), "local"][..], more].concat());
    let if_here = "local: the event is for it, if it was published at place shop\n";
    let (code, said) = why(&[]);
    assert!(code == 0 && said.contains(if_here), "{said}");
    let (code, said) = why(&["--published-at", "shop"]);
    assert!(code == 0 && said.contains("local: the event is for it\n"), "{said}");
    let (code, said) = why(&["--published-at", "frankfurt"]);
    assert!(code == 1 && said.contains("published at place frankfurt"), "{said}");
    let (code, said) = why(&["--published-at", "nowhere"]);
    assert!(code == 2 && said.contains("[unknown-place]"), "{said}");

    link.cut();
    eventually("the other place can't be asked", async || {
        let publisher = event(&shop, "0/1")["publisher"].clone();
        let reason = publisher["reason"].as_str()?;
        assert!(reason.contains("place frankfurt took the event"), "{publisher}");
        Some(())
    })
    .await;
}

/// What `fanout event` at a place says of an event.
fn event(place: &Place, position: &str) -> Value {
    let (code, said) = place.says(&["--json", "event"], &[position]);
    assert_eq!(code, 0, "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    said["events"][0].clone()
}

/// An event's state at a subscription, and at which place it was published, if that is what stops it.
fn at<'a>(event: &'a Value, name: &str) -> (&'a str, &'a str) {
    let subscriptions = event["subscriptions"].as_array().unwrap();
    let here = subscriptions.iter().find(|s| s["name"] == name).unwrap();
    let place = here["stops"]["published_at"].as_str().unwrap_or_default();
    (here["state"].as_str().unwrap(), place)
}
