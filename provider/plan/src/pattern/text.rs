//! Comparing texts without regard to case: one character at a time, each by its lower or its upper case (Unicode's full
//! mappings). `ß` of a pattern so is `ß` or `SS` of an event, and no character is another by way of a third: the Kelvin
//! sign of an event is not `k`.

/// What is left of `text` behind `start`, whatever its case; `None` if it begins otherwise.
pub(super) fn strip_start<'t>(start: &str, mut text: &'t str) -> Option<&'t str> {
    // All forms of an ASCII character are ASCII characters.
    if start.is_ascii() {
        let (begins, rest) = text.split_at_checked(start.len())?;
        return begins.eq_ignore_ascii_case(start).then_some(rest);
    }
    for wanted in start.chars() {
        text = cases(text, wanted, |text, case| {
            let mut rest = text.chars();
            case.iter().all(|c| rest.next() == Some(*c)).then_some(rest.as_str())
        })?;
    }
    Some(text)
}

/// What is left of `text` before `end`, whatever its case; `None` if it ends otherwise.
pub(super) fn strip_end<'t>(end: &str, mut text: &'t str) -> Option<&'t str> {
    if end.is_ascii() {
        let (rest, ends) = text.split_at_checked(text.len().checked_sub(end.len())?)?;
        return ends.eq_ignore_ascii_case(end).then_some(rest);
    }
    for wanted in end.chars().rev() {
        text = cases(text, wanted, |text, case| {
            let mut rest = text.chars();
            case.iter()
                .rev()
                .all(|c| rest.next_back() == Some(*c))
                .then_some(rest.as_str())
        })?;
    }
    Some(text)
}

/// Whether two texts are the same but for their case.
pub(super) fn same(wanted: &str, text: &str) -> bool {
    strip_start(wanted, text) == Some("")
}

/// Strips one character of a pattern in the first of its forms that is there. No form of a character begins or ends with
/// another form of it, so that the first that fits is the only one.
fn cases<'t>(text: &'t str, wanted: char, strip: impl Fn(&'t str, &[char]) -> Option<&'t str>) -> Option<&'t str> {
    // The longest mapping of Unicode has three characters.
    let form = |mapped: &mut dyn Iterator<Item = char>| {
        let mut form = ['\0'; 3];
        let mut length = 0;
        for (slot, c) in form.iter_mut().zip(mapped) {
            *slot = c;
            length += 1;
        }
        (form, length)
    };
    let (lower, l) = form(&mut wanted.to_lowercase());
    let (upper, u) = form(&mut wanted.to_uppercase());
    strip(text, &lower[..l])
        .or_else(|| strip(text, &upper[..u]))
        .or_else(|| strip(text, &[wanted]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_that_of_each_character() {
        for (wanted, text, is) in [
            ("Paid", "pAID", true),
            ("paid", "paid ", false),
            ("straße", "STRASSE", true),
            ("straße", "strasse", false),
            ("STRASSE", "straße", false),
            ("Éte", "éTE", true),
            ("σ", "Σ", true),
            ("ς", "Σ", true),
            ("σ", "ς", false),
            ("k", "\u{212a}", false),
            ("\u{212a}", "k", true),
            ("i", "İ", false),
            ("İ", "i\u{307}", true),
            ("ǅ", "ǅ", true),
            ("\u{10400}", "\u{10428}", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(same(wanted, text), is, "{wanted} and {text}");
        }
    }

    #[test]
    fn a_start_and_an_end() {
        assert_eq!(strip_start("ORDER-", "order-7"), Some("7"));
        assert_eq!(strip_start("order-7", "order-"), None);
        assert_eq!(strip_end(".PNG", "a.png"), Some("a"));
        assert_eq!(strip_end("ße", "straSSE"), Some("stra"));
        assert_eq!(strip_end("a.png", ".png"), None);
    }

    /// Else the first form that fits might be the wrong one, and the rest would have to be tried again.
    #[test]
    fn no_form_of_a_character_begins_or_ends_with_another() {
        for c in char::MIN..=char::MAX {
            let forms = [
                c.to_lowercase().to_string(),
                c.to_uppercase().to_string(),
                c.to_string(),
            ];
            assert!(forms.iter().all(|form| form.chars().count() <= 3), "{c}");
            for a in &forms {
                for b in &forms {
                    assert!(
                        a == b || !(a.starts_with(&**b) || a.ends_with(&**b)),
                        "{c}: {a} and {b}"
                    );
                }
            }
        }
    }
}
