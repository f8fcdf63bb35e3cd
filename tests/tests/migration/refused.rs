//! What can't go.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_go_is_refused_and_nothing_is_changed() {
    let link = Link::new();
    let old = link.old().await;
    let cli = Cli::new(old.url());
    let policy = cli.policy(&policy_of(""));
    let at_old = Served::start(&old.url(), &policy, &LISTEN);
    let bus = connect(&at_old.listen[0]).await.unwrap();
    publish(&bus, &event("held.due", 0)).await;
    let mut deliveries = bus.subscribe(Subscription::declared("held")).await.unwrap();
    let held = next(&mut deliveries).await;

    let (new, small, apart) = (
        link.joined("new", "").await,
        link.joined("small", "max_file_store: 32M").await,
        jetstream_domain("apart", "", LeafNodes::None).await,
    );
    let nowhere = link.joined("old", "").await;
    let refused = |to: &NatsServer, why: &str, more: &[&str]| {
        let (code, out, err) = migrate(&cli, &policy, &old, to, more);
        assert!(code == 1 && err.contains(why), "{why}: {out}{err}");
    };
    refused(&old, "not-migratable", &[]);
    refused(&nowhere, "not-migratable", &[]);
    refused(&apart, "place-unreachable", &[]);
    refused(&small, "account-limit", &[]);
    refused(&new, "not-drained", &["--drain-seconds", "1"]);
    for to in [&nowhere, &apart, &small] {
        assert!(streams(to).await.is_empty(), "{}", to.url());
    }
    let (code, _, err) = migrate(&cli, &policy, &new, &apart, &[]);
    assert!(code == 1 && err.contains("bus-moved"), "the copies are no bus: {err}");
    let other = [Cli::new(old.url()), Cli::new(old.url())];
    let by_bytes = other[0].policy(&format!("{}\n[quota]\nmax-bytes = \"1MiB\"\n", policy_of("")));
    let queue = other[1].policy(&format!(
        "topology = \"work-queue\"\n{SERVED_POLICY}{SIZES}{ANYONE_HERE}"
    ));
    for policy in [&by_bytes, &queue] {
        let (code, _, err) = migrate(&cli, policy, &old, &apart, &[]);
        assert!(code == 1 && err.contains("not-migratable"), "{err}");
    }

    assert_eq!(stage(&policy, &old, &new).await, Stage::Copying);
    held.ack().await.unwrap();
    // It goes on where it was.
    publish(&bus, &event("held.due", 1)).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.event().id, "0001");
    delivery.ack().await.unwrap();
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &["--back"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(streams(&new).await.is_empty());

    let (code, out, err) = cli.run(&["apply"], &policy, &["--nats", &new.url()]);
    assert_eq!(code, 0, "{out}{err}");
    refused(&new, "target-not-empty", &[]);
}

/// Whether a bus is refused under this policy, whatever else is asked.
fn is_judged(policy: &str, from: &NatsServer, to: &NatsServer, code: &str, says: &str) {
    let cli = Cli::new(from.url());
    let policy = cli.policy(policy);
    for more in [&["--dry-run"][..], &[]] {
        is_refused(&migrate(&cli, &policy, from, to, more), code, says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_places_none_is_told_to_be_removed() {
    let link = Link::new();
    let (old, new) = (link.old().await, link.joined("new", "").await);
    let with_places = format!(
        "{SERVED_POLICY}{SIZES}{ANYONE_HERE}\n[places.frankfurt]\nnumber = 0\njetstream.domain = \"old\"\n\n[places.shop]\nnumber = 1\njetstream.domain = \"new\"\n"
    );
    let opened = |place: &str, at: &NatsServer| {
        let cli = Cli::new(at.url());
        let policy = cli.policy(&with_places);
        // It has made its streams, and ends.
        drop(Served::start(
            &at.url(),
            &policy,
            &[&LISTEN[..], &["--place", place]].concat(),
        ));
    };
    let given = format!("place = \"frankfurt\"\n{with_places}");
    opened("frankfurt", &old);
    // A file that has no places does not make it a bus without places.
    for policy in [&given, &policy_of("")] {
        is_judged(policy, &old, &new, "not-migratable", "it has places");
    }
    assert!(streams(&new).await.is_empty());
    opened("shop", &new);
    for policy in [&given, &policy_of("")] {
        is_judged(policy, &old, &new, "not-migratable", "it has places");
        is_judged(policy, &new, &old, "not-migratable", "it has places");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_is_judged_by_its_streams_and_the_policy_is_the_one_in_force() {
    let link = Link::new();
    let (old, new) = (link.old().await, link.joined("new", "").await);
    let applied = |policy: &str| {
        let cli = Cli::new(old.url());
        let policy = cli.policy(policy);
        let (code, out, err) = cli.run(&["apply"], &policy, &["--nats", &old.url()]);
        assert_eq!(code, 0, "{out}{err}");
    };
    applied(&policy_of("topology = \"per-tenant\"\ntenants.allowed = [\"acme\"]\n"));
    is_judged(&policy_of(""), &old, &new, "not-migratable", "tenant acme's");

    let of_another = |more: &str| {
        policy_of(more)
            .replace("\"payments\"", "\"orders\"")
            .replace("payments.", "orders.")
    };
    applied(&of_another("revision = 2\n"));
    is_judged(
        &of_another("revision = 1\n"),
        &old,
        &new,
        "older-policy",
        "`revision` 2",
    );
    for other in ["revision = 2\ntopology = \"sharded(2)\"\n", "revision = 3\n"] {
        let says = "use the policy in force";
        is_judged(&of_another(other), &old, &new, "policy-conflict", says);
    }
    assert!(streams(&new).await.is_empty());
}
