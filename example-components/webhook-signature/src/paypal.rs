//! PayPal: `PAYPAL-TRANSMISSION-ID`, `-TIME` and `-SIG`, RSA (PKCS #1 1.5) with SHA-256 over
//! `ID|TIME|WEBHOOK-ID|CRC32`, the last the body's CRC-32 in decimal.
//! <https://developer.paypal.com/api/rest/webhooks/rest/#verify-messages-received-with-self-verification-method>
//!
//! The key is a certificate. It must lead to the configured root, be valid now, and bear PayPal's own name: a root that
//! everyone can buy a certificate from proves nothing without the name. Fetching it from `PAYPAL-CERT-URL` is the
//! caller's: ask [`is_trusted_cert_url`] first, and give what came as the secret.
//!
//! **CRC-32 is no cryptographic hash.** Who can see one signed webhook can make another body with the same CRC-32 in no
//! time, and the signature holds for it. So the signature proves who sent the id and the time; the body is proven only as
//! far as TLS keeps others from seeing a signed webhook within the tolerance ([`Proven::Checksum`](crate::Proven::Checksum)).
//! That is PayPal's specification; nothing here can mend it. Checked again later, from a copy, it proves nothing of the body
//! ([`Coverage::proves_later`]).
//!
//! It comes with the feature `paypal`, as RSA and X.509 are a third of a component. Without it the scheme has a name
//! and no keys.

#[cfg(not(feature = "paypal"))]
mod absent;
#[cfg(feature = "paypal")]
mod certificate;
#[cfg(feature = "paypal")]
mod signature;

use std::time::Duration;

#[cfg(not(feature = "paypal"))]
use absent::{keys, sign, signing_key, verify};
#[cfg(feature = "paypal")]
use certificate::keys;
#[cfg(feature = "paypal")]
use signature::{sign, signing_key, verify};

#[cfg(feature = "paypal")]
pub(crate) use self::{certificate::Certificate, signature::PrivateKey};
use crate::{Coverage, Parameter, scheme::Rules};

const WEBHOOK_ID: &str = "webhook-id";
const ROOT: &str = "root";
const CERTIFICATE_NAME: &str = "certificate-name";
#[cfg(feature = "paypal")]
const DEFAULT_NAME: &str = "messageverificationcerts.paypal.com";

/// Three days and an hour. PayPal repeats a webhook that was not answered up to 25 times in three days, and a repeat keeps the
/// id, the time and the signature of the first: a shorter tolerance would refuse, for good, what an outage has delayed. The hour
/// is for the way and the clocks. PayPal's documents ask for no check of the time; the event's id recognises what comes again.
const REPEATS: Duration = Duration::from_secs(3 * 86_400 + 3_600);

pub(crate) const RULES: Rules = Rules {
    name: "paypal",
    tolerance: Some(REPEATS),
    covers_id: true,
    covers_url: false,
    coverage: Coverage::Checksum,
    headers: &[
        "paypal-auth-algo",
        "paypal-cert-url",
        "paypal-transmission-id",
        "paypal-transmission-sig",
        "paypal-transmission-time",
    ],
    parameters: &[
        Parameter::required(WEBHOOK_ID, "the id that PayPal gave the webhook"),
        Parameter::required(
            ROOT,
            "the root certificates, in PEM, that the signing certificate must lead to",
        ),
        Parameter::optional(
            CERTIFICATE_NAME,
            "the name that the signing certificate must bear; by default that of PayPal's live environment",
        ),
    ],
    keys,
    signing_key,
    verify,
    sign,
};

/// Whether a URL, as `PAYPAL-CERT-URL` gives it, is one of PayPal's own, so that what it returns may be looked at.
///
/// Only `https`, only the hosts that serve PayPal's certificates, no user, no port, and nothing in the URL that two
/// parsers could take for two hosts.
pub fn is_trusted_cert_url(url: &str) -> bool {
    const HOSTS: [&str; 4] = [
        "api.paypal.com",
        "api-m.paypal.com",
        "api.sandbox.paypal.com",
        "api-m.sandbox.paypal.com",
    ];
    const PATH: &str = "/v1/notifications/certs/";
    let Some((host, path)) = url
        .strip_prefix("https://")
        .and_then(|rest| rest.split_at_checked(rest.find('/')?))
    else {
        return false;
    };
    let Some(name) = path.strip_prefix(PATH) else {
        return false;
    };
    let in_form = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    HOSTS.contains(&host) && (1..=128).contains(&name.len()) && name.bytes().all(in_form)
}

/// Whether the certificates that are keys lead to a root that is configured, and are valid now: what [`verify`](crate::verify)
/// asks of the one that made a signature, asked before there is one.
///
/// # Errors
/// What is wrong with the first that is not.
#[cfg(feature = "paypal")]
pub fn check_certificates(keys: &crate::Keys, now: i64) -> Result<(), crate::Refusal> {
    certificate::check(keys, now)
}

#[cfg(feature = "paypal")]
fn invalid(expected: &'static str) -> crate::InvalidKeys {
    crate::InvalidKeys::Key {
        place: 1,
        source: crate::InvalidKey::Malformed { expected },
    }
}

#[cfg(all(test, feature = "paypal"))]
mod tests;
