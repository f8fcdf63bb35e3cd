//! It is published to and delivers while it goes.

use tokio::sync::mpsc;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_moves_under_load_and_nothing_is_lost_or_comes_again() {
    let link = Link::new();
    let (old, new) = (link.old().await, link.joined("new", "").await);
    let cli = Cli::new(old.url());
    let policy = cli.policy(&policy_of("topology = \"sharded(2)\"\n"));
    let at_old = Served::start(&old.url(), &policy, &LISTEN);
    let before = connect(&at_old.listen[0]).await.unwrap();
    let mut first = Vec::new();
    for n in 0..50 {
        first.push(publish(&before, &event("before.all", n)).await);
    }
    let subscribed = async |name| before.subscribe(Subscription::declared(name)).await.unwrap();

    // Dead letters, and one that is asked to be delivered again.
    let (mut lettered, mut redriven) = (subscribed("letters").await, subscribed("redriven").await);
    for n in 0..6 {
        publish(&before, &event("letter.due", n)).await;
        next(&mut lettered)
            .await
            .dead_letter(format!("reason {n}"))
            .await
            .unwrap();
    }
    for n in 0..2 {
        publish(&before, &event("redriven.due", n)).await;
        next(&mut redriven).await.dead_letter("once").await.unwrap();
    }
    let redrive = ["--all", "--subscription", "redriven"];
    let (code, out, err) = cli.run(&["dead-letters", "redrive"], &policy, &redrive);
    assert_eq!(code, 0, "{out}{err}");
    let in_hand = next(&mut redriven).await;
    // One was refused and is in hand again, and one waits for its next attempt for longer than the switch takes.
    let (mut held, mut waiting) = (subscribed("held").await, subscribed("waiting").await);
    publish(&before, &event("held.due", 0)).await;
    next(&mut held).await.retry_now("first").await.unwrap();
    let second = next(&mut held).await;
    assert_eq!(second.attempt(), 2);
    publish(&before, &event("waiting.due", 0)).await;
    let wait = Duration::from_secs(12);
    next(&mut waiting).await.retry_after(wait, "later").await.unwrap();
    let refused_at = Instant::now();
    // One whose every attempt is refused: two here, and there is one left there.
    let mut refusing = subscribed("refusing").await;
    publish(&before, &event("refused.always", 0)).await;
    next(&mut refusing).await.retry_now("first").await.unwrap();
    let wait = Duration::from_secs(10);
    next(&mut refusing).await.retry_after(wait, "second").await.unwrap();

    let listed = letters(&cli, &policy, &old, "letters");
    assert_eq!(listed.len(), 6);
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &["--dry-run"]);
    assert!(code == 0 && out.contains("not begun"), "{out}{err}");
    let streams = streams(&new).await;
    assert!(streams.is_empty(), "a dry run makes nothing: {streams:?}");

    let migration = by_hand(&policy, &old, &new).await;
    migration.copy().await.unwrap();
    // An instance of the new store waits beside the copies.
    let at_new = Served::start(&new.url(), &policy, &LISTEN);
    let after = connect(&at_new.listen[0]).await.unwrap();
    let early = event("before.all", 99);
    assert!(briefly(after.publish(&early)).await.is_none_or(|r| r.is_err()));
    let (code, _, err) = cli.run(&["plan"], &policy, &["--nats", &new.url()]);
    assert!(code == 1 && err.contains("bus-migrating"), "{err}");

    let stop = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn(take(before.clone(), "billing", Arc::clone(&stop), usize::MAX));
    let publishing = Publishing::begin(&Arc::new(Mutex::new(vec![before.clone(), after.clone()])));
    // They come due before, while and after it switches.
    for i in 0..20_u16 {
        let due = now() + 400_000_000 * i64::from(i);
        let event = Event::new("acme", "invoice.paid", format!("due-{i}")).source("till");
        before.publish_at(&event, due).await.unwrap();
    }
    let scheduled = (0..20).map(|i| format!("due-{i}"));

    let (steps, mut shown) = mpsc::unbounded_channel();
    let mut migration = migration.showing(move |step| drop(steps.send(step.clone())));
    let switching = tokio::spawn(async move {
        migration.compare().await.unwrap();
        migration.switch(DRAIN).await
    });
    while shown.recv().await.unwrap() != Step::Withheld {}
    // Settled while it is drained: neither comes again.
    second.ack().await.unwrap();
    let in_hand_id = in_hand.event().id.clone();
    let in_hand_is_settled = in_hand.ack().await.is_ok();
    let switched = switching.await.unwrap().unwrap();
    println!("{switched:#?}");
    stop.store(true, Ordering::Relaxed);
    let mut taken = taking.await.unwrap();
    // Over the link the old instance's publishes arrive in the new store, until it notices.
    let mut crossed = 0;
    while let Some(Ok(_)) = briefly(before.publish(&event("crossed.over", crossed))).await {
        crossed += 1;
        assert!(crossed < 10_000, "the old instance goes on");
    }
    let (code, _, err) = cli.run(&["plan"], &policy, &[]);
    assert!(code == 1 && err.contains("bus-moved"), "{err}");
    // An id that was accepted is the same event.
    for (n, position) in first.iter().enumerate() {
        assert_eq!(publish(&after, &event("before.all", n)).await, *position);
    }
    assert_eq!(
        letters(&cli, &policy, &new, "letters"),
        listed,
        "the dead letters are the same"
    );

    let (positions, longest) = publishing.end().await;
    println!("{} published meanwhile, the longest took {longest:?}", positions.len());
    assert!(
        switched.refused_ms < 1_000,
        "publishing was refused for {} ms",
        switched.refused_ms
    );
    let distinct: BTreeSet<_> = positions.iter().chain(&first).collect();
    assert_eq!(
        distinct.len(),
        positions.len() + 50,
        "every event has a position of its own"
    );
    let wanted: BTreeSet<String> = (0..positions.len())
        .map(|n| format!("{n:04}"))
        .chain(scheduled)
        .collect();
    let rest = wanted.len() - taken.iter().filter(|t| !t.refused).count();
    taken.extend(take(after.clone(), "billing", Arc::default(), rest).await);
    each_once(&taken, &wanted);
    // Who fetched nothing before is given all, in each partition's order.
    let late = take(after.clone(), "late", Arc::default(), wanted.len()).await;
    each_once(&late, &wanted);
    let mut last = BTreeMap::new();
    for one in late.iter().filter(|t| t.attempt == 1) {
        let before = last.insert((one.position.0, &one.tenant), one.position.1);
        assert!(
            before.is_none_or(|before| before < one.position.1),
            "{one:?} came behind {before:?}"
        );
    }

    let there = async |name| after.subscribe(Subscription::declared(name)).await.unwrap();
    let mut redriven = there("redriven").await;
    let mut again = BTreeSet::new();
    for _ in 0..if in_hand_is_settled { 1 } else { 2 } {
        let delivery = next(&mut redriven).await;
        again.insert(delivery.event().id.clone());
        delivery.ack().await.unwrap();
    }
    assert_eq!(again.contains(&in_hand_id), !in_hand_is_settled);
    let mut waiting = there("waiting").await;
    let waited = next(&mut waiting).await;
    assert!(waited.attempt() == 2 && refused_at.elapsed() > Duration::from_secs(11));
    waited.ack().await.unwrap();
    let mut refusing = there("refusing").await;
    let third = next(&mut refusing).await;
    assert_eq!(third.attempt(), 3);
    third.retry_now("third").await.unwrap();
    fanout_tests::eventually("the last attempt was refused", || async {
        (letters(&cli, &policy, &new, "refusing").len() == 1).then_some(())
    })
    .await;
    let mut held = there("held").await;
    for (name, deliveries) in [
        ("held", &mut held),
        ("redriven", &mut redriven),
        ("waiting", &mut waiting),
        ("refusing", &mut refusing),
    ] {
        let more = briefly(deliveries.recv()).await;
        assert!(more.is_none(), "{name}: {more:?} comes again");
    }
    assert!(letters(&cli, &policy, &new, "redriven").is_empty());
}
