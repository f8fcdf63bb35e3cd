//! It is killed behind a step, and goes on, or back.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_killed_behind_any_step_goes_back_or_goes_on() {
    let link = Link::new();
    let (old, new) = (link.old().await, link.joined("new", "").await);
    let cli = Cli::new(old.url());
    let policy = cli.policy(&policy_of("ordering = \"tenant\"\n"));
    let at_old = Served::start(&old.url(), &policy, &LISTEN);
    let before = connect(&at_old.listen[0]).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn(take(before.clone(), "billing", Arc::clone(&stop), usize::MAX));
    let buses = Buses::default();
    buses.lock().unwrap().push(before.clone());
    let publishing = Publishing::begin(&buses);
    let is_delivered = async || {
        let mut held = before.subscribe(Subscription::declared("held")).await.unwrap();
        publish(
            &before,
            &Event::new("acme", "held.due", now().to_string()).source("till"),
        )
        .await;
        next(&mut held).await.ack().await.unwrap();
        held.stop(Duration::from_secs(1)).await;
    };

    killed_after(by_hand(&policy, &old, &new).await, |s| matches!(s, Step::Mirrored(_))).await;
    assert_eq!(stage(&policy, &old, &new).await, Stage::Copying);
    is_delivered().await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Withheld).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Closed).await;
    assert_eq!(stage(&policy, &old, &new).await, Stage::Closed);
    // Taken back: it goes on where it was, and nothing is left where it was to go.
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &["--back"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(streams(&new).await.is_empty());
    assert_eq!(stage(&policy, &old, &new).await, Stage::NotBegun);
    is_delivered().await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Still).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Equal).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| matches!(s, Step::Promoted(_))).await;
    assert_eq!(stage(&policy, &old, &new).await, Stage::Promoting);
    let (code, _, err) = migrate(&cli, &policy, &old, &new, &["--back"]);
    assert!(code == 1 && err.contains("bus-moved"), "{err}");
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Released).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| matches!(s, Step::Opened(_))).await;
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &[]);
    assert!(code == 0 && out.contains("is in domain new"), "{out}{err}");
    let (code, out, _) = migrate(&cli, &policy, &old, &new, &[]);
    assert!(code == 0 && out.contains("done"), "{out}");

    let at_new = Served::start(&new.url(), &policy, &LISTEN);
    let after = connect(&at_new.listen[0]).await.unwrap();
    buses.lock().unwrap().push(after.clone());
    stop.store(true, Ordering::Relaxed);
    let mut taken = taking.await.unwrap();
    let positions = publishing.end().await.0.len();
    let wanted: BTreeSet<String> = (0..positions).map(|n| format!("{n:04}")).collect();
    let rest = wanted.len() - taken.iter().filter(|t| !t.refused).count();
    taken.extend(take(after, "billing", Arc::default(), rest).await);
    each_once(&taken, &wanted);
    let mut last = BTreeMap::new();
    for one in taken.iter().filter(|t| !t.refused) {
        let before = last.insert(&one.tenant, one.position.1);
        assert!(
            before.is_none_or(|before| before < one.position.1),
            "{one:?} came behind {before:?}"
        );
    }
}
