//! The ways to sign a webhook.

use std::{fmt, str::FromStr, time::Duration};

/// A way to sign a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Stripe: `Stripe-Signature: t=TIME,v1=HEX`, HMAC-SHA256 over `TIME.BODY`. The whole secret, `whsec_` included, is
    /// the key. <https://docs.stripe.com/webhooks#verify-manually>
    Stripe,
    /// Standard Webhooks 1.0.0: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64`, HMAC-SHA256 over
    /// `ID.TIME.BODY`. The secret is `whsec_` and the key in base64.
    /// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
    StandardWebhooks,
    /// GitHub: `X-Hub-Signature-256: sha256=HEX`, HMAC-SHA256 over the body. The signature covers neither a time nor an
    /// id nor the event's name.
    /// <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
    Github,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 3] = [Scheme::Stripe, Scheme::StandardWebhooks, Scheme::Github];

    /// Its name in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Stripe => "stripe",
            Scheme::StandardWebhooks => "standard-webhooks",
            Scheme::Github => "github",
        }
    }

    /// Whether its signature covers the time of signing, so that an old webhook can be told from a new one.
    pub fn signs_time(self) -> bool {
        match self {
            Scheme::Stripe | Scheme::StandardWebhooks => true,
            Scheme::Github => false,
        }
    }

    /// How far its time may be from now unless configured: what the scheme's own libraries allow.
    pub fn default_tolerance(self) -> Duration {
        Duration::from_secs(300)
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
#[error("no signature scheme has this name; use one of stripe, standard-webhooks, github")]
pub struct UnknownScheme;

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
}
