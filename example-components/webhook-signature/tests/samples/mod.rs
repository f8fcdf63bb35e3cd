//! A sender and a receiver of each scheme, for tests, benchmarks and fuzzing: everything that a webhook needs to be made
//! and verified, from a few bytes that make the secrets differ.

#![allow(unreachable_pub, reason = "several crates include this file")]
#![allow(dead_code, reason = "not each of them needs all of it")]

use webhook_signature::{InvalidKeys, Keys, Scheme, SigningKey};

const ROOT: &str = include_str!("../vectors/paypal/root.pem");
const CERTIFICATE: &str = include_str!("../vectors/paypal/certificate.pem");
const INTERMEDIATE: &str = include_str!("../vectors/paypal/intermediate.pem");
const PRIVATE_KEY: &str = include_str!("../vectors/paypal/private-key.pem");

/// The secrets and parameters of one sender.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its scheme.
    pub scheme: Scheme,
    /// What it signs with.
    pub signs_with: String,
    /// What its receiver verifies with.
    pub verifies_with: String,
    /// What both know besides.
    pub parameters: Vec<(&'static str, String)>,
}

impl Sample {
    /// A sender of this scheme. Its secret depends on `seed`, of hexadecimal digits; PayPal's webhook id does.
    pub fn new(scheme: Scheme, seed: &str) -> Self {
        let secret = match scheme {
            // Hexadecimal digits are base64 too, in groups of four.
            Scheme::StandardWebhooks => format!("whsec_{}", &seed[..seed.len() / 4 * 4]),
            Scheme::Basic | Scheme::Braintree => format!("public:{seed}"),
            _ => seed.to_owned(),
        };
        let (signs_with, verifies_with) = match scheme {
            Scheme::Paypal => (PRIVATE_KEY.to_owned(), format!("{CERTIFICATE}{INTERMEDIATE}")),
            _ => (secret.clone(), secret),
        };
        let parameters = match scheme {
            Scheme::Paypal => vec![("webhook-id", seed.to_owned()), ("root", ROOT.to_owned())],
            _ => Vec::new(),
        };
        Self {
            scheme,
            signs_with,
            verifies_with,
            parameters,
        }
    }

    /// A sender of Standard Webhooks that signs with Ed25519: the pair of Svix's own tests.
    pub fn asymmetric() -> Self {
        let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        Self {
            scheme: Scheme::StandardWebhooks,
            signs_with: private.to_owned(),
            verifies_with: "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=".to_owned(),
            parameters: Vec::new(),
        }
    }

    /// What it signs with.
    pub fn signing_key(&self) -> SigningKey {
        let parameters = self.parameters();
        SigningKey::with_parameters(self.scheme, &self.signs_with, &parameters).expect("a sample can sign")
    }

    /// What its receiver verifies with.
    pub fn keys(&self) -> Result<Keys, InvalidKeys> {
        Keys::with_parameters(self.scheme, &self.verifies_with, &self.parameters())
    }

    fn parameters(&self) -> Vec<(&str, &str)> {
        self.parameters
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect()
    }
}

/// A body that the scheme can sign, with `filler` in it.
pub fn body(scheme: Scheme, filler: &str) -> Vec<u8> {
    let filler = filler.escape_default();
    match scheme {
        Scheme::Adyen => format!(
            r#"{{"live":"false","notificationItems":[{{"NotificationRequestItem":{{"additionalData":{{"x":"{filler}"}},"amount":{{"currency":"EUR","value":1130}},"eventCode":"AUTHORISATION","merchantAccountCode":"Merchant","merchantReference":"a:b","pspReference":"7914073381342284","success":"true"}}}},{{"NotificationRequestItem":{{"amount":{{"currency":"EUR","value":0}},"eventCode":"REPORT_AVAILABLE","merchantAccountCode":"Merchant","merchantReference":"","pspReference":"report_2026-01-01T00:00:00.csv","success":"true"}}}}]}}"#
        ),
        _ => format!(r#"{{"id":"evt_1","type":"invoice.paid","x":"{filler}"}}"#),
    }
    .into_bytes()
}
