//! The keys that signatures are verified with.

use std::fmt;

#[cfg(feature = "paypal")]
use crate::paypal;
use crate::{
    Parameters, Scheme, basic, braintree,
    mac::{self, Mac},
};

/// The most keys that can be active at once. Each costs one pass over the body.
pub const MAX_KEYS: usize = 16;

/// The fewest bytes of a key of HMAC, unless a shorter one is allowed by name ([`Keys::allowing_short`]).
///
/// A webhook and its signature are enough to try keys without asking anybody: one of 8 letters is found in minutes. 16 bytes
/// are half of what HMAC-SHA256 can use, and fewer than any vendor hands out; what is shorter was made up by a person.
pub const MIN_KEY_BYTES: usize = 16;

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
        if mac::strength(bytes) == 0 {
            return Err(InvalidKey::Empty);
        }
        Ok(Self::Mac(Box::new(Mac::new(bytes))))
    }

    /// How many bytes whoever guesses it has to guess; none where it is no secret that two share.
    fn strength(&self) -> Option<usize> {
        match self {
            Self::Mac(mac) => Some(mac.strength()),
            Self::Braintree(pair) => Some(pair.strength()),
            // Public keys. A password is tried at the receiver's door alone, who can count the tries.
            Self::Ed25519(_) | Self::Credential(_) => None,
            #[cfg(feature = "paypal")]
            Self::Certificate(_) => None,
        }
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

/// Whether a key of HMAC may be shorter than [`MIN_KEY_BYTES`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    Refused,
    Allowed,
}

impl Short {
    /// Refuses what has too few bytes to be a key.
    pub(crate) fn check(self, strength: Option<usize>) -> Result<(), InvalidKey> {
        match strength {
            Some(bytes) if bytes < MIN_KEY_BYTES && self == Self::Refused => Err(InvalidKey::Short),
            _ => Ok(()),
        }
    }
}

/// The secrets of a text: each line is one, as it stands. A blank in a line is a part of the secret, wherever it is; the line
/// break at the end, `\n` or `\r\n`, is none. PayPal's certificates are all of the text.
pub(crate) fn secrets(scheme: Scheme, text: &str) -> impl Iterator<Item = &str> {
    let whole = (scheme == Scheme::Paypal).then_some(text);
    let lines = if whole.is_some() { "" } else { text };
    let lines = lines.split_inclusive('\n').map(|line| {
        let ended = line.strip_suffix("\r\n").or_else(|| line.strip_suffix('\n'));
        ended.unwrap_or(line)
    });
    whole.into_iter().chain(lines)
}

/// The active keys of one scheme, in the order they were given: one, or several while a secret is being rotated; and
/// the scheme's parameters.
///
/// One secret is one key, exactly as it stands but for one line break at its end: `It's a Secret to Everybody` is one key of
/// 26 bytes. Several keys are several lines of one text, or several texts, such as several secrets that the host keeps under
/// names of their own. An empty line is refused as an empty key.
#[derive(Clone, Debug)]
pub struct Keys {
    scheme: Scheme,
    keys: Vec<Key>,
    parameters: Parameters,
}

impl Keys {
    /// Reads 1 to [`MAX_KEYS`] secrets as the scheme's vendor hands them out, a line each. For [`Scheme::Paypal`] it is
    /// certificates in PEM.
    pub fn parse(scheme: Scheme, text: &str) -> Result<Self, InvalidKeys> {
        Self::with_parameters(scheme, text, &[])
    }

    /// Reads secrets, a line each, and the names and values of the scheme's parameters ([`Scheme::parameters`]).
    pub fn with_parameters(scheme: Scheme, text: &str, parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        Self::of(scheme, &[text], parameters)
    }

    /// Reads the secrets of several texts, such as secrets that the host keeps under several names; each is read as the one of
    /// [`Keys::parse`] is.
    pub fn of(scheme: Scheme, texts: &[&str], parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        Self::read(scheme, texts, parameters, Short::Refused)
    }

    /// The same, with keys of HMAC that are shorter than [`MIN_KEY_BYTES`]. Whoever sees one webhook can find such a key by
    /// trying, and then sign what it likes: a setting that leads here has to say so by its name.
    pub fn allowing_short(scheme: Scheme, texts: &[&str], parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        Self::read(scheme, texts, parameters, Short::Allowed)
    }

    fn read(scheme: Scheme, texts: &[&str], parameters: &[(&str, &str)], short: Short) -> Result<Self, InvalidKeys> {
        let given = || texts.iter().flat_map(|text| secrets(scheme, text));
        // Counted before they are gathered: the text may be nothing but line breaks.
        let count = given().count();
        if count > MAX_KEYS {
            return Err(InvalidKeys::TooMany { count });
        }
        let parameters = Parameters::read(scheme, parameters)?;
        let given: Vec<_> = given().collect();
        let keys = (scheme.rules().keys)(&given, &parameters)?;
        for (index, key) in keys.iter().enumerate() {
            short.check(key.strength()).map_err(|source| InvalidKeys::Key {
                place: index + 1,
                source,
            })?;
        }
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
    /// It is so short that it can be found by trying ([`MIN_KEY_BYTES`]).
    #[error("has fewer than {MIN_KEY_BYTES} bytes: who sees one webhook can find it by trying, and sign others")]
    Short,
    /// Something stands before it that is shown with it, and is no part of it.
    #[error("begins with `{before}`, which is no part of it: leave that out")]
    Prefixed {
        /// What stands before it.
        before: &'static str,
    },
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

    const LONG: &str = "a secret of twenty four";

    /// Verifies by GitHub's scheme, the plainest, what was signed with these very bytes.
    fn proves(texts: &[&str], key: &str) -> Result<usize, InvalidKeys> {
        let tag = hex::encode(Mac::new(key.as_bytes()).tag(&[b"{}"]));
        let signature = format!("sha256={tag}");
        let headers = [("x-hub-signature-256", signature.as_bytes())];
        let keys = Keys::of(Scheme::Github, texts, &[])?;
        let request = crate::Request::new(&headers, b"{}");
        let verified = crate::verify(&keys, &request, 0, std::time::Duration::ZERO);
        Ok(verified.map_or(usize::MAX, |verified| verified.key))
    }

    #[test]
    fn one_secret_is_one_key_as_it_stands_but_for_one_line_break() {
        for secret in [
            LONG,
            "  blanks at both ends  ",
            "\ttabs\tin\ta\tsecret",
            "a no-break\u{a0}space and é",
            "carriage\rreturns in it",
        ] {
            for text in [format!("{secret}\n"), format!("{secret}\r\n")] {
                assert_eq!(proves(&[&text], secret), Ok(0), "{text:?}");
            }
            assert_eq!(proves(&[secret], secret), Ok(0), "{secret:?}");
            // No part of it is a key: the letter `a` would be one that anybody guesses.
            for part in secret
                .split_whitespace()
                .chain([secret.trim()])
                .filter(|part| *part != secret)
            {
                assert_eq!(proves(&[secret], part), Ok(usize::MAX), "{secret:?} {part:?}");
            }
        }
    }

    #[test]
    fn several_keys_are_several_lines_or_several_texts() {
        let other = "another secret of some length";
        for texts in [
            &[&*format!("{LONG}\n{other}")][..],
            &[&format!("{LONG}\r\n{other}\n")],
            &[LONG, other],
            &[&format!("{LONG}\n"), other],
        ] {
            assert_eq!(proves(texts, LONG), Ok(0), "{texts:?}");
            assert_eq!(proves(texts, other), Ok(1), "{texts:?}");
        }
        assert_eq!(proves(&[other, &format!("{other}\n{LONG}\n")], LONG), Ok(2));
    }

    #[test]
    fn an_empty_line_is_no_key_and_keys_are_counted() {
        let parse = |text: &str| Keys::parse(Scheme::Stripe, text).map(|keys| keys.len());
        let empty = |place| {
            let source = InvalidKey::Empty;
            Err(InvalidKeys::Key { place, source })
        };
        assert_eq!(parse(""), Err(InvalidKeys::None));
        assert_eq!(parse("\n"), empty(1));
        assert_eq!(parse("\r\n"), empty(1));
        assert_eq!(parse(&format!("{LONG}\n\n{LONG}")), empty(2));
        assert_eq!(parse(&format!("{LONG}\n\n")), empty(2));
        let many = |count| format!("{LONG}\n").repeat(count);
        assert_eq!(parse(&many(MAX_KEYS)), Ok(MAX_KEYS));
        let count = MAX_KEYS + 1;
        assert_eq!(parse(&many(count)), Err(InvalidKeys::TooMany { count }));
        let error = Keys::parse(
            Scheme::StandardWebhooks,
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_?",
        )
        .unwrap_err();
        assert!(matches!(error, InvalidKeys::Key { place: 2, .. }), "{error:?}");
    }

    /// What each scheme would take as a secret of `count` bytes.
    fn of_length(scheme: Scheme, count: usize) -> Option<String> {
        match scheme {
            Scheme::Adyen | Scheme::AdyenBalance => Some("5a".repeat(count)),
            Scheme::StandardWebhooks => Some(format!("whsec_{}", crate::encoding::to_base64(&vec![b'Z'; count]))),
            Scheme::Braintree => Some(format!("a_long_public_key_is_none:{}", "Z".repeat(count))),
            Scheme::Basic | Scheme::Paypal => None,
            _ => Some("Z".repeat(count)),
        }
    }

    #[test]
    fn a_short_key_of_any_scheme_is_refused_unless_it_is_allowed() {
        let short = |place| InvalidKeys::Key {
            place,
            source: InvalidKey::Short,
        };
        for (scheme, secret) in Scheme::ALL
            .into_iter()
            .filter_map(|scheme| Some((scheme, of_length(scheme, 15)?)))
        {
            let long = of_length(scheme, 16).unwrap();
            assert_eq!(Keys::parse(scheme, &secret).unwrap_err(), short(1), "{scheme}");
            assert_eq!(
                Keys::of(scheme, &[&long, &secret], &[]).unwrap_err(),
                short(2),
                "{scheme}"
            );
            assert!(Keys::parse(scheme, &long).is_ok(), "{scheme}");
            assert_eq!(
                Keys::allowing_short(scheme, &[&secret], &[]).unwrap().len(),
                1,
                "{scheme}"
            );
            assert_eq!(
                crate::SigningKey::parse(scheme, &secret).unwrap_err(),
                short(1),
                "{scheme}"
            );
            assert!(
                crate::SigningKey::allowing_short(scheme, &secret, &[]).is_ok(),
                "{scheme}"
            );
            assert!(Keys::allowing_short(scheme, &[""], &[]).is_err(), "{scheme}");
        }
    }

    /// HMAC fills a key up with zero bytes: `61` and `61000000…` are one key.
    #[test]
    fn zero_bytes_at_its_end_make_a_key_no_longer() {
        let refusal = |hexadecimal: &str| match Keys::parse(Scheme::Adyen, hexadecimal) {
            Err(InvalidKeys::Key { source, .. }) => Some(source),
            _ => None,
        };
        assert_eq!(refusal(&"00".repeat(32)), Some(InvalidKey::Empty));
        assert_eq!(refusal(&format!("61{}", "00".repeat(31))), Some(InvalidKey::Short));
        assert_eq!(refusal(&format!("{}61", "00".repeat(15))), None);
        let text = format!("a{}", "\0".repeat(40));
        assert!(Keys::parse(Scheme::Github, &text).is_err());
    }

    #[test]
    fn no_secret_is_shown() {
        let keys = Keys::parse(Scheme::Stripe, "whsec_topsecret_of_some_length").unwrap();
        let shown = format!("{keys:?}");
        assert!(
            shown.contains("Key(redacted)") && !shown.contains("topsecret"),
            "{shown}"
        );
        let error = Keys::parse(Scheme::StandardWebhooks, "whsec_topsecret!").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("topsecret"));
    }
}
