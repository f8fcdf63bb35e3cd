use super::*;
use crate::LossAllowed;
use crate::quota::Quota;

pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
    let mut all: Settings = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.webhook.{event-type}"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    all.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    all
}

/// One call takes 16 MiB: an event that no call can carry could be accepted by nobody, and fetched by nobody.
#[test]
fn the_largest_event_fits_a_call() {
    let policy = |size: &str| {
        let settings = settings(&[
            ("subject", "p.{tenant}.{event-type}"),
            ("bus", "payments"),
            ("event.max-bytes", size),
        ]);
        Policy::from_settings("bus", &settings)
    };
    assert_eq!(policy("12MiB").unwrap().max_event_bytes, 12 << 20);
    let refused = format!("{:?}", policy("13MiB").unwrap_err());
    assert!(refused.contains("event.max-bytes"), "{refused}");
}

#[test]
fn two_settings_are_enough() {
    let policy = Policy::from_settings("policy", &settings(&[])).unwrap();
    assert_eq!(policy.retention.max_age, 7 * DAY);
    assert_eq!(policy.retention.when_full, WhenFull::Refuse);
    assert_eq!(policy.names().log(), "fanout_payments_log");
}

#[test]
fn all_problems_come_at_once() {
    let bad = settings(&[
        ("bus", "pay.ments"),
        ("retention.max-age", "soon"),
        ("retention.replicas", "9"),
        ("delivery.deadline", "30s"),
        ("retention.max-agee", "7d"),
    ]);
    let problems = Policy::from_settings("policy of provider bus", &bad).unwrap_err();
    let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
    expect_test::expect![[r#"
            policy of provider bus: setting `bus`: bus "pay.ments" is not a legal name: use 1 to 32 characters out of A-Z a-z 0-9 _ - [invalid-setting]
            policy of provider bus: setting `retention.max-age`: "soon" is not a duration from 1s to 3660d: write a number and one of ms, s, m, h, d [invalid-setting]
            policy of provider bus: setting `retention.replicas`: "9" is not a whole number from 1 to 5 [invalid-setting]
            policy of provider bus: `delivery.ack-wait` (30s) must be longer than `delivery.deadline` (30s), or an event is given to a second instance while the first still works on it [conflicting-settings]
            policy of provider bus: setting "retention.max-agee" is not known: did you mean `retention.max-age`? [unknown-setting]
        "#]]
    .assert_eq(&text);
}

#[test]
fn the_page_names_every_setting() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let problems = Policy::from_settings("policy", &settings(&[("colour", "blue")])).unwrap_err();
    let (_, known) = problems[0].message.split_once("known are: ").unwrap();
    let known: Vec<_> = known.split(", ").collect();
    for setting in &known {
        assert!(
            page.contains(&format!("\n| `{setting}` |")),
            "docs/policy.md has no row for {setting}"
        );
    }
    for row in page.lines().filter_map(|l| l.strip_prefix("| `")) {
        let (name, _) = row.split_once('`').unwrap();
        let is_topology = ["shared", "sharded(n)", "per-tenant", "work-queue", "topology"].contains(&name);
        assert!(
            is_topology || name == "retention.storage" || known.contains(&name),
            "docs/policy.md has a row for {name}"
        );
    }
}

#[test]
fn every_setting_is_read() {
    let policy = Policy::from_settings(
        "policy",
        &settings(&[
            ("topology", "sharded(4)"),
            ("tenants.allowed", "globex, acme,acme"),
            ("quota.events-per-second", "10"),
            ("quota.tenant.acme.events-per-second", "99"),
            ("quota.tenant.acme.max-bytes", "1MiB"),
            ("quota.scheduled-events", "50"),
            ("quota.tenant.acme.scheduled-events", "7"),
            ("limits.subscriptions-per-caller", "5"),
            ("limits.bytes-per-subscription", "1MiB"),
            ("scheduled.max-bytes", "256KiB"),
            ("quota.tenant.acme.scheduled-max-bytes", "64MiB"),
            ("durability", "on-disk"),
            ("dedupe.scope", "retained"),
            ("ordering", "key"),
            ("queue.delivery", "at-least-once"),
            ("retention.compression", "s2"),
            ("subscriptions.invoicing.need", "durable"),
            ("subscriptions.invoicing.event-types", "invoice.*"),
            ("change.allow-loss", "retention.max-age,retention.max-bytes"),
        ]),
    )
    .unwrap();
    assert_eq!(policy.shape, Shape::Sharded(4));
    let (acme, globex, other) = (
        "acme".parse().unwrap(),
        "globex".parse().unwrap(),
        "other".parse().unwrap(),
    );
    assert_eq!(
        policy.quotas.of(&acme),
        Quota {
            events_per_second: Some(99),
            max_bytes: Some(1 << 20),
            scheduled_events: Some(7),
            scheduled_bytes: Some(64 << 20),
        }
    );
    assert_eq!(
        policy.quotas.of(&globex),
        Quota {
            events_per_second: Some(10),
            max_bytes: None,
            scheduled_events: Some(50),
            scheduled_bytes: None,
        }
    );
    assert_eq!(policy.scheduled_share(&acme), (7, 64 << 20));
    assert_eq!(policy.scheduled_share(&globex), (50, 64 << 10), "a quarter");
    assert_eq!(
        policy.limits,
        crate::limits::Limits {
            subscriptions_per_caller: 5,
            bytes_per_subscription: 1 << 20,
            ..Default::default()
        }
    );
    assert!(policy.serves(&acme) && policy.serves(&globex) && !policy.serves(&other));
    assert_eq!(
        (policy.durability, policy.dedupe.scope),
        (Durability::OnDisk, Dedupe::Retained)
    );
    assert_eq!(
        (policy.ordering, policy.queue_delivery),
        (Ordering::Key, QueueDelivery::AtLeastOnce)
    );
    assert!(policy.retention.compressed && policy.allows_loss("retention.max-bytes") && !policy.allows_loss("subject"));
    assert_eq!(policy.subscriptions.len(), 1);
}

#[test]
fn what_may_be_lost_is_named_as_it_is_called() {
    for named in ["dead-letters.max-bytes", "subscriptions.billing", "places.shop-42"] {
        assert!(named.parse::<LossAllowed>().is_ok(), "{named}");
    }
    for nothing in [
        "",
        "nonsense",
        "places",
        "places.",
        "places.a b",
        "subject",
        "retention.max-ages",
    ] {
        let problem = nothing.parse::<LossAllowed>().unwrap_err();
        assert!(problem.message.contains("name retention.max-age, "), "{problem}");
    }
}

#[test]
fn what_names_chosen_by_the_user_hide_is_found() {
    let bad = settings(&[
        ("topology", "sharded(1)"),
        ("quota.tenant..max-bytes", "1MiB"),
        ("quota.tenant.acme.colour", "1MiB"),
        ("quota.tenant.acme.max-bytes", "much"),
        ("subscriptions.inv.need", "often"),
        ("subscriptions.inv.colour", "blue"),
        ("subscriptions.audit.event-types", "a.*b"),
        ("subscriptions.queue.need", "queue"),
        ("subscriptions.queue.start", "first"),
    ]);
    let problems = Policy::from_settings("policy", &bad).unwrap_err();
    let text: String = problems.iter().map(|p| format!("{:?}: {p}\n", p.setting)).collect();
    expect_test::expect![[r#"
            Some("topology"): policy: setting `topology`: "1" is not a whole number from 2 to 64 [invalid-setting]
            Some("quota.tenant."): policy: setting `quota.tenant.`: tenant "" is not legal: use 1 to 128 bytes of text without control characters [invalid-tenant]
            Some("quota.tenant.acme.colour"): policy: setting `quota.tenant.acme.colour`: is not known; known are `events-per-second`, `max-bytes`, `scheduled-events` and `scheduled-max-bytes` [unknown-setting]
            Some("quota.tenant.acme.max-bytes"): policy: setting `quota.tenant.acme.max-bytes`: "much" is not a size from 1024 to 1125899906842624 bytes: write a number and one of KiB, MiB, GiB, TiB [invalid-setting]
            None: policy: subscriptions.audit: setting `need` is missing: say `queue`, `durable` or `backfill` [missing-setting]
            Some("subscriptions.audit.event-types"): policy: subscriptions.audit: setting `event-types`: pattern "a.*b" is not legal: use 1 to 255 bytes of segments joined by dots, `*` for any one segment, and `**` as the last for one or more [invalid-pattern]
            Some("subscriptions.inv.need"): policy: subscriptions.inv: setting `need`: "often" is none of queue, durable, backfill [invalid-setting]
            Some("subscriptions.inv.colour"): policy: subscriptions.inv: setting "colour" is not known; known are: need, tenants, event-types, pattern, start, end, batch-size, concurrency, at, scope, component [unknown-setting]
            None: policy: subscriptions.queue: `start` and `end` are for `need=backfill` only [conflicting-settings]
        "#]].assert_eq(&text);
    let meeting = settings(&[
        ("topology", "work-queue"),
        ("dedupe.scope", "retained"),
        ("subscriptions.a.need", "durable"),
        ("subscriptions.b.need", "durable"),
        ("subscriptions.b.event-types", "invoice.*"),
        ("subscriptions.c.need", "backfill"),
    ]);
    let problems = Policy::from_settings("policy", &meeting).unwrap_err();
    let text: String = problems.iter().map(|p| format!("{:?}: {p}\n", p.setting)).collect();
    expect_test::expect![[r#"
            Some("subscriptions.c.need"): policy: setting `subscriptions.c.need`: subscription c: a backfill reads what is retained, and `topology` = `work-queue` retains nothing that is settled (the server refuses such a consumer, 10101): use `need` = `durable`, or `topology` = `shared` [conflicting-settings]
            None: policy: subscriptions a and b can match the same event, and `topology` = `work-queue` gives each event to one durable subscription (the server refuses a second, 10100): give them `tenants` or `event-types` that do not meet, or use `topology` = `shared` [conflicting-settings]
            None: policy: `dedupe.scope` = `retained` needs events that stay, and `topology` = `work-queue` lets them go when they are settled: use `dedupe.scope` = `window`, or another topology [conflicting-settings]
        "#]].assert_eq(&text);
}

#[test]
fn what_does_not_change_how_events_are_delivered_starts_no_delivery_anew() {
    let policy = |more: &[(&str, &str)]| Policy::from_settings("policy", &settings(more)).unwrap();
    let before = policy(&[]);
    for alike in [
        ("revision", "2"),
        ("retry.max-attempts", "1"),
        ("retry.max-bytes", "64MiB"),
        ("limits.subscriptions-per-caller", "5"),
        ("limits.names-per-caller", "5"),
        ("publish.deadline", "2s"),
        ("telemetry.tenants", "acme"),
        ("dedupe.window", "1m"),
    ] {
        assert!(before.delivers_like(&policy(&[alike])), "{alike:?}");
    }
    for other in [
        ("delivery.deadline", "9s"),
        ("delivery.ack-wait", "20s"),
        ("ordering", "tenant"),
        ("retention.max-age", "1d"),
    ] {
        assert!(!before.delivers_like(&policy(&[other])), "{other:?}");
    }
}

#[test]
fn what_needs_a_newer_server_is_named() {
    for (setting, named) in [
        (("retention.replicas", "1"), None),
        (("retention.replicas", "3"), Some("`retention.replicas` above 1")),
        (("durability", "on-disk"), Some("`durability` = `on-disk`")),
        (("quota.max-bytes", "1GiB"), Some("`quota.max-bytes`")),
    ] {
        let policy = Policy::from_settings("policy", &settings(&[setting])).unwrap();
        assert_eq!(policy.needs_nats_2_12(), named, "{setting:?}");
    }
}

#[test]
fn metrics_and_traces_name_the_tenants_that_are_named() {
    let policy = Policy::from_settings("policy", &settings(&[("telemetry.tenants", "globex,acme,acme")])).unwrap();
    let shows = |name: &str| policy.telemetry.shows(&name.parse().unwrap());
    assert!(shows("acme") && shows("globex") && !shows("initech"));
    assert_eq!(policy.telemetry.tenants.len(), 2);
    let many: Vec<_> = (0..101).map(|n| format!("t{n}")).collect();
    let refused = Policy::from_settings("policy", &settings(&[("telemetry.tenants", &many.join(","))])).unwrap_err();
    assert!(refused[0].message.contains("at most 100"), "{refused:?}");
    assert_eq!(refused[0].setting.as_deref(), Some("telemetry.tenants"));
}
