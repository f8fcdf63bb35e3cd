//! Laws of patterns. What each operator accepts is a table; that alternatives and arrays are put together rightly is a
//! comparison with [`naive`], which writes everything out.

mod attributes;
mod cost;
mod language;
mod naive;
mod narrowing;
mod reference;
mod refused;

use super::{Pattern, View};
use crate::{RawEvent, Timestamp};

fn event() -> RawEvent {
    RawEvent {
        tenant: "acme".into(),
        event_type: "invoice.paid".into(),
        id: "evt_1".into(),
        source: "/webhooks/stripe".into(),
        subject: Some("in_7".into()),
        time: Some(Timestamp::from_nanoseconds(1_767_225_600_000_000_000)),
        extensions: vec![("region".into(), "eu-west".into())],
        ..RawEvent::default()
    }
}

fn matches(pattern: &str, data: &str) -> bool {
    let pattern: Pattern = pattern.parse().unwrap_or_else(|e| panic!("{pattern}: {e}"));
    let event = event();
    let view = View {
        event: &event,
        data: data.as_bytes(),
    };
    let is = pattern.matches(view);
    assert_eq!(
        pattern.explain(view).is_none(),
        is,
        "{pattern} on {data} is explained otherwise"
    );
    is
}
