//! Tokens of callers, as a policy lists them: by their SHA-256, which a policy may show to anyone.

use std::fmt;

use subtle::ConstantTimeEq as _;

use super::identity::Identity;
use crate::{Code, Problem};

/// What a token of `fanout token` begins with, so that people and scanners of secrets recognise one.
pub const PREFIX: &str = "fanout_";
/// Tokens of one caller: one in use, one that replaces it, and some for slow ones.
const MAX_TOKENS: usize = 16;
const HASH_BYTES: usize = 32;
/// Bytes of a hash that are shown: enough to find its line.
const SHOWN_BYTES: usize = 4;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; HASH_BYTES]);

impl TokenHash {
    /// A hash that was made of a token.
    #[must_use]
    pub fn new(sha256: [u8; HASH_BYTES]) -> Self {
        Self(sha256)
    }

    /// Whether both are of one token, in a time that does not tell how much of them is alike.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    fn parse(s: &str) -> Option<Self> {
        let mut hash = [0; HASH_BYTES];
        if s.len() != 2 * HASH_BYTES || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(SHOWN_BYTES)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenHash({self})")
    }
}

/// The tokens of a caller. What is none of them is not repeated: it may be a token.
pub(super) fn tokens(s: &str) -> Result<Vec<Identity>, Problem> {
    let invalid = |message: String| Err(Problem::new(Code::InvalidSetting, message));
    let mut tokens = Vec::new();
    for (i, item) in s.split(',').map(str::trim).enumerate() {
        if item.starts_with(PREFIX) {
            return invalid(format!(
                "a token itself stands there, which others may have read by now: make another with `fanout token`, and list the 64 hexadecimal digits that it prints instead of what begins with `{PREFIX}`"
            ));
        }
        match TokenHash::parse(item).map(Identity::Token) {
            Some(token) if tokens.contains(&token) => {}
            Some(token) => tokens.push(token),
            None => {
                return invalid(format!(
                    "item {} is no SHA-256 of a token: list 64 hexadecimal digits for each, as `fanout token` prints them",
                    i + 1
                ));
            }
        }
    }
    match tokens.len() {
        0..=MAX_TOKENS => Ok(tokens),
        listed => invalid(format!(
            "{listed} tokens are more than the {MAX_TOKENS} that one caller may have"
        )),
    }
}
