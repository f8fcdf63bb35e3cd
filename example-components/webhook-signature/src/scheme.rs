//! The ways to sign a webhook.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    Coverage, InvalidKeys, Keys, Parameter, Parameters, Refusal, Request, Signed, SigningKey, Unsignable, Unsigned,
    Verified, adyen, basic, braintree, key::Key, mollie, over_body, paypal, signing::Material, square,
    standard_webhooks, timed,
};

/// A way to sign a webhook. What each one signs, and where that is specified, is in `docs/webhooks.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Stripe: `Stripe-Signature: t=TIME,v1=HEX`, HMAC-SHA256 over `TIME.BODY`.
    Stripe,
    /// Standard Webhooks and Svix: HMAC-SHA256 or Ed25519 over `ID.TIME.BODY`.
    StandardWebhooks,
    /// GitHub: `X-Hub-Signature-256: sha256=HEX`, HMAC-SHA256 over the body.
    Github,
    /// Shopify: `X-Shopify-Hmac-Sha256: BASE64`, or without `X-`, HMAC-SHA256 over the body.
    Shopify,
    /// Square: `x-square-hmacsha256-signature: BASE64`, HMAC-SHA256 over the notification URL and the body.
    Square,
    /// Paddle: `Paddle-Signature: ts=TIME;h1=HEX`, HMAC-SHA256 over `TIME:BODY`.
    Paddle,
    /// Adyen's standard webhooks: a signature in each item of the body, HMAC-SHA256 over eight of its fields.
    Adyen,
    /// Adyen's platform webhooks: `HmacSignature: BASE64`, HMAC-SHA256 over the body.
    AdyenBalance,
    /// PayPal: RSA with SHA-256 over `ID|TIME|WEBHOOK-ID|CRC32-OF-BODY`, by a certificate.
    Paypal,
    /// Braintree: the form fields `bt_signature` and `bt_payload`, HMAC-SHA1 over the payload.
    Braintree,
    /// Mollie's next-generation webhooks: `X-Mollie-Signature: sha256=HEX`, HMAC-SHA256 over the body.
    Mollie,
    /// GoCardless: `Webhook-Signature: HEX`, HMAC-SHA256 over the body.
    Gocardless,
    /// Razorpay: `X-Razorpay-Signature: HEX`, HMAC-SHA256 over the body.
    Razorpay,
    /// HTTP Basic, as Chargebee sends it: a user and a password. Nothing of the webhook is signed.
    Basic,
}

/// What a scheme consists of; each scheme's file holds one.
pub(crate) struct Rules {
    /// Its name in configuration.
    pub(crate) name: &'static str,
    /// How far its time may be from now unless configured; none where it signs no time.
    pub(crate) tolerance: Option<Duration>,
    /// Whether the signature covers an id that stands outside of the body.
    pub(crate) covers_id: bool,
    /// Whether the signature covers the URL.
    pub(crate) covers_url: bool,
    /// What of the body is proven.
    pub(crate) coverage: Coverage,
    /// The headers that a signature stands in or covers, and those that say how; none of them holds a secret.
    pub(crate) headers: &'static [&'static str],
    /// What has to be known besides the secret.
    pub(crate) parameters: &'static [Parameter],
    /// Reads what verifies.
    pub(crate) keys: fn(&[&str], &Parameters) -> Result<Vec<Key>, InvalidKeys>,
    /// Reads what signs.
    pub(crate) signing_key: fn(&str) -> Result<Material, InvalidKeys>,
    /// Everything but the check of the time. The time now is for what expires otherwise, such as a certificate.
    pub(crate) verify: for<'a> fn(&Keys, &Request<'a>, i64) -> Result<Verified<'a>, Refusal>,
    /// The opposite.
    pub(crate) sign: for<'a> fn(&SigningKey, &Unsigned<'a>) -> Result<Signed<'a>, Unsignable>,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 14] = [
        Scheme::Stripe,
        Scheme::StandardWebhooks,
        Scheme::Github,
        Scheme::Shopify,
        Scheme::Square,
        Scheme::Paddle,
        Scheme::Adyen,
        Scheme::AdyenBalance,
        Scheme::Paypal,
        Scheme::Braintree,
        Scheme::Mollie,
        Scheme::Gocardless,
        Scheme::Razorpay,
        Scheme::Basic,
    ];

    pub(crate) fn rules(self) -> &'static Rules {
        match self {
            Scheme::Stripe => &timed::STRIPE,
            Scheme::StandardWebhooks => &standard_webhooks::RULES,
            Scheme::Github => &over_body::GITHUB,
            Scheme::Shopify => &over_body::SHOPIFY,
            Scheme::Square => &square::RULES,
            Scheme::Paddle => &timed::PADDLE,
            Scheme::Adyen => &adyen::RULES,
            Scheme::AdyenBalance => &over_body::ADYEN_BALANCE,
            Scheme::Paypal => &paypal::RULES,
            Scheme::Braintree => &braintree::RULES,
            Scheme::Mollie => &mollie::RULES,
            Scheme::Gocardless => &over_body::GOCARDLESS,
            Scheme::Razorpay => &over_body::RAZORPAY,
            Scheme::Basic => &basic::RULES,
        }
    }

    /// Its name in configuration.
    pub fn name(self) -> &'static str {
        self.rules().name
    }

    /// Whether its signature covers the time of signing, so that an old webhook can be told from a new one.
    pub fn signs_time(self) -> bool {
        self.rules().tolerance.is_some()
    }

    /// How far its time may be from now unless configured; none where it signs no time.
    pub fn default_tolerance(self) -> Option<Duration> {
        self.rules().tolerance
    }

    /// Whether its signature covers an id that stands outside of the body: [`Verified::id`] then holds it.
    pub fn covers_id(self) -> bool {
        self.rules().covers_id
    }

    /// Whether its signature covers the URL, which then has to be known.
    pub fn covers_url(self) -> bool {
        self.rules().covers_url
    }

    /// What of the body a signature proves.
    pub fn coverage(self) -> Coverage {
        self.rules().coverage
    }

    /// The headers that have to be kept for a signature to be checked again, in lower case: those that it stands in or
    /// covers, under each of their names. None of them holds a secret.
    pub fn signed_headers(self) -> &'static [&'static str] {
        self.rules().headers
    }

    /// What has to be known besides the secret, for [`Keys::with_parameters`].
    pub fn parameters(self) -> &'static [Parameter] {
        self.rules().parameters
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|scheme| scheme.name() == name)
            .ok_or(UnknownScheme)
    }
}

/// A name that no scheme has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct UnknownScheme;

impl fmt::Display for UnknownScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no signature scheme has this name; use one of ")?;
        for (index, scheme) in Scheme::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{scheme}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_is_found_by_its_name_and_named_in_the_error() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse(), Ok(scheme));
            assert!(UnknownScheme.to_string().contains(scheme.name()), "{scheme}");
        }
        assert_eq!("Stripe".parse::<Scheme>(), Err(UnknownScheme));
        assert_eq!("".parse::<Scheme>(), Err(UnknownScheme));
    }

    #[test]
    fn what_signs_a_time_has_a_tolerance_that_allows_for_the_network() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.signs_time(), scheme.default_tolerance().is_some());
            assert!(
                scheme
                    .default_tolerance()
                    .is_none_or(|tolerance| tolerance.as_secs() >= 5)
            );
        }
    }
}
