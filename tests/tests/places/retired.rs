//! A place that joins, and one that is retired.

use std::collections::BTreeMap;

use fanout_tests::http_caller::HttpCaller;

use super::*;

/// What a place's metrics say is left at the one that is retired.
async fn left_at_virginia(place: &Place) -> BTreeMap<String, u64> {
    let metrics = HttpCaller::at(&place.served.listen[1]).get("/metrics").await.text;
    let prefix = format!(
        r#"fanout_place_left{{bus="payments",place="{}",retired="virginia",what=""#,
        place.name
    );
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(&prefix));
    let left = lines.map(|line| {
        let (what, number) = line.split_once("\"} ").expect("a label and a number");
        (what.to_owned(), number.parse().expect("a number"))
    });
    left.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_taken_out_too_early_is_mirrored_though_its_mirror_is_empty() {
    let (link, frankfurt, shop) = joined("").await;
    let policy = std::fs::read_to_string(&frankfurt.policy).unwrap();
    link.cut();
    eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
    shop.publish(100_000, 0..2).await;
    frankfurt.is_brought_to(&without_the_shop(1, false)).await;
    for _ in 0..2 {
        let (code, said) = frankfurt.says(&["apply"], &[]);
        assert!(code != 0 && said.contains("would-lose-events"), "{said}");
    }
    assert!(frankfurt.served.log().contains("would-lose-events"));
    assert!(
        !frankfurt
            .served
            .log()
            .contains("delete stream fanout_payments_log_100000")
    );

    // Put back, and joined again, it loses nothing.
    frankfurt.is_brought_to(&format!("revision = 2\n{policy}")).await;
    link.heal();
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    let taken = take(&mut billing, 2).await;
    assert_eq!(of("shop", &taken), numbered("shop", 0..2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_other_place_keeps_is_left_at_a_place_that_is_retired() {
    let port = free_ports(1)[0];
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let leaf = jetstream_domain("shop", "", LeafNodes::Leaf(port)).await;
    let text = |revision: u32, retired: bool| {
        format!(
            "revision = {revision}\n{SERVED_POLICY}{ANYONE_HERE}
[places.frankfurt]\nnumber = 0\njetstream.domain = \"hub\"\nretired = {retired}
[places.shop]\nnumber = 1\nkeeps = [\"acme\"]\n"
        )
    };
    let frankfurt = Place::open("frankfurt", hub, &text(1, false)).await;
    let shop = Place::open("shop", leaf, &text(1, false)).await;
    frankfurt.publish(0, 0..3).await;
    for i in 0..2 {
        let event = Event::new("globex", "invoice.paid", format!("g-{i}")).source("frankfurt");
        frankfurt.bus.publish(&event).await.unwrap();
    }
    frankfurt.is_brought_to(&text(2, true)).await;
    shop.is_brought_to(&text(2, true)).await;
    eventually("what the other place keeps is there, and the rest is left", || async {
        let left = shop.status().place?.retiring.remove(0);
        assert!(!left.may_be_removed, "{left}");
        let mirrored = left.unread.is_empty() && left.not_mirrored.values().all(|events| *events == 0);
        (mirrored && left.kept_nowhere == 2).then_some(())
    })
    .await;
    let without = shop.policy.with_file_name("without.toml");
    let alone = format!("revision = 3\n{SERVED_POLICY}{ANYONE_HERE}\n[places.shop]\nnumber = 1\nkeeps = [\"acme\"]\n");
    std::fs::write(&without, alone).unwrap();
    let takes_out = |more: &[&str]| {
        let place = ["--place", "shop"];
        shop.cli.run(&["apply"], &without, &[&place[..], more].concat())
    };
    let (code, out, err) = takes_out(&[]);
    assert!(
        code != 0 && err.contains("would-lose-events") && err.contains("2 of its events are kept by no other place"),
        "{out}{err}"
    );
    // What is accepted once need not be accepted again, whether or not the place is there.
    let (code, out, err) = takes_out(&["--accept-loss", "places.frankfurt"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = takes_out(&[]);
    assert_eq!(code, 0, "{out}{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_joins_two_others_and_is_retired() {
    let port = free_ports(1)[0];
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let joins = |name| jetstream_domain(name, "", LeafNodes::Leaf(port));
    let (leaf, third) = tokio::join!(joins("shop"), joins("virginia"));
    let frankfurt = Place::open("frankfurt", hub, &three_places(1, None)).await;
    let shop = Place::open("shop", leaf, &three_places(1, None)).await;
    frankfurt.publish(0, 0..60).await;
    shop.mirrors_the_other().await;

    // It joins: it has all that was there, and says so. Until the others know of it, they say that theirs is the older policy.
    let virginia = Place::open("virginia", third, &three_places(2, Some(""))).await;
    eventually("the place that joins has caught up", || async {
        let (code, said) = virginia.says(&["status"], &[]);
        assert_eq!(code, 0, "{said}");
        (said.matches("has caught up").count() == 2 && said.contains("has all up to 0/60")).then_some(())
    })
    .await;
    virginia.notices("older-policy", "bring place").await;
    for place in [&frankfurt, &shop] {
        place.is_brought_to(&three_places(2, Some(""))).await;
    }
    let mut stock = virginia.subscribe(Subscription::declared("stock")).await;
    virginia.publish(200_000, 0..20).await;
    let first = stock.recv().await.unwrap().unwrap();
    first.dead_letter("not this one").await.unwrap();
    take(&mut stock, 19).await;
    drop(stock);

    // An instance that is connected to another place's servers is told.
    let mistaken = ["--listen", "tcp://127.0.0.1:0", "--place", "frankfurt"];
    let policy = shop.policy.with_file_name("mistaken.toml");
    std::fs::write(&policy, three_places(2, Some(""))).unwrap();
    let mistaken = Served::start(&shop.nats.url(), &policy, &mistaken);
    eventually("an instance at other servers is told", || async {
        mistaken.log().contains("place-conflict").then_some(())
    })
    .await;
    drop(mistaken);

    // Taken out as it is, it would take along what is at it.
    let out = frankfurt.policy.with_file_name("without.toml");
    std::fs::write(&out, three_places(3, None)).unwrap();
    let take_out = || frankfurt.cli.run(&["apply"], &out, &["--place", "frankfurt"]);
    let (code, said, err) = take_out();
    assert!(
        code != 0 && err.contains("would-lose-events") && err.contains("stock"),
        "{said}{err}"
    );

    for place in [&frankfurt, &shop, &virginia] {
        place.is_brought_to(&three_places(3, Some("retired = true"))).await;
    }
    let event = Event::new("acme", "invoice.paid", "one-more").source("virginia");
    let refused = virginia.bus.publish(&event).await.unwrap_err();
    assert_eq!(refused.code, "place-retired", "{refused}");
    assert!(refused.message.contains("frankfurt, shop"), "{refused}");
    let status = frankfurt.status();
    let retiring = &status.place.as_ref().unwrap().retiring[0];
    assert!(
        !retiring.may_be_removed && retiring.subscriptions.len() == 1,
        "{retiring}"
    );
    // The metrics are of the last look, which was a moment ago.
    eventually("its metric counts the subscription", async || {
        (left_at_virginia(&frankfurt).await.get("subscriptions") == Some(&1)).then_some(())
    })
    .await;
    frankfurt.notices("place-retired", "(stock)").await;
    for verb in ["check", "plan", "apply"] {
        let (_, said) = frankfurt.says(&[verb], &["--nats", &frankfurt.nats.url()]);
        assert!(
            said.contains("place-retired") && said.contains("(stock)"),
            "{verb}: {said}"
        );
    }
    let (code, said) = shop.says(&["move"], &["billing", "--to", "virginia"]);
    assert!(code != 0 && said.contains("place-retired"), "{said}");

    // Its subscription goes; its dead letter stays, and both places say where.
    let (code, said) = virginia.says(&["move"], &["stock", "--to", "frankfurt"]);
    assert!(code == 0 && said.contains("1 dead letters stay"), "{said}");
    frankfurt.notices("at-another-place", "moves nothing").await;
    let status = frankfurt.status();
    let letters = &status.subscription("stock").unwrap().dead_letters_elsewhere;
    assert_eq!(letters.get(&"virginia".parse().unwrap()), Some(&1));
    let (_, said) = frankfurt.says(&["errors"], &[]);
    assert!(said.contains("stayed at place virginia"), "{said}");
    let orphaned = virginia.status().orphaned_dead_letters.unwrap();
    assert_eq!(
        orphaned[0].moved_to.as_ref().map(|place| place.as_str()),
        Some("frankfurt")
    );

    // What is its own to handle is still to be handled there.
    let left = frankfurt.status().place.unwrap().retiring.remove(0);
    assert_eq!((left.not_handled, left.may_be_removed), (20, false), "{left}");
    let mut local = virginia.subscribe(Subscription::declared("local")).await;
    take(&mut local, 20).await;

    // Everything of it is at the others: it may go, and what it had stays there.
    eventually("it may be taken out", || async {
        let status = frankfurt.status();
        status.place?.retiring[0].may_be_removed.then_some(())
    })
    .await;
    eventually("its metric says so, too", async || {
        let left = left_at_virginia(&frankfurt).await;
        (left.len() == 5 && left.values().all(|number| *number == 0)).then_some(())
    })
    .await;
    let (_, said) = frankfurt.says(&["explain"], &["--nats", &frankfurt.nats.url()]);
    assert!(said.contains("may be taken out of the policy"), "{said}");
    let without = three_places(4, None);
    for place in [&frankfurt, &shop] {
        place.is_brought_to(&without).await;
    }
    let mut all = frankfurt.subscribe(Subscription::backfill("all", Start::First)).await;
    let taken = take(&mut all, 80).await;
    assert_eq!(of("virginia", &taken), numbered("virginia", 0..20));
    for place in [&frankfurt, &shop, &virginia] {
        assert!(!place.served.log().contains("panicked"));
    }
}
