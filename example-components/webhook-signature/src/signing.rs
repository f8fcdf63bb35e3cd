//! The opposite of verifying: for senders, and for tests.

use std::{borrow::Cow, fmt};

#[cfg(feature = "paypal")]
use crate::paypal;
use crate::{
    InvalidKeys, Parameters, Scheme, braintree,
    key::{self, Key, Short},
    mac::Mac,
};

/// What a scheme signs with. For the schemes with a shared secret it is read from that secret.
///
/// Never in the way of verifying: whoever only receives webhooks has no use for it.
#[derive(Clone)]
pub struct SigningKey {
    scheme: Scheme,
    pub(crate) material: Material,
    pub(crate) parameters: Parameters,
}

#[derive(Clone)]
pub(crate) enum Material {
    /// A key of HMAC-SHA256.
    Mac(Box<Mac>),
    /// A private key of Ed25519.
    Ed25519(Box<ed25519_dalek::SigningKey>),
    /// Braintree's pair.
    Braintree(Box<braintree::Pair>),
    /// `USER:PASSWORD`.
    Credential(Box<str>),
    /// A private key of RSA.
    #[cfg(feature = "paypal")]
    Rsa(Box<paypal::PrivateKey>),
}

impl Material {
    /// How many bytes whoever guesses it has to guess; none where it is no secret that two share.
    fn strength(&self) -> Option<usize> {
        match self {
            Self::Mac(mac) => Some(mac.strength()),
            Self::Braintree(pair) => Some(pair.strength()),
            Self::Ed25519(_) | Self::Credential(_) => None,
            #[cfg(feature = "paypal")]
            Self::Rsa(_) => None,
        }
    }
}

impl SigningKey {
    /// Reads one secret: for most schemes the one that verifies, for [`Scheme::StandardWebhooks`] also a `whsk_` key, for
    /// [`Scheme::Paypal`] an RSA key in PEM (PKCS #8). Of several lines, the first is what signs: the newest secret.
    pub fn parse(scheme: Scheme, text: &str) -> Result<Self, InvalidKeys> {
        Self::with_parameters(scheme, text, &[])
    }

    /// Reads one secret, and the names and values of the scheme's parameters ([`Scheme::parameters`]).
    pub fn with_parameters(scheme: Scheme, text: &str, parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        Self::read(scheme, text, parameters, Short::Refused)
    }

    /// The same, with a key of HMAC that is shorter than [`MIN_KEY_BYTES`](crate::MIN_KEY_BYTES): whoever sees what it signs
    /// can find it by trying.
    pub fn allowing_short(scheme: Scheme, text: &str, parameters: &[(&str, &str)]) -> Result<Self, InvalidKeys> {
        Self::read(scheme, text, parameters, Short::Allowed)
    }

    fn read(scheme: Scheme, text: &str, parameters: &[(&str, &str)], short: Short) -> Result<Self, InvalidKeys> {
        let parameters = Parameters::read(scheme, parameters)?;
        let secret = key::secrets(scheme, text).next().ok_or(InvalidKeys::None)?;
        let material = (scheme.rules().signing_key)(secret)?;
        short
            .check(material.strength())
            .map_err(|source| InvalidKeys::Key { place: 1, source })?;
        Ok(Self {
            scheme,
            material,
            parameters,
        })
    }

    /// The scheme that it is a key of.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The key of HMAC-SHA256; a scheme that asks for it reads no other.
    pub(crate) fn mac(&self) -> &Mac {
        match &self.material {
            Material::Mac(mac) => mac,
            _ => unreachable!("{} signs with HMAC-SHA256 alone", self.scheme),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, redacted)", self.scheme)
    }
}

/// Reads a secret that is a key of HMAC-SHA256 as it stands.
pub(crate) fn text(secret: &str) -> Result<Material, InvalidKeys> {
    symmetric(Key::text(secret))
}

/// What verifies with HMAC-SHA256 also signs.
pub(crate) fn symmetric(key: Result<Key, crate::InvalidKey>) -> Result<Material, InvalidKeys> {
    match key {
        Ok(Key::Mac(mac)) => Ok(Material::Mac(mac)),
        Ok(Key::Braintree(pair)) => Ok(Material::Braintree(pair)),
        Ok(_) => Err(crate::InvalidKey::Public),
        Err(source) => Err(source),
    }
    .map_err(|source| InvalidKeys::Key { place: 1, source })
}

/// A webhook before it is signed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned<'a> {
    /// The webhook's id; only schemes whose signature covers one ([`Scheme::covers_id`]) use it.
    pub id: &'a str,
    /// When it is signed, in seconds since 1970; only schemes whose signature covers a time use it.
    pub timestamp: i64,
    /// The body, byte for byte; for [`Scheme::Braintree`] the payload.
    pub body: &'a [u8],
    /// Where it is sent to; only schemes whose signature covers the URL ([`Scheme::covers_url`]) use it.
    pub url: Option<&'a str>,
}

/// A signed webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signed<'a> {
    /// The headers that the signature needs.
    pub headers: Vec<(&'static str, String)>,
    /// The body to send: not the one that was given where the signature stands in it.
    pub body: Cow<'a, [u8]>,
}

impl<'a> Signed<'a> {
    /// The body as it was given, with these headers.
    pub(crate) fn headers(headers: Vec<(&'static str, String)>, webhook: &Unsigned<'a>) -> Self {
        Self {
            headers,
            body: Cow::Borrowed(webhook.body),
        }
    }
}

/// Why a webhook can't be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsignable {
    /// The scheme signs the URL.
    #[error("the scheme signs the URL, and none is given")]
    NoUrl,
    /// The id has characters that would make the signature ambiguous.
    #[error("the id is empty, or holds characters that the scheme does not allow in one")]
    InvalidId,
    /// The time has no form in this scheme.
    #[error("the time can't be written in the scheme's form")]
    InvalidTime,
    /// The signature's place in the body is not there.
    #[error("the body is not in the form that the scheme signs: {problem}")]
    InvalidBody {
        /// What is wrong with it.
        problem: &'static str,
    },
}
