//! Names, each parsed once: whoever holds one of these types holds a legal name.
//!
//! Buses and subscriptions are named by operators: one plain token each. A tenant and an event type come from outside and
//! may be any text that CloudEvents allows. In a subject each is written in *tokens*: letters, digits, `_` and `-` stand
//! for themselves, every other byte of UTF-8 is `%` and two digits, and an empty segment of a type is a lone `%`. So two
//! names never share a subject, a plain name is its own token, and what was written can be read back.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Code, Problem};

/// How much of a refused value a message repeats.
const SHOWN_CHARS: usize = 40;

/// A value for a message: cut short, with controls and quotes escaped.
pub(crate) fn shown(value: &str) -> String {
    let mut cut: String = value.chars().take(SHOWN_CHARS).collect();
    if cut.len() < value.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// What a token does not hold as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// The token of an empty segment. No other text has it: a percent sign is escaped, and every escape has two digits.
const EMPTY: &str = "%";

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Whether CloudEvents allows a character in a string (1.0.2, "Type System"): no controls, no noncharacters.
pub(crate) fn is_text_char(c: char) -> bool {
    let noncharacter = matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    !c.is_control() && !noncharacter
}

/// Whether a text may be part of an event: of so many bytes, each character one that CloudEvents allows.
pub(crate) fn is_text(s: &str, min: usize, max: usize) -> bool {
    (min..=max).contains(&s.len()) && s.chars().all(is_text_char)
}

/// A text as one token of a subject.
pub(crate) fn token(text: &str) -> Cow<'_, str> {
    if text.is_empty() {
        return Cow::Borrowed(EMPTY);
    }
    utf8_percent_encode(text, ESCAPED).into()
}

/// The text that a token stands for; `None` for a token that no text is written as.
fn text_of(token: &str) -> Option<Cow<'_, str>> {
    if token == EMPTY {
        return Some(Cow::Borrowed(""));
    }
    if is_token(token, usize::MAX) {
        return Some(Cow::Borrowed(token));
    }
    let text = percent_decode_str(token).decode_utf8().ok()?;
    // Written in another way (`%61`, `%2f`) it would be one text with two subjects.
    (!text.is_empty() && self::token(&text) == token).then_some(text)
}

/// A digest of texts, 43 characters that any name or key may hold. Each text goes in behind its length, so that no two
/// lists of texts are one.
pub(crate) fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// One token of a NATS subject that also serves as a stream, consumer and key name (nats-server 2.15: no dots, spaces,
/// wildcards, path separators).
pub(crate) fn is_token(s: &str, max: usize) -> bool {
    !s.is_empty() && s.len() <= max && s.chars().all(is_token_char)
}

/// The string conversions of a name that is read and printed as it came.
macro_rules! as_it_came {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = Problem;
            fn try_from(s: String) -> Result<Self, Problem> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(n: $name) -> Self {
                n.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $what:literal, $code:ident, $max:literal) => {
        token! { $(#[$doc])* $name, $what, $code, $max, $max }
    };
    ($(#[$doc:meta])* $name:ident, $what:literal, $code:ident, $max:literal, $longest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Problem;
            fn from_str(s: &str) -> Result<Self, Problem> {
                if is_token(s, $longest) {
                    return Ok(Self(s.into()));
                }
                Err(Problem::new(
                    Code::$code,
                    format!(
                        concat!($what, " {} is not a legal name: use 1 to ", $max, " characters out of A-Z a-z 0-9 _ -"),
                        shown(s)
                    ),
                ))
            }
        }

        as_it_came! { $name }
    };
}

token! {
    /// A subscription, unique on its bus.
    ///
    /// One that a caller made, and whose name the operator then gave to another, goes on under a name of its caller's
    /// ([`SubscriptionName::of_caller`]); its caller goes on calling it as before ([`SubscriptionName::plain`]).
    SubscriptionName, "subscription", InvalidSubscription, 64, SubscriptionName::MAX_CHARS + OWNED.len() + OWNER_DIGITS
}

/// Between a name and its owner's mark.
const OWNED: &str = "__";
/// Hexadecimal digits of an owner's mark.
const OWNER_DIGITS: usize = 12;

impl SubscriptionName {
    /// The most characters that a name may have as it is asked for.
    pub const MAX_CHARS: usize = 64;

    /// The same name as one that belongs to a caller.
    #[must_use]
    pub fn of_caller(&self, id: &str) -> Self {
        // FNV-1a: it only has to keep apart those whom the operator named.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mark = hash & ((1 << (4 * OWNER_DIGITS)) - 1);
        Self(format!("{}{OWNED}{mark:0OWNER_DIGITS$x}", self.plain()).into())
    }

    /// As its owner calls it.
    pub fn plain(&self) -> &str {
        self.split().map_or(self.as_str(), |(name, _)| name)
    }

    /// Whether it may be asked for: one that belongs to a caller is only ever given by the bus.
    pub fn may_be_asked_for(&self) -> bool {
        self.as_str().len() <= Self::MAX_CHARS && self.split().is_none()
    }

    fn split(&self) -> Option<(&str, &str)> {
        let (name, mark) = self
            .as_str()
            .split_at_checked(self.as_str().len().checked_sub(OWNER_DIGITS)?)?;
        let name = name.strip_suffix(OWNED).filter(|name| !name.is_empty())?;
        let digits = mark.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        digits.then_some((name, mark))
    }
}
token! {
    /// A bus.
    BusName, "bus", InvalidSetting, 32
}
token! {
    /// A place of a bus.
    PlaceName, "place", InvalidSetting, 32
}

/// A tenant: any text that CloudEvents allows, of 1 to 128 bytes. Where it is part of a subject, a name or a key, it is
/// its [`token`](Self::token), which can't meet another tenant's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Box<str>);

impl TenantId {
    /// The most bytes.
    pub const MAX_BYTES: usize = 128;

    /// The longest token that is part of a consumer's name as it is. The server takes names of 255 bytes (2.15).
    const MAX_NAME: usize = 64;

    /// The tenant as it came. It is no part of a subject, a name or a key: see [`Self::token`].
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tenant as one token of a subject; a plain name is its own.
    pub fn token(&self) -> Cow<'_, str> {
        token(&self.0)
    }

    /// The tenant whose token this is.
    pub fn from_token(token: &str) -> Option<Self> {
        text_of(token)?.parse().ok()
    }

    /// The tenant as part of a consumer's name: its token, or a digest of it where that would be too long.
    pub fn name_part(&self) -> Cow<'_, str> {
        let token = self.token();
        if token.len() <= Self::MAX_NAME {
            return token;
        }
        // Two percent signs in a row are in no token.
        Cow::Owned(format!("%%{}", digest(&[&token])))
    }

    /// The tenant as part of a bucket's key, which holds no percent sign; no token holds a `=`.
    pub fn key_part(&self) -> String {
        self.token().replace('%', "=")
    }
}

impl FromStr for TenantId {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        if is_text(s, 1, Self::MAX_BYTES) {
            return Ok(Self(s.into()));
        }
        Err(Problem::new(
            Code::InvalidTenant,
            format!(
                "tenant {} is not legal: use 1 to {} bytes of text without control characters",
                shown(s),
                Self::MAX_BYTES
            ),
        ))
    }
}

as_it_came!(TenantId);

/// A CloudEvents `type`: any text that CloudEvents allows, of 1 to 255 bytes. A dot ends a segment; patterns of event types
/// look at segments, and each becomes a token of the subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(Box<str>);

impl EventType {
    /// The most bytes, and with that the most segments: 256 of nothing at all.
    pub const MAX_BYTES: usize = 255;

    /// The type as it came, as in `invoice.paid`. It is no part of a subject: see [`Self::tokens`].
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// The type as tokens of a subject, one for each segment; a plain type is its own.
    pub fn tokens(&self) -> Cow<'_, str> {
        tokens(&self.0)
    }

    /// The type whose tokens these are.
    pub fn from_tokens(tokens: &str) -> Option<Self> {
        let segments: Option<Vec<_>> = tokens.split('.').map(text_of).collect();
        let event_type: Self = segments?.join(".").parse().ok()?;
        // A segment holds no dot: written as `%2E` it would be another type's subject.
        (event_type.tokens() == tokens).then_some(event_type)
    }
}

/// Segments as tokens.
fn tokens(segments: &str) -> Cow<'_, str> {
    if segments.split('.').all(|segment| is_token(segment, usize::MAX)) {
        return Cow::Borrowed(segments);
    }
    let tokens: Vec<_> = segments.split('.').map(token).collect();
    Cow::Owned(tokens.join("."))
}

impl FromStr for EventType {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        if is_text(s, 1, Self::MAX_BYTES) {
            return Ok(Self(s.into()));
        }
        Err(Problem::new(
            Code::InvalidEventType,
            format!(
                "event type {} is not legal: use 1 to {} bytes of text without control characters",
                shown(s),
                Self::MAX_BYTES
            ),
        ))
    }
}

as_it_came!(EventType);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn legal_names_parse_to_themselves() {
        for name in ["acme", "acct_1Mx", "A-b_9", &"x".repeat(64), "payments.eu"] {
            assert_eq!(name.parse::<TenantId>().unwrap().as_str(), name);
        }
        for name in [
            "paid",
            "invoice.payment_succeeded",
            "a.b.c.d.e.f.g.h.i.j",
            "com:a/b [c]",
        ] {
            assert_eq!(name.parse::<EventType>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_name_can_belong_to_a_caller_and_nobody_can_ask_for_such_a_one() {
        let name: SubscriptionName = "billing".parse().unwrap();
        let (one, other) = (name.of_caller("caller:a"), name.of_caller("caller:b"));
        assert_ne!(one, other);
        assert_eq!(
            (one.plain(), other.plain(), name.plain()),
            ("billing", "billing", "billing")
        );
        assert_eq!(one.of_caller("caller:a"), one, "it stays what it is");
        let again: SubscriptionName = one.as_str().parse().unwrap();
        assert!(name.may_be_asked_for() && !again.may_be_asked_for());
        let longest: SubscriptionName = "x".repeat(64).parse().unwrap();
        assert!(longest.may_be_asked_for());
        assert!(longest.of_caller("c").as_str().parse::<SubscriptionName>().is_ok());
        assert!(!"x".repeat(65).parse::<SubscriptionName>().unwrap().may_be_asked_for());
        for plain in ["__0123456789ab", "a__0123456789aG", "a_0123456789ab", "a__0123456789"] {
            assert!(
                plain.parse::<SubscriptionName>().is_ok_and(|n| n.may_be_asked_for()),
                "{plain}"
            );
        }
    }

    #[test]
    fn a_plain_name_is_its_own_token() {
        for name in ["acme", "acct_1Mx", "A-b_9"] {
            let tenant: TenantId = name.parse().unwrap();
            assert_eq!((tenant.token(), tenant.name_part()), (name.into(), name.into()));
            assert_eq!(tenant.key_part(), name);
        }
        let event_type: EventType = "invoice.payment_succeeded".parse().unwrap();
        assert_eq!(event_type.tokens(), "invoice.payment_succeeded");
    }

    #[test]
    fn what_a_token_can_not_hold_is_escaped() {
        for (name, token) in [
            ("a.b", "a%2Eb"),
            ("*", "%2A"),
            (">", "%3E"),
            ("a b", "a%20b"),
            ("é", "%C3%A9"),
            ("a/b", "a%2Fb"),
            ("$SYS", "%24SYS"),
            ("{tenant}", "%7Btenant%7D"),
            ("100%", "100%25"),
            ("a=b", "a%3Db"),
        ] {
            let tenant: TenantId = name.parse().unwrap();
            assert_eq!(tenant.token(), token);
            assert_eq!(TenantId::from_token(token), Some(tenant));
        }
        for (name, tokens) in [
            ("a..b", "a.%.b"),
            (".", "%.%"),
            ("a.*", "a.%2A"),
            ("a.>", "a.%3E"),
            ("com.github/push", "com.github%2Fpush"),
            ("a.%", "a.%25"),
        ] {
            let event_type: EventType = name.parse().unwrap();
            assert_eq!(event_type.tokens(), tokens);
            assert_eq!(EventType::from_tokens(tokens), Some(event_type));
        }
        // Each would be a second subject of a name that has one.
        for other in [
            "", "%", "%61", "a%2fb", "a/b", "a b", "%2", "%ZZ", "%FF", "%00", "a%2E", "é",
        ] {
            let read = TenantId::from_token(other);
            assert!(
                read.as_ref().is_none_or(|t| t.token() == other),
                "{other} is read as {read:?}"
            );
        }
        for other in ["", "a..b", "a%2Eb", "%61", "a.%2e", "%0A", ".a"] {
            assert_eq!(EventType::from_tokens(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for name in [
            "",
            "a\r\nb",
            "a\0",
            "a\u{85}b",
            "\u{7f}",
            "\u{fdd0}",
            "\u{1ffff}",
            &"x".repeat(300),
        ] {
            let problem = name.parse::<TenantId>().unwrap_err();
            assert_eq!(problem.code, Code::InvalidTenant, "{name:?}");
            assert!(problem.message.len() < 220, "{}", problem.message);
            assert!(!problem.message.contains('\n'));
            assert_eq!(
                name.parse::<EventType>().unwrap_err().code,
                Code::InvalidEventType,
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_long_tenant_is_a_short_part_of_a_name() {
        let long = |last: &str| format!("{}{last}", "é".repeat(60)).parse::<TenantId>().unwrap();
        let (one, other) = (long("1"), long("2"));
        assert!(one.name_part().len() <= TenantId::MAX_NAME);
        assert_ne!(one.name_part(), other.name_part());
        assert_eq!(TenantId::from_token(&one.name_part()), None, "it is no tenant's token");
    }

    #[test]
    fn a_digest_has_no_seams() {
        let lists: [&[&str]; 5] = [
            &["a", "b", "c"],
            &["ab", "", "c"],
            &["a", "bc", ""],
            &["abc"],
            &["a", "b/c"],
        ];
        for (i, a) in lists.iter().enumerate() {
            for (j, b) in lists.iter().enumerate() {
                assert_eq!(digest(a) == digest(b), i == j, "{a:?} {b:?}");
            }
        }
        assert_eq!(digest(&["a"]).len(), 43);
    }

    fn text(max: usize) -> impl Strategy<Value = String> {
        // Text of any kind, and much of what separates something.
        proptest::string::string_regex(&format!("([a-b%./* >=$-]|\\PC){{1,{max}}}")).unwrap()
    }

    proptest! {
        #[test]
        fn a_tenant_is_read_from_its_token(a in text(12), b in text(12)) {
            let (a, b): (TenantId, TenantId) = (a.parse().unwrap(), b.parse().unwrap());
            let token = a.token();
            prop_assert!(token.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-%".contains(&c)), "{token}");
            prop_assert_eq!(TenantId::from_token(&token), Some(a.clone()));
            prop_assert_eq!(a == b, a.token() == b.token());
            prop_assert_eq!(a == b, a.key_part() == b.key_part());
            prop_assert_eq!(a == b, a.name_part() == b.name_part());
        }

        #[test]
        fn a_type_is_read_from_its_tokens(a in text(20), b in text(20)) {
            let (a, b): (EventType, EventType) = (a.parse().unwrap(), b.parse().unwrap());
            let tokens = a.tokens();
            prop_assert!(tokens.split('.').all(|t| !t.is_empty()), "{tokens}");
            prop_assert_eq!(tokens.split('.').count(), a.segments().count());
            prop_assert_eq!(EventType::from_tokens(&tokens), Some(a.clone()));
            prop_assert_eq!(a == b, a.tokens() == b.tokens());
        }

        #[test]
        fn what_is_read_from_a_token_is_written_as_it(token in "([a-c%]|%[0-9A-Fa-f]{2}){0,6}") {
            if let Some(tenant) = TenantId::from_token(&token) {
                prop_assert_eq!(tenant.token(), &*token);
            }
            if let Some(event_type) = EventType::from_tokens(&token) {
                prop_assert_eq!(event_type.tokens(), &*token);
            }
        }
    }
}
