//! The status as numbers, in Prometheus's text format.

use serde_json::Value;

/// A family of numbers: its name, type and meaning, and where a subscription's status has it.
const FAMILIES: &[(&str, &str, &str, &str)] = &[
    (
        "fanout_pending",
        "gauge",
        "Events stored and not yet delivered",
        "/pending",
    ),
    (
        "fanout_in_flight",
        "gauge",
        "Events delivered and not yet settled",
        "/in_flight",
    ),
    (
        "fanout_redelivered",
        "gauge",
        "Events in flight that were delivered before",
        "/redelivered",
    ),
    (
        "fanout_waiting_for_retry",
        "gauge",
        "Refused events that wait for their next attempt, or are at it",
        "/waiting_for_retry",
    ),
    ("fanout_dead_letters", "gauge", "Dead letters", "/dead_letters"),
    (
        "fanout_lost_events",
        "counter",
        "Events seen to expire before they were handled",
        "/lost_events",
    ),
    (
        "fanout_oldest_expires_seconds",
        "gauge",
        "Seconds until the oldest unhandled event expires",
        "/expires_in_s",
    ),
    (
        "fanout_handled_total",
        "counter",
        "Events that this instance delivered and that were handled",
        "/this_instance/handled",
    ),
    (
        "fanout_refused_total",
        "counter",
        "Deliveries of this instance that were refused",
        "/this_instance/refused",
    ),
    (
        "fanout_dead_lettered_total",
        "counter",
        "Events that this instance dead-lettered",
        "/this_instance/dead_lettered",
    ),
    (
        "fanout_missed_total",
        "counter",
        "Events of a queue subscription that this instance saw unhandled",
        "/this_instance/missed",
    ),
];

/// Renders a status document.
pub(crate) fn render(status: &Value) -> String {
    let mut text = String::new();
    let bus = label(&status["bus"]);
    let empty = Vec::new();
    let subscriptions = status["subscriptions"].as_array().unwrap_or(&empty);
    for (name, kind, help, path) in FAMILIES {
        let mut lines = String::new();
        for s in subscriptions {
            if let Some(value) = s.pointer(path).and_then(Value::as_f64) {
                line(
                    &mut lines,
                    &format!("{name}{{bus=\"{bus}\",subscription=\"{}\"}} {value}", label(&s["name"])),
                );
            }
        }
        if !lines.is_empty() {
            line(&mut text, &format!("# HELP {name} {help}"));
            line(&mut text, &format!("# TYPE {name} {kind}"));
            text.push_str(&lines);
        }
    }
    line(
        &mut text,
        "# HELP fanout_subscription_state 1 for the state that a subscription is in",
    );
    line(&mut text, "# TYPE fanout_subscription_state gauge");
    for s in subscriptions {
        let (name, state) = (label(&s["name"]), label(&s["state"]));
        line(
            &mut text,
            &format!("fanout_subscription_state{{bus=\"{bus}\",subscription=\"{name}\",state=\"{state}\"}} 1"),
        );
    }
    line(
        &mut text,
        "# HELP fanout_link_applied 1 for a link that is in force, 0 for one that was refused",
    );
    line(&mut text, "# TYPE fanout_link_applied gauge");
    for l in status["links"].as_array().unwrap_or(&empty) {
        let (component, name) = (label(&l["component"]), label(&l["name"]));
        let applied = u8::from(l["state"] == "applied");
        line(
            &mut text,
            &format!(
                "fanout_link_applied{{bus=\"{bus}\",component=\"{component}\",link=\"{name}\",role=\"{}\"}} {applied}",
                label(&l["role"])
            ),
        );
    }
    text
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

/// A label's value: `\`, `"` and line ends are escaped.
fn label(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_default()
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
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
                "lost_events": 2, "expires_in_s": 1.5, "this_instance": { "handled": 7 } }],
        });
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
            fanout_oldest_expires_seconds{bus="payments",subscription="invoicing"} 1.5
            # HELP fanout_handled_total Events that this instance delivered and that were handled
            # TYPE fanout_handled_total counter
            fanout_handled_total{bus="payments",subscription="invoicing"} 7
            # HELP fanout_subscription_state 1 for the state that a subscription is in
            # TYPE fanout_subscription_state gauge
            fanout_subscription_state{bus="payments",subscription="invoicing",state="paused"} 1
            # HELP fanout_link_applied 1 for a link that is in force, 0 for one that was refused
            # TYPE fanout_link_applied gauge
            fanout_link_applied{bus="payments",component="a\"b",link="default",role="caller"} 0
        "#]]
        .assert_eq(&render(&status));
    }
}
