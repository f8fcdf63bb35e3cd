//! The signature that Stripe puts on a webhook: what the demo signs with, and what it forges.

use std::fs::File;
use std::io::Read as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The endpoint's secret, shared by the payment provider and the ingress.
#[derive(Clone)]
pub(crate) struct Secret {
    text: String,
    keyed: Hmac<Sha256>,
}

impl Secret {
    /// One that nobody knows; made anew for each run, so that no secret is in a file of the repository.
    pub(crate) fn random() -> Result<Self> {
        let mut random = [0; 32];
        let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random));
        read.context("no randomness")?;
        Self::new(format!("whsec_{}", hex::encode(random)))
    }

    fn new(text: String) -> Result<Self> {
        // The hosts have two lines of `hmac`, which have this trait in common.
        let keyed = <Hmac<Sha256> as KeyInit>::new_from_slice(text.as_bytes()).context("not a key")?;
        Ok(Self { text, keyed })
    }

    /// The secret itself, for whoever has to configure or print it.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    /// The value of the header `Stripe-Signature`: HMAC-SHA256 over the time, a dot and the body.
    pub(crate) fn sign(&self, time: u64, body: &[u8]) -> String {
        let mut mac = self.keyed.clone();
        mac.update(time.to_string().as_bytes());
        mac.update(b".");
        mac.update(body);
        format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(redacted)")
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value is OpenSSL's: `printf '1600000000.{}' | openssl dgst -sha256 -hmac whsec_test`.
    #[test]
    fn it_signs_as_stripe_documents() {
        let secret = Secret::new("whsec_test".to_owned()).expect("a key");
        assert_eq!(secret.sign(1_600_000_000, b"{}"), EXPECTED);
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    }

    const EXPECTED: &str = "t=1600000000,v1=0a6188eb14ea9e46795a5a3941d81e88ec1805dc5e474147ee2386660589a795";

    #[test]
    fn no_two_runs_share_a_secret() {
        let random = || Secret::random().expect("a key");
        assert_ne!(random().expose(), random().expose());
    }
}
