//! A subscription that goes on elsewhere while its place is lost.

use async_nats::jetstream::stream;

use super::*;

impl Place {
    /// Has a subscription go on here while its place is lost.
    fn takes_from_lost(&self) -> (i32, String, String) {
        let args = ["billing", "--to", self.name, "--from-lost", "--place", self.name];
        self.cli.run(&["--json", "move"], &self.policy, &args)
    }

    /// Both the instance and its servers are killed.
    fn is_lost(&mut self) {
        self.served.kill();
        self.nats.kill();
    }

    /// What they had stored is there again.
    async fn comes_back(&mut self) {
        self.nats.restart().await;
        self.is_served_again().await;
    }

    async fn is_served_again(&mut self) {
        let args = ["--listen", "tcp://127.0.0.1:0", "--place", self.name];
        self.served = Served::start(&self.nats.url(), &self.policy, &args);
        self.bus = connect(&self.served.listen[0]).await.unwrap();
    }

    /// Bounds what its registry takes at once, in bytes; -1 is no bound.
    async fn registry_takes(&self, largest: i32) {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        let registry = jetstream.get_stream("KV_fanout_payments_registry").await.unwrap();
        let config = stream::Config {
            max_message_size: largest,
            ..registry.cached_info().config.clone()
        };
        jetstream.update_stream(config).await.unwrap();
    }

    /// Has it written down here how far a partition of another place had come that can't be read any more.
    async fn knew_head(&self, place: &str, (partition, head): (u32, u64)) {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        let bucket = jetstream.get_key_value("fanout_payments_attempts").await.unwrap();
        let key = format!("{place}.elsewhere.billing");
        let value = bucket.get(&key).await.unwrap().expect("it is written down");
        let mut known: LastKnown = serde_json::from_slice(&value).unwrap();
        known.heads.0.insert(partition, head);
        let value = serde_json::to_vec(&known).unwrap();
        bucket.put(&key, value.into()).await.unwrap();
    }

    /// Waits until this place knows how far a subscription has come at another: so many events are settled, and so many of them wait
    /// for a retry.
    async fn knows(&self, place: &str, settled: u64, waiting: usize) {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        let bucket = jetstream.get_key_value("fanout_payments_attempts").await.unwrap();
        eventually(
            "it is known here how far the other place's subscription has come",
            || async {
                let value = bucket.get(format!("{place}.elsewhere.billing")).await.unwrap()?;
                let known: LastKnown = serde_json::from_slice(&value).unwrap();
                let to: u64 = known.given.iter().map(|given| given.to).sum();
                (to == settled && known.waiting() == waiting).then_some(())
            },
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_on_elsewhere_while_its_place_is_lost() {
    let (link, mut frankfurt, shop) = joined("").await;
    drop(frankfurt.subscribe(Subscription::durable("audit")).await);
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    tokio::join!(frankfurt.publish(0, 0..20), shop.publish(100_000, 0..20));
    let mut handled = BTreeSet::new();
    for _ in 0..40 {
        let delivery = billing.recv().await.unwrap().unwrap();
        let id = delivery.event().id.clone();
        if id == "frankfurt-007" {
            delivery
                .retry_after(Duration::from_secs(3_600), "not now")
                .await
                .unwrap();
        } else {
            delivery.ack().await.unwrap();
            handled.insert(id);
        }
    }
    shop.knows("frankfurt", 40, 1).await;
    let (code, out, err) = shop.takes_from_lost();
    assert!(code != 0 && err.contains("place-not-lost"), "{out}{err}");

    // It goes on alone for a while, and is gone then.
    link.cut();
    eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
    frankfurt.publish(0, 20..23).await;
    let alone = take(&mut billing, 3).await;
    assert_eq!(of("frankfurt", &alone), numbered("frankfurt", 20..23));
    frankfurt.is_lost();
    drop(billing);
    link.heal();
    shop.publish(100_000, 20..30).await;
    shop.notices("place-unreachable", "audit, billing").await;
    // It was known here that there are two more than it has told of itself.
    shop.knew_head("frankfurt", (0, 25)).await;
    let second = shop.bus.subscribe(Subscription::durable("audit")).await.unwrap_err();
    assert!(second.message.contains("--from-lost"), "it is not made anew: {second}");
    let (code, out, err) = shop.takes_from_lost();
    assert_eq!(code, 0, "{out}{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["from"], "frankfurt", "{out}");
    assert_eq!(
        (&said["may_come_again"], &said["retries"]),
        (&10.into(), &1.into()),
        "{out}"
    );
    let not_mirrored = serde_json::json!([{ "first": "0/21", "last": "0/25" }]);
    assert_eq!(
        said["not_mirrored"], not_mirrored,
        "what is known of, and not here: {out}"
    );
    let (code, out, err) = shop.takes_from_lost();
    assert!(
        code == 0 && out.contains("\"from\": null"),
        "the same again does nothing: {out}{err}"
    );

    // What was settled does not come again. What waited for a retry comes, and what came since.
    shop.begins("billing", 0).await;
    let mut goes_on = shop.subscribe(Subscription::declared("billing")).await;
    let given = take(&mut goes_on, 11).await;
    assert_eq!(of("frankfurt", &given), ["frankfurt-007"]);
    assert_eq!(of("shop", &given), numbered("shop", 20..30));

    // The place that comes back finds it elsewhere, and lets it go. What it alone had comes to where the subscription is.
    frankfurt.comes_back().await;
    eventually("the place that comes back lets the subscription go", || async {
        let status = frankfurt.status();
        let at = status.place.as_ref()?.moved.get(&"billing".parse().unwrap())?.clone();
        (at.as_str() == "shop" && status.subscription("billing").is_none()).then_some(())
    })
    .await;
    eventually("it says so", || async {
        frankfurt.served.log().contains("at-another-place").then_some(())
    })
    .await;
    let refused = frankfurt
        .bus
        .subscribe(Subscription::durable("billing"))
        .await
        .unwrap_err();
    assert!(refused.message.contains("shop"), "{refused}");
    tokio::join!(frankfurt.publish(0, 23..30), shop.publish(100_000, 30..40));
    let given = take(&mut goes_on, 20).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 20..30), "once each");
    assert_eq!(of("shop", &given), numbered("shop", 30..40));
    for place in [&frankfurt, &shop] {
        assert!(!place.served.log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_a_place_has_of_its_own_is_none_that_went_on_there() {
    let (_link, mut frankfurt, shop) = joined("").await;
    drop(frankfurt.subscribe(Subscription::durable("dup")).await);
    drop(shop.subscribe(Subscription::durable("dup").of_this_place()).await);
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    frankfurt.publish(0, 0..5).await;
    take(&mut billing, 5).await;
    shop.knows("frankfurt", 5, 0).await;
    frankfurt.is_lost();
    drop(billing);
    shop.notices("place-unreachable", "billing, dup").await;
    let goes_on = || shop.says(&["move"], &["dup", "--to", "shop", "--from-lost"]);
    let (code, said) = goes_on();
    assert!(code != 0 && said.contains("subscription-conflict"), "{said}");
    shop.bus.unsubscribe("dup").await.unwrap();
    let (code, said) = goes_on();
    assert!(code == 0 && said.contains("goes on at place shop"), "{said}");
    let (code, said) = goes_on();
    assert!(code == 0 && said.contains("is at place shop"), "the same again: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_taken_back_whose_next_place_was_taken_out_of_the_policy() {
    let (_link, frankfurt, shop) = joined("").await;
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    frankfurt.publish(0, 0..5).await;
    take(&mut billing, 5).await;
    billing.stop(PATIENCE).await;
    shop.registry_takes(1).await;
    let (code, out, err) = frankfurt.moves("shop");
    assert_ne!(code, 0, "{out}{err}");
    frankfurt.is_brought_to(&without_the_shop(1, true)).await;
    let before = frankfurt.times_begun("billing");
    let (code, out, err) = frankfurt.moves("frankfurt");
    assert!(code == 0 && out.contains("\"from\": null"), "{out}{err}");
    frankfurt.begins("billing", before).await;
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    frankfurt.publish(0, 5..10).await;
    let given = take(&mut billing, 5).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 5..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_taken_back_whose_next_place_is_lost_next_place_is_lost_meanwhile() {
    let port = free_ports(1)[0];
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let joins = |name| jetstream_domain(name, "", LeafNodes::Leaf(port));
    let (leaf, third) = tokio::join!(joins("shop"), joins("virginia"));
    let text = three_places(1, Some(""));
    let frankfurt = Place::open("frankfurt", hub, &text).await;
    let mut shop = Place::open("shop", leaf, &text).await;
    let virginia = Place::open("virginia", third, &text).await;
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    frankfurt.publish(0, 0..20).await;
    for _ in 0..20 {
        let delivery = billing.recv().await.unwrap().unwrap();
        if delivery.event().id == "frankfurt-007" {
            let later = Duration::from_millis(200);
            delivery.retry_after(later, "not now").await.unwrap();
        } else {
            delivery.ack().await.unwrap();
        }
    }
    billing.stop(PATIENCE).await;

    // It ends behind what it copies, and before the next place has the subscription. Then that place is lost.
    shop.registry_takes(1).await;
    let (code, out, err) = frankfurt.moves("shop");
    assert_ne!(code, 0, "{out}{err}");
    let is_moving = frankfurt.status().subscription("billing").map(|s| s.code().to_owned());
    assert_eq!(is_moving.as_deref(), Some("moving"));
    shop.is_lost();
    for to in ["shop", "frankfurt"] {
        let (code, out, err) = frankfurt.moves(to);
        assert!(
            code != 0 && err.contains("place-unreachable") && err.contains("--from-lost"),
            "to {to}: {out}{err}"
        );
    }
    let (code, out, err) = virginia.takes_from_lost();
    assert!(
        code != 0 && err.contains("moving") && err.contains("--to frankfurt") && err.contains("--from-lost"),
        "{out}{err}"
    );
    let before = frankfurt.times_begun("billing");
    let (code, out, err) = frankfurt.takes_from_lost();
    assert!(code == 0 && out.contains("\"from\": null"), "{out}{err}");

    // It goes on where it was: with what waited for a retry, and what is new.
    frankfurt.begins("billing", before).await;
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    frankfurt.publish(0, 20..30).await;
    let given = take(&mut billing, 11).await;
    let expected: Vec<_> = numbered("frankfurt", 7..8)
        .into_iter()
        .chain(numbered("frankfurt", 20..30))
        .collect();
    assert_eq!(of("frankfurt", &given), expected);
    billing.stop(PATIENCE).await;

    // The other place comes back with what was copied to it, which means nothing to a later move.
    shop.nats.restart().await;
    shop.registry_takes(-1).await;
    shop.is_served_again().await;
    eventually("both can be read", || async {
        let (code, ..) = frankfurt.moves("shop");
        (code == 0).then_some(())
    })
    .await;
    eventually("nothing waits for a retry that was handled", || async {
        let status = shop.status();
        let billing = status.subscription("billing")?;
        assert!(
            billing.waiting_for_retry.is_none_or(|waiting| waiting == 0),
            "{billing:?}"
        );
        billing.waiting_for_retry.map(drop)
    })
    .await;
    shop.begins("billing", 0).await;
    let mut billing = shop.subscribe(Subscription::declared("billing")).await;
    frankfurt.publish(0, 30..40).await;
    let given = take(&mut billing, 10).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 30..40), "once each");
    for place in [&frankfurt, &shop, &virginia] {
        assert!(!place.served.log().contains("panicked"));
    }
}
