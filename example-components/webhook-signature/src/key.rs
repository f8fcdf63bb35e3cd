//! The keys that signatures are verified with.

use std::fmt;

#[cfg(feature = "paypal")]
use crate::paypal;
use crate::{Parameters, Scheme, basic, braintree, mac::Mac};

/// The most keys that can be active at once. Each costs one pass over the body.
pub const MAX_KEYS: usize = 16;

/// One key, in the form its scheme verifies with. It does not show itself in `Debug`.
#[derive(Clone)]
pub(crate) enum Key {
    /// Of HMAC-SHA256.
    Mac(Box<Mac>),
    /// Of Ed25519.
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
    /// Braintree's pair.
    Braintree(Box<braintree::Pair>),
    /// A user and a password.
    Credential(basic::Credential),
    /// PayPal's certificate.
    #[cfg(feature = "paypal")]
    Certificate(Box<paypal::Certificate>),
}

impl Key {
    /// A key of HMAC-SHA256 from its bytes.
    pub(crate) fn mac(bytes: &[u8]) -> Result<Self, InvalidKey> {
        if bytes.is_empty() {
            return Err(InvalidKey::Empty);
        }
        Ok(Self::Mac(Box::new(Mac::new(bytes))))
    }

    /// A key of HMAC-SHA256 that is the secret as it stands.
    pub(crate) fn text(secret: &str) -> Result<Self, InvalidKey> {
        Self::mac(secret.as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Reads secrets one by one.
pub(crate) fn each(secrets: &[&str], read: impl Fn(&str) -> Result<Key, InvalidKey>) -> Result<Vec<Key>, InvalidKeys> {
    let read = |(index, secret): (usize, &&str)| {
        read(secret).map_err(|source| InvalidKeys::Key {
            place: index + 1,
            source,
        })
    };
    secrets.iter().enumerate().map(read).collect()
}

/// Reads secrets that are keys of HMAC-SHA256 as they stand.
pub(crate) fn texts(secrets: &[&str], _: &Parameters) -> Result<Vec<Key>, InvalidKeys> {
    each(secrets, Key::text)
}

/// The active keys of one scheme, in the order they were given: one, or several while a secret is being rotated; and
/// the scheme's parameters.
#[derive(Clone, Debug)]
pub struct Keys {
    scheme: Scheme,
    keys: Vec<Key>,
    parameters: Parameters,
}

impl Keys {
    /// Reads 1 to [`MAX_KEYS`] secrets as the scheme's vendor hands them out, separated by white space. For
    /// [`Scheme::Paypal`] it is certificates in PEM.
    pub fn parse(scheme: Scheme, secrets: &str) -> Result<Self, InvalidKeys> {
        Self::with_parameters(scheme, secrets, &[])
    }

    /// Reads secrets, and the names and values of the scheme's parameters ([`Scheme::parameters`]).
    pub fn with_parameters(scheme: Scheme, secrets: &str, parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        if scheme == Scheme::Paypal {
            return Self::of(scheme, &[secrets], parameters);
        }
        let secrets: Vec<_> = secrets.split_whitespace().collect();
        Self::of(scheme, &secrets, parameters)
    }

    /// Keys of secrets that are already told apart: one of them may hold white space.
    pub fn of(scheme: Scheme, secrets: &[&str], parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        if secrets.len() > MAX_KEYS {
            return Err(InvalidKeys::TooMany { count: secrets.len() });
        }
        let parameters = Parameters::read(scheme, parameters)?;
        let keys = (scheme.rules().keys)(secrets, &parameters)?;
        match keys.len() {
            0 => Err(InvalidKeys::None),
            1..=MAX_KEYS => Ok(Self {
                scheme,
                keys,
                parameters,
            }),
            count => Err(InvalidKeys::TooMany { count }),
        }
    }

    /// The scheme that they are keys of.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// How many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }
}

/// Why a secret is no key. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// It is empty: anyone could sign with it.
    #[error("is empty")]
    Empty,
    /// It is not in the form that the scheme's vendor hands out.
    #[error("is not {expected}")]
    Malformed {
        /// What it should be.
        expected: &'static str,
    },
    /// It signs, and whoever verifies has no need of it.
    #[error("is a private key, which belongs to the sender: verify with the public one")]
    Private,
    /// It verifies, and can't sign.
    #[error("is a public key, which signs nothing")]
    Public,
}

/// Why secrets and parameters are no [`Keys`]. Never quotes them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The crate was built without this scheme.
    #[error("{scheme} is not built in here: it needs the feature of that name")]
    NotBuiltIn {
        /// The scheme.
        scheme: Scheme,
    },
    /// The scheme has no parameter of this name.
    #[error("{scheme} has no parameter `{name}`; it knows {}", known(*.scheme))]
    UnknownParameter {
        /// The scheme.
        scheme: Scheme,
        /// The name.
        name: String,
    },
    /// The scheme can't verify without this parameter.
    #[error("{scheme} needs the parameter `{name}`")]
    MissingParameter {
        /// The scheme.
        scheme: Scheme,
        /// The name.
        name: &'static str,
    },
    /// A parameter's value can't be used.
    #[error("the parameter `{name}` {problem}")]
    InvalidParameter {
        /// The name.
        name: &'static str,
        /// What is wrong with the value.
        problem: &'static str,
    },
}

fn known(scheme: Scheme) -> String {
    let names: Vec<_> = scheme
        .parameters()
        .iter()
        .map(|parameter| format!("`{}`", parameter.name))
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_separated_by_white_space_and_counted() {
        let parse = |secrets: &str| Keys::parse(Scheme::Stripe, secrets);
        let keys = parse("one  two\n three ").unwrap();
        assert_eq!((keys.len(), keys.scheme()), (3, Scheme::Stripe));
        assert_eq!(parse(" \n").unwrap_err(), InvalidKeys::None);
        let many = "s ".repeat(MAX_KEYS + 1);
        assert_eq!(parse(&many).unwrap_err(), InvalidKeys::TooMany { count: MAX_KEYS + 1 });
        let error = Keys::parse(Scheme::StandardWebhooks, "whsec_AAEC whsec_?").unwrap_err();
        assert!(matches!(error, InvalidKeys::Key { place: 2, .. }), "{error:?}");
    }

    #[test]
    fn no_secret_is_shown() {
        let keys = Keys::parse(Scheme::Stripe, "whsec_topsecret").unwrap();
        let shown = format!("{keys:?}");
        assert!(
            shown.contains("Key(redacted)") && !shown.contains("topsecret"),
            "{shown}"
        );
        let error = Keys::parse(Scheme::StandardWebhooks, "whsec_topsecret!").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("topsecret"));
    }
}
