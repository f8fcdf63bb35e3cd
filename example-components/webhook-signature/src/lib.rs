//! Verifies and makes webhook signatures.
//!
//! One entry point: [`verify`] takes a scheme, the keys that are active, the request as it came, and the time, and
//! says what was proved or which check failed. [`sign`] is its opposite, for tests and for senders.
//!
//! What this crate deliberately lacks: IO, a clock, configuration, and any reading of the body. The body is bytes; it is
//! verified before anything parses it.
//!
//! Rules that hold for every scheme:
//! - Signatures are compared in constant time, and every key is tried with every signature, so that the time taken does
//!   not tell which of them came close.
//! - The signature is checked before the time: only who holds a key learns that a webhook is stale.
//! - A header that is repeated, or does not have exactly the form its scheme prescribes, is refused. Hexadecimal is
//!   lower case and base64 canonical, so that no changed bit of a signature goes unnoticed.
//! - A refusal names the check, never a secret, an expected signature, or what was signed.
//!
//! ```
//! use std::time::Duration;
//! use webhook_signature::{Keys, Refusal, Request, Scheme, verify};
//!
//! // While a secret is being rotated, both are active.
//! let keys = Keys::parse(Scheme::Stripe, "whsec_new webhook_secret")?;
//! let signature = "t=1767225600,v1=cac2e96cf2a728785fcaf8f346f25937ccc22c06d15299c5547e83d5a57a8563";
//! let headers = [("Stripe-Signature", signature.as_bytes())];
//! let now = 1_767_225_660;
//!
//! let request = Request::new(&headers, b"{}");
//! let verified = verify(Scheme::Stripe, &keys, &request, now, Duration::from_secs(300))?;
//! assert_eq!((verified.key, verified.timestamp), (1, Some(1_767_225_600)));
//!
//! let forged = Request::new(&headers, b"{ }");
//! let refusal = verify(Scheme::Stripe, &keys, &forged, now, Duration::from_secs(300));
//! assert_eq!(refusal, Err(Refusal::SignatureMismatch));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod github;
mod header;
mod key;
mod mac;
mod refusal;
mod scheme;
mod standard_webhooks;
mod stripe;
mod time;

use std::time::Duration;

pub use key::{InvalidKey, InvalidKeys, Key, Keys, MAX_KEYS};
pub use refusal::{Refusal, RefusalKind};
pub use scheme::{Scheme, UnknownScheme};

/// A webhook as it came over HTTP.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// Names, in any case, and values; a header that came twice is here twice.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body, byte for byte.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request with these headers and this body.
    pub fn new(headers: &'a [(&'a str, &'a [u8])], body: &'a [u8]) -> Self {
        Self { headers, body }
    }
}

/// What a signature proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified<'a> {
    /// The scheme it was verified by.
    pub scheme: Scheme,
    /// Which key matched: its place in [`Keys`], from 0.
    pub key: usize,
    /// The webhook's id, where the signature covers one.
    pub id: Option<&'a str>,
    /// When it was signed, in seconds since 1970, where the signature covers a time.
    pub timestamp: Option<i64>,
}

/// Verifies that `request` was signed by one of `keys`, no longer than `tolerance` before or after `now`.
///
/// `now` is in seconds since 1970. A scheme that signs no time ([`Scheme::signs_time`]) ignores both it and `tolerance`:
/// its webhooks can be replayed for as long as the key is active, and the event id has to catch that.
pub fn verify<'a>(
    scheme: Scheme,
    keys: &Keys,
    request: &Request<'a>,
    now: i64,
    tolerance: Duration,
) -> Result<Verified<'a>, Refusal> {
    let verified = match scheme {
        Scheme::Stripe => stripe::verify(keys, request),
        Scheme::StandardWebhooks => standard_webhooks::verify(keys, request),
        Scheme::Github => github::verify(keys, request),
    }?;
    if let Some(timestamp) = verified.timestamp {
        time::check(timestamp, now, tolerance)?;
    }
    Ok(verified)
}

/// A webhook before it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// The webhook's id; only schemes whose signature covers one use it.
    pub id: &'a str,
    /// When it is signed, in seconds since 1970; only schemes whose signature covers a time use it.
    pub timestamp: i64,
    /// The body, byte for byte.
    pub body: &'a [u8],
}

/// The headers that make it a webhook signed by `key`.
pub fn sign(scheme: Scheme, key: &Key, webhook: &Unsigned<'_>) -> Vec<(&'static str, String)> {
    match scheme {
        Scheme::Stripe => stripe::sign(key, webhook),
        Scheme::StandardWebhooks => standard_webhooks::sign(key, webhook),
        Scheme::Github => github::sign(key, webhook),
    }
}

#[cfg(test)]
mod properties;
