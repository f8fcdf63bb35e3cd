//! The signature that Stripe puts on a webhook: what the demo signs with, and what it forges.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
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
        let text = format!("whsec_{}", hex::encode(rand::random::<[u8; 32]>()));
        let keyed = Hmac::new_from_slice(text.as_bytes()).context("not a key")?;
        Ok(Self { text, keyed })
    }

    /// The secret itself, for whoever has to configure it.
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
