//! The contract's rules for what an event is made of, checked before anything of a webhook is published.
//!
//! The bus checks them too. But a webhook's events are to be accepted all or none, so whatever never will be an event
//! has to be found before the first of them is sent.

/// A tenant: 1 to 64 characters out of `A-Z a-z 0-9 _ -`.
pub(crate) fn is_tenant(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_word)
}

/// An event type: 1 to 8 segments of `A-Z a-z 0-9 _ -` joined by `.`, at most 128 characters.
pub(crate) fn is_event_type(text: &str) -> bool {
    text.len() <= 128
        && text.split('.').count() <= 8
        && text
            .split('.')
            .all(|segment| !segment.is_empty() && segment.bytes().all(is_word))
}

/// An event's id: 1 to 256 bytes, without control characters, which can't travel as an attribute.
pub(crate) fn is_event_id(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_types_and_ids_have_their_forms() {
        for good in ["acme", "A-1_b", &"a".repeat(64)] {
            assert!(is_tenant(good), "{good}");
        }
        for bad in ["", "a.b", "a b", "é", "*", &"a".repeat(65)] {
            assert!(!is_tenant(bad), "{bad}");
        }
        for good in ["push", "invoice.payment_succeeded", "a.b.c.d.e.f.g.h"] {
            assert!(is_event_type(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            "a..b",
            "a b",
            "*",
            ">",
            "a.b.c.d.e.f.g.h.i",
            &"a".repeat(129),
        ] {
            assert!(!is_event_type(bad), "{bad}");
        }
        assert!(is_event_id("evt_1 / é") && is_event_id(&"a".repeat(256)));
        for bad in ["", "a\nb", "\u{7f}", &"a".repeat(257)] {
            assert!(!is_event_id(bad), "{bad:?}");
        }
    }
}
