//! What the subjects begin with that answers may be published to.

use std::fmt;
use std::sync::Arc;

/// Longest prefix.
const MAX_PREFIX_BYTES: usize = 128;

/// The prefix of the inboxes of every NATS client without a prefix of its own.
pub const DEFAULT_INBOX_PREFIX: &str = "_INBOX.";

/// A prefix of subjects that only those who wait for answers subscribe to, such as `_INBOX.`. It ends with a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxPrefix(Arc<str>);

/// Why a text is no inbox prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no inbox prefix: give subject tokens joined by dots, such as `_INBOX` or `_INBOX.orders`, without wildcards, blanks or a leading `$`", .0.escape_debug())]
pub struct BadInboxPrefix(String);

impl InboxPrefix {
    /// Reads a prefix, with or without the dot at its end.
    ///
    /// # Errors
    /// For what no inbox can begin with.
    pub fn parse(text: &str) -> Result<Self, BadInboxPrefix> {
        let tokens = text.strip_suffix('.').unwrap_or(text);
        // `$JS`, `$SYS` and the like are the server's own: publishing there is an order to it.
        if !is_plain(tokens) || tokens.starts_with('$') || tokens.len() > MAX_PREFIX_BYTES {
            return Err(BadInboxPrefix(text.chars().take(MAX_PREFIX_BYTES).collect()));
        }
        Ok(Self(format!("{tokens}.").into()))
    }

    /// The prefix, with its dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for InboxPrefix {
    fn default() -> Self {
        Self(DEFAULT_INBOX_PREFIX.into())
    }
}

impl fmt::Display for InboxPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tokens joined by dots, none of them empty, a wildcard, or with what would end a subject.
pub(crate) fn is_plain(subject: &str) -> bool {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '*' && c != '>';
    subject
        .split('.')
        .all(|token| !token.is_empty() && token.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_tokens_of_nobody_in_particular() {
        for good in ["_INBOX", "_INBOX.", "_R_.", "inbox.of.orders"] {
            assert!(InboxPrefix::parse(good).expect(good).as_str().ends_with('.'), "{good}");
        }
        for bad in [
            "",
            ".",
            ">",
            "_INBOX.>",
            "*",
            "a b",
            "a..b",
            "$JS.API",
            "$SYS",
            &"a".repeat(200),
        ] {
            assert!(InboxPrefix::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            InboxPrefix::default(),
            InboxPrefix::parse("_INBOX").expect("the default")
        );
    }
}
