//! What no CloudEvents attribute can be, checked before anything of a webhook is published.
//!
//! Everything else is the bus's to say: which types and tenants travel, and how long they may be. A rule that is narrower
//! here than there would lose events that the bus takes.

/// Whether a text can be an attribute's value (CloudEvents 1.0.2, "String"): some characters, and none of them a control
/// character.
pub(crate) fn is_text(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_can_travel_is_let_through() {
        for good in [
            "acme",
            "a.b",
            "v2.core.account[requirements].updated",
            "orders/create",
            "urn:a:b c",
            "é*>",
            "a.b.c.d.e.f.g.h.i.j",
            &"a".repeat(300),
        ] {
            assert!(is_text(good), "{good}");
        }
        for bad in ["", "a\nb", "\u{7f}", "\u{0}", "\u{85}"] {
            assert!(!is_text(bad), "{bad:?}");
        }
    }
}
