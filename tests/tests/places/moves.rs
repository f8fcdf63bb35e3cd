//! A subscription that is handed over from one place to another, and back.

use std::time::Instant;

use super::*;

/// Takes and acknowledges what comes of a subscription until it is not delivered here any more. Each third event is refused once.
async fn handle(bus: Bus, seen: Arc<Mutex<Vec<String>>>) {
    let Ok(mut deliveries) = bus.subscribe(Subscription::declared("billing")).await else {
        return;
    };
    while let Some(Ok(delivery)) = deliveries.recv().await {
        let id = delivery.event().id.clone();
        let refuses = id.ends_with('3') && delivery.attempt() == 1;
        let settled = match refuses {
            true => delivery.retry_after(Duration::from_millis(100), "not now").await,
            false => delivery.ack().await,
        };
        if settled.is_ok() && !refuses {
            seen.lock().unwrap().push(id);
        }
    }
}

impl Place {
    pub(crate) fn moves(&self, to: &str) -> (i32, String, String) {
        let args = ["billing", "--to", to, "--within", "20s", "--place", self.name];
        self.cli.run(&["--json", "move"], &self.policy, &args)
    }

    /// The same, as a process of its own.
    fn begins_to_move(&self, to: &str) -> tokio::process::Child {
        let mut command = tokio::process::Command::new(beside_the_tests("fanout"));
        command.args(["move", "--nats", &self.nats.url(), "--to", to, "--place", self.name]);
        command
            .arg(&self.policy)
            .arg("billing")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.kill_on_drop(true).spawn().unwrap()
    }

    /// Handles at both places in turn whatever is delivered there, until the test ends.
    fn handles(&self, seen: &Arc<Mutex<Vec<String>>>) -> tokio::task::JoinHandle<()> {
        let (bus, seen) = (self.bus.clone(), Arc::clone(seen));
        tokio::spawn(async move {
            loop {
                handle(bus.clone(), Arc::clone(&seen)).await;
                tokio::task::yield_now().await;
            }
        })
    }
}

async fn moves_under_load(ordering: &str) {
    let (link, frankfurt, shop) = joined(ordering).await;
    let seen = Arc::default();
    let handlers = [frankfurt.handles(&seen), shop.handles(&seen)];
    let has_all = |to: usize| {
        let seen = Arc::clone(&seen);
        let wanted: BTreeSet<_> = ["frankfurt", "shop"].iter().flat_map(|p| numbered(p, 0..to)).collect();
        async move {
            eventually("every event is handled", || async {
                let seen: BTreeSet<_> = seen.lock().unwrap().iter().cloned().collect();
                (seen == wanted).then_some(())
            })
            .await;
        }
    };
    let mut comes_again = 0;
    let mut moved = |(code, out, err): (i32, String, String), from: &str| {
        assert_eq!(code, 0, "{out}{err}");
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["from"], from, "{out}");
        comes_again += said["comes_again"].as_u64().unwrap();
        said["stood_still_ms"].as_u64().unwrap()
    };
    tokio::join!(frankfurt.publish(0, 0..100), shop.publish(100_000, 0..100));
    let (there, ..) = tokio::join!(
        async { tokio::task::block_in_place(|| frankfurt.moves("shop")) },
        frankfurt.publish(0, 100..200),
        shop.publish(100_000, 100..200)
    );
    let stood_still = moved(there, "frankfurt");
    assert!(stood_still < 10_000, "{stood_still} ms");
    has_all(200).await;
    let has_it = |place: &Place| place.status().subscription("billing").is_some();
    assert!(has_it(&shop) && !has_it(&frankfurt));
    // It is there, whatever the policy says, and the same command again does nothing.
    let (code, out, err) = frankfurt.moves("shop");
    assert!(code == 0 && out.contains("\"from\": null"), "{out}{err}");

    // While the link is cut nothing is moved, and deliveries go on where they are.
    link.cut();
    eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
    let (code, out, err) = shop.moves("frankfurt");
    assert_ne!(code, 0, "{out}{err}");
    shop.publish(100_000, 200..210).await;
    frankfurt.publish(0, 200..210).await;
    link.heal();
    has_all(210).await;
    shop.mirrors_the_other().await;
    let (back, ..) = tokio::join!(
        async {
            // Killed at some step or other, it goes on with the next try.
            for kill_after in [15, 40, 90].map(Duration::from_millis) {
                let mut child = shop.begins_to_move("frankfurt");
                drop(tokio::time::timeout(kill_after, child.wait()).await);
                child.kill().await.unwrap();
            }
            // Taken back, it is delivered where it was; nothing that was copied meanwhile is left to be found by the next try.
            let (code, out, err) = tokio::task::block_in_place(|| shop.moves("shop"));
            assert_eq!(code, 0, "{out}{err}");
            assert!(has_it(&shop));
            tokio::task::block_in_place(|| shop.moves("frankfurt"))
        },
        frankfurt.publish(0, 210..260),
        shop.publish(100_000, 210..260)
    );
    assert_eq!(back.0, 0, "{back:?}");
    has_all(260).await;
    assert!(!has_it(&shop) && has_it(&frankfurt));

    for handler in handlers {
        handler.abort();
    }
    for place in [&frankfurt, &shop] {
        assert!(!place.served.log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_moves_under_load_and_back() {
    moves_under_load("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_with_an_order_moves_under_load_and_back() {
    moves_under_load("ordering = \"tenant\"\n").await;
}

/// Publishes a backlog of a place: events of three tenants in turn, numbered.
async fn publish_backlog(place: &Place, count: usize) {
    let numbers: Vec<_> = (0..count).collect();
    for part in numbers.chunks(500) {
        let event = |i: &usize| {
            let tenant = ["acme", "globex", "initech"][i % 3];
            Event::new(tenant, "invoice.paid", format!("{}-{i:04}", place.name)).source(place.name)
        };
        let events: Vec<_> = part.iter().map(event).collect();
        let stored = place.bus.publish_many(&events).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subscription_lost_is_read_before_its_next_place_has_begun() {
    let (_link, frankfurt, shop) = joined("").await;
    // Its consumers there are made by an instance that is frozen.
    shop.served.signal("STOP");
    let (code, out, err) = frankfurt.moves("shop");
    assert_eq!(code, 0, "{out}{err}");
    for more in [&[][..], &["--seen"]] {
        let (code, said) = shop.says(&["lost"], more);
        assert!(code == 0 && said.contains("nothing was lost"), "{said}");
    }
    // What does need them has a code.
    let (code, said) = shop.says(&["rewind"], &["billing", "--to", "2000-01-01T00:00:00Z"]);
    assert!(code == 3 && said.contains("[store-unavailable]"), "{said}");
    shop.served.signal("CONT");
    frankfurt.publish(0, 0..10).await;
    shop.begins("billing", 0).await;
    let mut billing = shop.subscribe(Subscription::declared("billing")).await;
    assert_eq!(
        of("frankfurt", &take(&mut billing, 10).await),
        numbered("frankfurt", 0..10)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_moves_past_a_place_where_the_bus_has_not_begun_and_not_to_it() {
    let port = free_ports(1)[0];
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let joins = |name| jetstream_domain(name, "", LeafNodes::Leaf(port));
    let (leaf, _third) = tokio::join!(joins("shop"), joins("virginia"));
    let text = three_places(1, Some(""));
    let frankfurt = Place::open("frankfurt", hub, &text).await;
    let shop = Place::open("shop", leaf, &text).await;
    shop.mirrors_the_other().await;
    eventually("the third server answers, and says that nothing is there", || async {
        let (code, _, err) = frankfurt.moves("virginia");
        assert_ne!(code, 0, "{err}");
        err.contains("has not begun there").then_some(())
    })
    .await;
    let (code, out, err) = frankfurt.moves("shop");
    assert_eq!(code, 0, "{out}{err}");
    let has_it = |place: &Place| place.status().subscription("billing").is_some();
    assert!(has_it(&shop) && !has_it(&frankfurt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_handled_at_the_next_place() {
    // So many of one place that its tenants are isolated, and fewer of the other.
    const BACKLOGS: [usize; 2] = [1_000, 3_500];
    // One after the other, as a simple program handles them: each leaves room for one more.
    const HANDLED: usize = 600;
    let (_link, frankfurt, shop) = joined("").await;
    tokio::join!(
        publish_backlog(&frankfurt, BACKLOGS[0]),
        publish_backlog(&shop, BACKLOGS[1])
    );
    frankfurt.mirrors_the_other().await;
    shop.mirrors_the_other().await;
    let seen = Arc::default();
    let handler = frankfurt.handles(&seen);
    eventually("deliveries are under way", || async {
        (!seen.lock().unwrap().is_empty()).then_some(())
    })
    .await;
    let (code, out, err) = tokio::task::block_in_place(|| frankfurt.moves("shop"));
    assert_eq!(code, 0, "{out}{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    handler.abort();
    // No more than the subscriber had in hand, however many wait.
    assert!(said["comes_again"].as_u64().unwrap() < 200, "{out}");

    shop.begins("billing", 0).await;
    let mut deliveries = shop.subscribe(Subscription::declared("billing")).await;
    let (mut handled, mut since) = (BTreeSet::new(), None);
    while since.is_none_or(|(before, _)| handled.len() < before + HANDLED) {
        if since.is_none() && shop.served.log().contains("many waiting events is isolated") {
            since = Some((handled.len(), Instant::now()));
        }
        let next = tokio::time::timeout(PATIENCE, deliveries.recv()).await;
        let delivery = next.expect("a delivery comes").unwrap().unwrap();
        let id = delivery.event().id.clone();
        if delivery.ack().await.is_ok() {
            handled.insert(id);
        }
        if let Some((before, since)) = since {
            let count = handled.len() - before;
            assert!(
                since.elapsed() < PATIENCE,
                "{count} are handled since tenants are isolated"
            );
        }
    }
    // Each place's events have their turn.
    for place in ["frankfurt", "shop"] {
        let of_place = handled.iter().filter(|id| id.starts_with(place)).count();
        assert!(of_place >= HANDLED / 10, "{of_place} of {place}");
    }
}
