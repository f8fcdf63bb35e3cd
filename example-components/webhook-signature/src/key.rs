//! The keys that signatures are made with.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::Scheme;

/// The most keys that can be active at once. Each costs one pass over the body.
pub const MAX_KEYS: usize = 16;

/// One key. It does not show itself in `Debug`.
#[derive(Clone)]
pub struct Key(Box<[u8]>);

impl Key {
    /// Reads a secret as the scheme's vendor hands it out.
    pub fn new(scheme: Scheme, secret: &str) -> Result<Self, InvalidKey> {
        let bytes = match scheme {
            Scheme::Stripe | Scheme::Github => secret.as_bytes().to_vec(),
            Scheme::StandardWebhooks => decode_standard(secret)?,
        };
        if bytes.is_empty() {
            return Err(InvalidKey::Empty);
        }
        Ok(Self(bytes.into()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// `whsec_` marks a symmetric secret; the reference libraries take it without the mark too.
fn decode_standard(secret: &str) -> Result<Vec<u8>, InvalidKey> {
    if secret.starts_with("whpk_") || secret.starts_with("whsk_") {
        return Err(InvalidKey::Asymmetric);
    }
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    // The decoder's error would quote a part of the secret.
    STANDARD.decode(encoded).map_err(|_| InvalidKey::NotBase64)
}

/// Why a secret is no key. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// It is empty: anyone could sign with it.
    #[error("is empty")]
    Empty,
    /// It is not in base64.
    #[error("is not `whsec_` followed by base64")]
    NotBase64,
    /// It is a key of a public-key signature.
    #[error("is an asymmetric key, and only `whsec_` secrets are supported")]
    Asymmetric,
}

/// The active keys, in the order they were given: one, or several while a secret is being rotated.
#[derive(Clone, Debug)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// 1 to [`MAX_KEYS`] keys.
    pub fn new(keys: Vec<Key>) -> Result<Self, InvalidKeys> {
        match keys.len() {
            0 => Err(InvalidKeys::None),
            1..=MAX_KEYS => Ok(Self(keys)),
            count => Err(InvalidKeys::TooMany { count }),
        }
    }

    /// Reads secrets that are separated by white space.
    pub fn parse(scheme: Scheme, secrets: &str) -> Result<Self, InvalidKeys> {
        let keys = secrets
            .split_whitespace()
            .enumerate()
            .map(|(index, secret)| {
                Key::new(scheme, secret).map_err(|source| InvalidKeys::Key {
                    place: index + 1,
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
        Self::new(keys)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

impl From<Key> for Keys {
    fn from(key: Key) -> Self {
        Self(vec![key])
    }
}

/// Why a list of secrets is no [`Keys`]. Never quotes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeys {
    /// There is none: nothing could be verified.
    #[error("holds no secret")]
    None,
    /// There are more than [`MAX_KEYS`].
    #[error("holds {count} secrets, and {MAX_KEYS} can be active at once")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// One of them is no key.
    #[error("holds secrets of which number {place} can't be used")]
    Key {
        /// Which, from 1.
        place: usize,
        /// Why.
        source: InvalidKey,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripe_secret_is_the_key_as_it_stands() {
        let key = Key::new(Scheme::Stripe, "whsec_abc").unwrap();
        assert_eq!(key.bytes(), b"whsec_abc");
    }

    #[test]
    fn a_standard_secret_is_decoded_with_and_without_its_mark() {
        for secret in ["whsec_AAEC", "AAEC"] {
            assert_eq!(
                Key::new(Scheme::StandardWebhooks, secret).unwrap().bytes(),
                [0, 1, 2],
                "{secret}"
            );
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let check = |secret| Key::new(Scheme::StandardWebhooks, secret).unwrap_err();
        assert_eq!(check(""), InvalidKey::Empty);
        assert_eq!(check("whsec_"), InvalidKey::Empty);
        assert_eq!(check("whsec_!!!!"), InvalidKey::NotBase64);
        assert_eq!(check("whsec_AAE"), InvalidKey::NotBase64);
        assert_eq!(check("whpk_AAEC"), InvalidKey::Asymmetric);
        assert_eq!(check("whsk_AAEC"), InvalidKey::Asymmetric);
        assert_eq!(Key::new(Scheme::Stripe, "").unwrap_err(), InvalidKey::Empty);
        assert_eq!(Key::new(Scheme::Github, "").unwrap_err(), InvalidKey::Empty);
    }

    #[test]
    fn keys_are_separated_by_white_space_and_counted() {
        assert_eq!(
            Keys::parse(Scheme::Stripe, "one  two\n three ").unwrap().iter().count(),
            3
        );
        assert_eq!(Keys::parse(Scheme::Stripe, " \n").unwrap_err(), InvalidKeys::None);
        let many = "s ".repeat(MAX_KEYS + 1);
        assert_eq!(
            Keys::parse(Scheme::Stripe, &many).unwrap_err(),
            InvalidKeys::TooMany { count: MAX_KEYS + 1 }
        );
        assert_eq!(
            Keys::parse(Scheme::StandardWebhooks, "whsec_AAEC whsec_?").unwrap_err(),
            InvalidKeys::Key {
                place: 2,
                source: InvalidKey::NotBase64
            }
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let keys = Keys::parse(Scheme::Stripe, "whsec_topsecret").unwrap();
        assert_eq!(format!("{keys:?}"), "Keys([Key(redacted)])");
        let error = Keys::parse(Scheme::StandardWebhooks, "whsec_topsecret!").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("topsecret"));
    }
}
