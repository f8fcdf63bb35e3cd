//! Verifies and makes webhook signatures.
//!
//! One entry point: [`verify`] takes the keys of a scheme that are active, the request as it came, and the time, and says
//! what was proven or which check failed. [`sign`] is its opposite, for tests and for senders.
//!
//! What this crate deliberately lacks: IO, a clock, configuration, and any reading of a body whose signature stands
//! outside of it. Such a body is bytes, and is verified before anything parses it. Where the signature stands within the
//! body, [`Proven`] says what it covers.
//!
//! Rules that hold for every scheme:
//! - Signatures are compared in constant time, and every key is tried with every signature, so that the time taken does
//!   not tell which of them came close.
//! - The signature is checked before the time: only who holds a key learns that a webhook is stale.
//! - One secret is one key as it stands; one of fewer than 16 bytes is refused unless it is allowed by name ([`Keys`]).
//! - What is not signed decides nothing: the id and the time that are told are the signed ones.
//! - A header that is repeated, also under another of its names, or does not have exactly the form its scheme prescribes, is refused. Hexadecimal is
//!   lower case and base64 canonical, so that no changed bit of a signature goes unnoticed.
//! - A refusal names the check, never a secret, an expected signature, or what was signed.
//!
//! ```
//! use std::time::Duration;
//! use webhook_signature::{Keys, Refusal, Request, Scheme, verify};
//!
//! // While a secret is being rotated, both are active.
//! let keys = Keys::parse(Scheme::Stripe, "whsec_the_new_secret\nwhsec_the_old_secret\n")?;
//! let signature = "t=1767225600,v1=2d55d1c7c8760c8661f6df0b6a1714274eadb63a5ed026a023a4862b9a79abf5";
//! let headers = [("Stripe-Signature", signature.as_bytes())];
//! let now = 1_767_225_660;
//!
//! let request = Request::new(&headers, b"{}");
//! let verified = verify(&keys, &request, now, Duration::from_secs(300))?;
//! assert_eq!((verified.key, verified.timestamp), (1, Some(1_767_225_600)));
//!
//! let forged = Request::new(&headers, b"{ }");
//! let refusal = verify(&keys, &forged, now, Duration::from_secs(300));
//! assert_eq!(refusal, Err(Refusal::SignatureMismatch));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adyen;
mod basic;
mod body;
pub mod braintree;
mod encoding;
mod header;
mod key;
mod mac;
mod mollie;
mod over_body;
mod parameter;
pub mod paypal;
mod proven;
mod refusal;
mod scheme;
mod signing;
mod square;
mod standard_webhooks;
#[cfg(test)]
mod testing;
mod time;
mod timed;

use std::time::Duration;

pub use key::{InvalidKey, InvalidKeys, Keys, MAX_KEYS, MIN_KEY_BYTES};
pub use parameter::Parameter;
pub(crate) use parameter::Parameters;
pub use proven::{Coverage, Item, Proven, Verified};
pub use refusal::{Refusal, RefusalKind};
pub use scheme::{Scheme, UnknownScheme};
pub use signing::{Signed, SigningKey, Unsignable, Unsigned};

/// A webhook as it came over HTTP.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Request<'a> {
    /// Names, in any case, and values; a header that came twice is here twice.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body, byte for byte.
    pub body: &'a [u8],
    /// The URL as the sender wrote it, where that is known.
    pub url: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// A request with these headers and this body.
    pub fn new(headers: &'a [(&'a str, &'a [u8])], body: &'a [u8]) -> Self {
        Self {
            headers,
            body,
            url: None,
        }
    }

    /// The same request, sent to this URL. Only a scheme whose signature covers the URL ([`Scheme::covers_url`]) asks.
    pub fn with_url(self, url: &'a str) -> Self {
        Self { url: Some(url), ..self }
    }
}

/// Verifies that `request` was signed by one of `keys`, no longer than `tolerance` before `now`, and no more than five minutes
/// of it after `now`: nothing comes from the future but by a clock that is off.
///
/// `now` is in seconds since 1970. A scheme that signs no time ([`Scheme::signs_time`]) ignores `tolerance`: its webhooks
/// can be replayed for as long as the key is active, and the event id has to catch that.
pub fn verify<'a>(keys: &Keys, request: &Request<'a>, now: i64, tolerance: Duration) -> Result<Verified<'a>, Refusal> {
    let verified = (keys.scheme().rules().verify)(keys, request, now)?;
    if let Some(timestamp) = verified.timestamp {
        time::check(timestamp, now, tolerance)?;
    }
    Ok(verified)
}

/// Makes `webhook` one that is signed by `key`.
pub fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    (key.scheme().rules().sign)(key, webhook)
}
