//! The numbers as text: Prometheus's format, and OpenMetrics for who asks for it.

use std::fmt::Write as _;

use super::families::{FAMILIES, Family, Kind, Sample, Value, prometheus_label};
use super::instruments::Durations;
use super::snapshot::Snapshot;

/// In which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus's own, 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics where it is named, and liked as much as plain text.
    pub(crate) fn negotiated(accept: &str) -> Self {
        let quality = |media: &str| {
            let of = |range: &str| {
                let mut parts = range.split(';').map(str::trim);
                let names_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media));
                let quality = parts.find_map(|p| p.strip_prefix("q=")).map(str::parse::<f32>);
                names_it.then(|| quality.and_then(Result::ok).unwrap_or(1.0))
            };
            accept
                .split(',')
                .filter_map(|range| of(range.trim()))
                .fold(0.0, f32::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        match open_metrics > 0.0 && open_metrics >= quality("text/plain") {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Renders what there is of each family.
pub(crate) fn render(snapshot: &Snapshot, format: Format) -> String {
    let mut text = String::new();
    for family in FAMILIES {
        let samples = family.samples(snapshot);
        if !samples.is_empty() {
            write_family(&mut text, family, &samples, format);
        }
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn write_family(text: &mut String, family: &Family, samples: &[Sample], format: Format) {
    let name = family.prometheus_name();
    let total = match family.kind {
        Kind::Counter => "_total",
        _ => "",
    };
    // OpenMetrics names the family, Prometheus's format the samples.
    let shown = match format {
        Format::Prometheus => format!("{name}{total}"),
        Format::OpenMetrics => name.clone(),
    };
    let kind = match family.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    line(text, format_args!("# HELP {shown} {}", family.help));
    line(text, format_args!("# TYPE {shown} {kind}"));
    if let (Format::OpenMetrics, Some(unit)) = (format, family.suffix()) {
        line(text, format_args!("# UNIT {shown} {unit}"));
    }
    for Sample { labels, value } in samples {
        let labels: Vec<_> = family
            .labels
            .iter()
            .zip(labels)
            .map(|(name, value)| format!("{}=\"{}\"", prometheus_label(name), escaped(value)))
            .collect();
        let labels = labels.join(",");
        match value {
            Value::Whole(number) => line(text, format_args!("{name}{total}{{{labels}}} {number}")),
            Value::Real(number) => line(text, format_args!("{name}{total}{{{labels}}} {number:?}")),
            Value::Durations(durations) => write_durations(text, &name, &labels, durations),
        }
    }
}

fn write_durations(text: &mut String, name: &str, labels: &str, durations: &Durations) {
    let mut below = 0;
    let bounds = Durations::bounds().map(|bound| format!("{bound:?}"));
    for (count, bound) in durations.counts.iter().zip(bounds.chain(["+Inf".to_owned()])) {
        below += count;
        line(text, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {below}"));
    }
    line(text, format_args!("{name}_sum{{{labels}}} {:?}", durations.sum));
    line(text, format_args!("{name}_count{{{labels}}} {below}"));
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // A string takes everything.
    text.write_fmt(what).ok();
    text.push('\n');
}

/// A label's value: `\`, `"` and line ends are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanout_plan::Timestamp;
    use fanout_plan::status::BusStatus;

    use super::*;

    fn snapshot() -> Snapshot {
        let status = serde_json::json!({
            "bus": "payments",
            "links": [{ "component": "a\"b", "name": "default", "role": "caller", "state": "refused" }],
            "subscriptions": [{ "name": "invoicing", "state": "paused", "pending": 3, "in_flight": 0, "waiting_for_retry": 32, "dead_letters": null,
                "lost_events": 2, "expires_at": "1970-01-01T00:01:00Z", "attended": false, "this_instance": { "handled": 7, "refused": 0 } }],
        });
        let status: BusStatus = serde_json::from_value(status).unwrap();
        Snapshot {
            at: Timestamp::EPOCH,
            max_age: Some(Duration::from_secs(100)),
            quotas: vec![("acme".parse().unwrap(), 0.5)],
            ..Snapshot::of_status(status)
        }
    }

    /// The lines of a bus; what the process counts is other tests' too.
    fn of_the_bus(text: &str) -> String {
        let of_the_process = [
            "fanout_events_",
            "fanout_reconcile",
            "fanout_store_",
            "fanout_c",
            "fanout_version",
            "messaging_",
        ];
        let is_of_bus = |line: &&str| {
            let name = line
                .trim_start_matches("# HELP ")
                .trim_start_matches("# TYPE ")
                .trim_start_matches("# UNIT ");
            !of_the_process.iter().any(|prefix| name.starts_with(prefix))
        };
        text.lines().filter(is_of_bus).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_status_as_numbers() {
        expect_test::expect![[r##"
            # HELP fanout_deliveries_total Deliveries of this instance: `handled`, `refused` (for now or for good), `unreachable` (nobody had it), `missed` (of a queue subscription, which tries once)
            # TYPE fanout_deliveries_total counter
            fanout_deliveries_total{bus="payments",subscription="invoicing",outcome="handled"} 7
            fanout_deliveries_total{bus="payments",subscription="invoicing",outcome="refused"} 0
            # HELP fanout_pending Events stored and not yet delivered
            # TYPE fanout_pending gauge
            fanout_pending{bus="payments",subscription="invoicing"} 3
            # HELP fanout_in_flight Events delivered and not yet settled
            # TYPE fanout_in_flight gauge
            fanout_in_flight{bus="payments",subscription="invoicing"} 0
            # HELP fanout_waiting_for_retry Refused events that wait for their next attempt, or are at it
            # TYPE fanout_waiting_for_retry gauge
            fanout_waiting_for_retry{bus="payments",subscription="invoicing"} 32
            # HELP fanout_lost_events_total Events seen to expire before they were handled
            # TYPE fanout_lost_events_total counter
            fanout_lost_events_total{bus="payments",subscription="invoicing"} 2
            # HELP fanout_oldest_age_seconds Seconds since the oldest unhandled event was stored
            # TYPE fanout_oldest_age_seconds gauge
            fanout_oldest_age_seconds{bus="payments",subscription="invoicing"} 40
            # HELP fanout_oldest_expires_seconds Seconds until the oldest unhandled event expires
            # TYPE fanout_oldest_expires_seconds gauge
            fanout_oldest_expires_seconds{bus="payments",subscription="invoicing"} 60
            # HELP fanout_attended 1 where somebody is there to take deliveries, 0 where nobody is
            # TYPE fanout_attended gauge
            fanout_attended{bus="payments",subscription="invoicing"} 0
            # HELP fanout_subscription_state 1 for the state that a subscription is in
            # TYPE fanout_subscription_state gauge
            fanout_subscription_state{bus="payments",subscription="invoicing",state="paused"} 1
            # HELP fanout_link_applied 1 for a link that is in force, 0 for one that was refused
            # TYPE fanout_link_applied gauge
            fanout_link_applied{bus="payments",component="a\"b",link="default",role="caller"} 0
            # HELP fanout_quota_used_ratio What part of its bytes a tenant has stored, of those that `telemetry.tenants` names and that published here in the last minute
            # TYPE fanout_quota_used_ratio gauge
            fanout_quota_used_ratio{bus="payments",tenant="acme"} 0.5
        "##]].assert_eq(&of_the_bus(&render(&snapshot(), Format::Prometheus)));
    }

    #[test]
    fn the_same_as_open_metrics() {
        expect_test::expect![[r##"
            # HELP fanout_deliveries Deliveries of this instance: `handled`, `refused` (for now or for good), `unreachable` (nobody had it), `missed` (of a queue subscription, which tries once)
            # TYPE fanout_deliveries counter
            fanout_deliveries_total{bus="payments",subscription="invoicing",outcome="handled"} 7
            fanout_deliveries_total{bus="payments",subscription="invoicing",outcome="refused"} 0
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
            fanout_lost_events_total{bus="payments",subscription="invoicing"} 2
            # HELP fanout_oldest_age_seconds Seconds since the oldest unhandled event was stored
            # TYPE fanout_oldest_age_seconds gauge
            # UNIT fanout_oldest_age_seconds seconds
            fanout_oldest_age_seconds{bus="payments",subscription="invoicing"} 40
            # HELP fanout_oldest_expires_seconds Seconds until the oldest unhandled event expires
            # TYPE fanout_oldest_expires_seconds gauge
            # UNIT fanout_oldest_expires_seconds seconds
            fanout_oldest_expires_seconds{bus="payments",subscription="invoicing"} 60
            # HELP fanout_attended 1 where somebody is there to take deliveries, 0 where nobody is
            # TYPE fanout_attended gauge
            fanout_attended{bus="payments",subscription="invoicing"} 0
            # HELP fanout_subscription_state 1 for the state that a subscription is in
            # TYPE fanout_subscription_state gauge
            fanout_subscription_state{bus="payments",subscription="invoicing",state="paused"} 1
            # HELP fanout_link_applied 1 for a link that is in force, 0 for one that was refused
            # TYPE fanout_link_applied gauge
            fanout_link_applied{bus="payments",component="a\"b",link="default",role="caller"} 0
            # HELP fanout_quota_used_ratio What part of its bytes a tenant has stored, of those that `telemetry.tenants` names and that published here in the last minute
            # TYPE fanout_quota_used_ratio gauge
            # UNIT fanout_quota_used_ratio ratio
            fanout_quota_used_ratio{bus="payments",tenant="acme"} 0.5
            # EOF
        "##]].assert_eq(&of_the_bus(&render(&snapshot(), Format::OpenMetrics)));
    }

    #[test]
    fn a_histogram_is_summed_up() {
        let mut text = String::new();
        let mut durations = Durations {
            sum: 3.0,
            ..Durations::default()
        };
        (durations.counts[0], durations.counts[2], durations.counts[14]) = (1, 2, 3);
        write_durations(&mut text, "x_seconds", "a=\"b\"", &durations);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.first(), Some(&r#"x_seconds_bucket{a="b",le="0.0005"} 1"#));
        assert_eq!(lines[2], r#"x_seconds_bucket{a="b",le="0.0025"} 3"#);
        assert_eq!(lines[10], r#"x_seconds_bucket{a="b",le="1.0"} 3"#);
        assert_eq!(
            lines[14..],
            [
                r#"x_seconds_bucket{a="b",le="+Inf"} 6"#,
                r#"x_seconds_sum{a="b"} 3.0"#,
                r#"x_seconds_count{a="b"} 6"#
            ]
        );
    }

    #[test]
    fn who_asks_for_open_metrics_has_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("text/plain, application/openmetrics-text;q=0.5", Format::Prometheus),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("", Format::Prometheus),
        ] {
            assert_eq!(Format::negotiated(accept), format, "{accept}");
        }
    }
}
