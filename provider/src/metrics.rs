//! The status as numbers, in Prometheus's text format. What is not known is left out.

use fanout_plan::status::{BusStatus, InstanceCounts, OutcomeState, SubscriptionStatus, Timestamp};

/// What a subscription's status has of a family, if it is known.
type Number = fn(&SubscriptionStatus, Timestamp) -> Option<i64>;

/// Families of numbers: name, type and meaning.
const FAMILIES: &[(&str, &str, &str, Number)] = &[
    (
        "fanout_pending",
        "gauge",
        "Events stored and not yet delivered",
        |s, _| number(s.pending),
    ),
    (
        "fanout_in_flight",
        "gauge",
        "Events delivered and not yet settled",
        |s, _| number(s.in_flight),
    ),
    (
        "fanout_redelivered",
        "gauge",
        "Events in flight that were delivered before",
        |s, _| number(s.redelivered),
    ),
    (
        "fanout_waiting_for_retry",
        "gauge",
        "Refused events that wait for their next attempt, or are at it",
        |s, _| number(s.waiting_for_retry),
    ),
    ("fanout_dead_letters", "gauge", "Dead letters", |s, _| {
        number(s.dead_letters)
    }),
    (
        "fanout_lost_events",
        "counter",
        "Events seen to expire before they were handled",
        |s, _| number(s.lost_events),
    ),
    (
        "fanout_oldest_expires_seconds",
        "gauge",
        "Seconds until the oldest unhandled event expires",
        |s, now| Some(s.expires_at?.duration_since(now).as_secs()),
    ),
    (
        "fanout_attended",
        "gauge",
        "1 where somebody is there to take deliveries, 0 where nobody is",
        |s, _| s.attended.map(i64::from),
    ),
    (
        "fanout_handled_total",
        "counter",
        "Events that this instance delivered and that were handled",
        |s, _| here(s, |i| Some(i.handled)),
    ),
    (
        "fanout_refused_total",
        "counter",
        "Deliveries of this instance that were refused",
        |s, _| here(s, |i| Some(i.refused)),
    ),
    (
        "fanout_left_out_total",
        "counter",
        "Events that this instance read and the event pattern left out",
        |s, _| here(s, |i| i.left_out),
    ),
    (
        "fanout_dead_lettered_total",
        "counter",
        "Events that this instance dead-lettered",
        |s, _| here(s, |i| i.dead_lettered),
    ),
    (
        "fanout_missed_total",
        "counter",
        "Events of a queue subscription that this instance saw unhandled",
        |s, _| here(s, |i| i.missed),
    ),
];

fn number(count: Option<u64>) -> Option<i64> {
    count.map(|n| i64::try_from(n).unwrap_or(i64::MAX))
}

fn here(status: &SubscriptionStatus, of: fn(&InstanceCounts) -> Option<u64>) -> Option<i64> {
    number(of(status.this_instance.as_ref()?))
}

/// Renders a status.
pub(crate) fn render(status: &BusStatus, now: Timestamp) -> String {
    let bus = label(status.bus.as_ref().map_or("", |bus| bus.as_str()));
    let of = |s: &SubscriptionStatus| format!("bus=\"{bus}\",subscription=\"{}\"", label(s.name.as_str()));
    let mut text = String::new();
    for (name, kind, help, number) in FAMILIES {
        let lines = status
            .subscriptions
            .iter()
            .filter_map(|s| Some((of(s), number(s, now)?)));
        family(&mut text, (name, kind, help), lines);
    }
    let states = status.subscriptions.iter();
    family(
        &mut text,
        (
            "fanout_subscription_state",
            "gauge",
            "1 for the state that a subscription is in",
        ),
        states.map(|s| (format!("{},state=\"{}\"", of(s), s.state.as_str()), 1)),
    );
    let links = status.links.iter().map(|l| {
        let (component, name) = (label(&l.component), label(&l.name));
        let labels = format!(
            "bus=\"{bus}\",component=\"{component}\",link=\"{name}\",role=\"{}\"",
            l.role.as_str()
        );
        (labels, i64::from(l.outcome.state == OutcomeState::Applied))
    });
    family(
        &mut text,
        (
            "fanout_link_applied",
            "gauge",
            "1 for a link that is in force, 0 for one that was refused",
        ),
        links,
    );
    text
}

/// A family of which there is any.
fn family(text: &mut String, (name, kind, help): (&str, &str, &str), numbers: impl Iterator<Item = (String, i64)>) {
    let mut numbers = numbers.peekable();
    if numbers.peek().is_some() {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }
    for (labels, number) in numbers {
        text.push_str(&format!("{name}{{{labels}}} {number}\n"));
    }
}

/// A label's value: `\`, `"` and line ends are escaped.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_as_numbers() {
        let status = serde_json::json!({
            "bus": "payments",
            "links": [{ "component": "a\"b", "name": "default", "role": "caller", "state": "refused" }],
            "subscriptions": [{ "name": "invoicing", "state": "paused", "pending": 3, "in_flight": 0, "waiting_for_retry": 32, "dead_letters": null,
                "lost_events": 2, "expires_at": "1970-01-01T00:01:00Z", "attended": false, "this_instance": { "handled": 7, "refused": 0 } }],
        });
        let status: BusStatus = serde_json::from_value(status).unwrap();
        expect_test::expect![[r#"
            # HELP fanout_pending Events stored and not yet delivered
            # TYPE fanout_pending gauge
            fanout_pending{bus="payments",subscription="invoicing"} 3
            # HELP fanout_in_flight Events delivered and not yet settled
            # TYPE fanout_in_flight gauge
            fanout_in_flight{bus="payments",subscription="invoicing"} 0
            # HELP fanout_waiting_for_retry Refused events that wait for their next attempt, or are at it
            # TYPE fanout_waiting_for_retry gauge
            fanout_waiting_for_retry{bus="payments",subscription="invoicing"} 32
            # HELP fanout_lost_events Events seen to expire before they were handled
            # TYPE fanout_lost_events counter
            fanout_lost_events{bus="payments",subscription="invoicing"} 2
            # HELP fanout_oldest_expires_seconds Seconds until the oldest unhandled event expires
            # TYPE fanout_oldest_expires_seconds gauge
            fanout_oldest_expires_seconds{bus="payments",subscription="invoicing"} 60
            # HELP fanout_attended 1 where somebody is there to take deliveries, 0 where nobody is
            # TYPE fanout_attended gauge
            fanout_attended{bus="payments",subscription="invoicing"} 0
            # HELP fanout_handled_total Events that this instance delivered and that were handled
            # TYPE fanout_handled_total counter
            fanout_handled_total{bus="payments",subscription="invoicing"} 7
            # HELP fanout_refused_total Deliveries of this instance that were refused
            # TYPE fanout_refused_total counter
            fanout_refused_total{bus="payments",subscription="invoicing"} 0
            # HELP fanout_subscription_state 1 for the state that a subscription is in
            # TYPE fanout_subscription_state gauge
            fanout_subscription_state{bus="payments",subscription="invoicing",state="paused"} 1
            # HELP fanout_link_applied 1 for a link that is in force, 0 for one that was refused
            # TYPE fanout_link_applied gauge
            fanout_link_applied{bus="payments",component="a\"b",link="default",role="caller"} 0
        "#]]
        .assert_eq(&render(&status, Timestamp::UNIX_EPOCH));
    }
}
