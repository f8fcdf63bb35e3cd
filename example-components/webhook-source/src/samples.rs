//! One sender of each scheme, with a webhook as its vendor would send it: for tests, benchmarks and the documentation.
//!
//! The secrets are here on purpose, and PayPal's certificates are the ones that `webhook-signature` tests with.

use webhook_signature::{Keys, Scheme, Signed, SigningKey, Unsigned};

use crate::{Secrets, Source, setting::Settings};

/// A sender, its source's settings, and one webhook of it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The scheme; the source has its name.
    pub scheme: Scheme,
    /// What it signs with.
    pub signs_with: &'static str,
    /// What its source verifies with.
    pub verifies_with: &'static str,
    /// The settings of its source, all but the scheme and the secret.
    pub settings: &'static [(&'static str, &'static str)],
    /// What its webhook holds before it is signed.
    pub body: &'static str,
    /// The headers that come with it besides those of the signature.
    pub headers: &'static [(&'static str, &'static str)],
    /// What follows the source in its path.
    pub path: &'static str,
    /// The events it makes: tenant, type and, unless a digest is in it, id.
    pub events: &'static [(&'static str, &'static str, &'static str)],
}

const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const HEX: &str = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
const TEXT: &str = "a-secret-for-tests-only";
const PAYPAL_ROOT: &str = include_str!("../../webhook-signature/tests/vectors/paypal/root.pem");
const PAYPAL_KEY: &str = include_str!("../../webhook-signature/tests/vectors/paypal/private-key.pem");
const PAYPAL_CERTIFICATES: &str = concat!(
    include_str!("../../webhook-signature/tests/vectors/paypal/certificate.pem"),
    include_str!("../../webhook-signature/tests/vectors/paypal/intermediate.pem"),
);

/// The URL that Square's webhook is sent to, as Square has it.
pub const SQUARE_URL: &str = "https://hooks.example.com/webhooks/square";

const fn sample(
    scheme: Scheme,
    secret: &'static str,
    settings: &'static [(&'static str, &'static str)],
    body: &'static str,
    events: &'static [(&'static str, &'static str, &'static str)],
) -> Sample {
    Sample {
        scheme,
        signs_with: secret,
        verifies_with: secret,
        settings,
        body,
        headers: &[],
        path: "",
        events,
    }
}

/// One for each scheme, in the order of [`Scheme::ALL`].
pub const SAMPLES: [Sample; 14] = [
    sample(
        Scheme::Stripe,
        "whsec_test_stripe",
        &[
            ("tenant", "pointer:/data/object/metadata/tenant"),
            ("tenants", "acme,globex"),
        ],
        include_str!("../samples/stripe.body"),
        &[("acme", "invoice.paid", "evt_1PqRsT")],
    ),
    sample(
        Scheme::StandardWebhooks,
        STANDARD,
        &[("tenant", "constant:acme")],
        include_str!("../samples/standard-webhooks.body"),
        &[("acme", "contact.created", "msg_sample")],
    ),
    Sample {
        headers: &[
            ("x-github-event", "push"),
            ("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ],
        path: "/acme",
        ..sample(
            Scheme::Github,
            TEXT,
            &[("tenant", "path"), ("tenants", "acme")],
            include_str!("../samples/github.body"),
            &[("acme", "push", "")],
        )
    },
    Sample {
        headers: &[
            ("x-shopify-topic", "orders/create"),
            ("x-shopify-shop-domain", "acme.myshopify.com"),
            ("x-shopify-event-id", "98880550-7158-44d4-b7cd-2c97c8a091b5"),
            ("x-shopify-triggered-at", "2026-01-01T00:00:00.123Z"),
        ],
        ..sample(
            Scheme::Shopify,
            TEXT,
            &[
                ("tenant", "header:x-shopify-shop-domain || header:shopify-shop-domain"),
                ("tenants", "acme.myshopify.com=acme, globex.myshopify.com=globex"),
            ],
            include_str!("../samples/shopify.body"),
            &[("acme", "orders/create", "")],
        )
    },
    sample(
        Scheme::Square,
        TEXT,
        &[
            ("tenant", "pointer:/merchant_id"),
            ("tenants", "MLEFBHHSJGVHD=acme"),
            ("notification-url", SQUARE_URL),
        ],
        include_str!("../samples/square.body"),
        &[("acme", "payment.updated", "13b867cf-db3d-4b1c-90b6-2f32a9d78124")],
    ),
    sample(
        Scheme::Paddle,
        "pdl_ntfset_01gkpjp8bkm3tm53kdgkx6sms7_6h3qd3uFSi9YCD3OLYAShQI90XTI5vEI",
        // Paddle's libraries allow 5 s, which a slow network or a clock that is off exceeds.
        &[("tenant", "pointer:/data/custom_data/tenant"), ("tolerance", "300s")],
        include_str!("../samples/paddle.body"),
        &[("acme", "transaction.completed", "evt_01hv8x29kz0t586xy6zn1a62ny")],
    ),
    sample(
        Scheme::Adyen,
        HEX,
        &[
            ("tenant", "pointer:/merchantAccountCode"),
            ("tenants", "AcmeECOM=acme,GlobexECOM=globex"),
        ],
        include_str!("../samples/adyen.body"),
        &[
            ("acme", "AUTHORISATION", "7914073381342284/AUTHORISATION/true"),
            ("globex", "CAPTURE", "8825408195409505/CAPTURE/false"),
        ],
    ),
    sample(
        Scheme::AdyenBalance,
        HEX,
        &[
            ("tenant", "pointer:/data/balancePlatform"),
            ("tenants", "AcmePlatform=acme"),
        ],
        include_str!("../samples/adyen-balance.body"),
        &[("acme", "balancePlatform.balanceAccount.updated", "")],
    ),
    Sample {
        signs_with: PAYPAL_KEY,
        verifies_with: PAYPAL_CERTIFICATES,
        ..sample(
            Scheme::Paypal,
            "",
            &[
                ("tenant", "pointer:/resource/custom_id"),
                ("webhook-id", "8PT597110X687430LKGECATA"),
                ("root", PAYPAL_ROOT),
            ],
            include_str!("../samples/paypal.body"),
            &[("acme", "PAYMENT.CAPTURE.COMPLETED", "msg_sample")],
        )
    },
    sample(
        Scheme::Braintree,
        "integration_public_key:integration_private_key",
        &[
            ("tenant", "pointer:/notification/source-merchant-id"),
            ("tenants", "acme_merchant=acme"),
        ],
        include_str!("../samples/braintree.body"),
        &[("acme", "subscription_went_past_due", "")],
    ),
    sample(
        Scheme::Mollie,
        TEXT,
        &[("tenant", "constant:acme")],
        include_str!("../samples/mollie.body"),
        &[("acme", "payment-link.paid", "event_GvJ8WHrp5isUdRub9CJyH")],
    ),
    sample(
        Scheme::Gocardless,
        TEXT,
        &[
            ("tenant", "pointer:/links/organisation"),
            ("tenants", "OR00003XKGXG0J=acme,OR00003XKGXG0K=globex"),
        ],
        include_str!("../samples/gocardless.body"),
        &[
            ("acme", "subscriptions.created", "EV00BD05S5VM2T"),
            ("globex", "mandates.created", "EV00BD05TB8K63"),
        ],
    ),
    sample(
        Scheme::Razorpay,
        TEXT,
        &[
            ("tenant", "pointer:/account_id"),
            ("tenants", "acc_BFQ7uQEaa7j2z7=acme"),
        ],
        include_str!("../samples/razorpay.body"),
        &[("acme", "payment.captured", "")],
    ),
    sample(
        Scheme::Basic,
        "chargebee:a-password-for-tests-only",
        &[("tenant", "constant:acme")],
        include_str!("../samples/basic.body"),
        &[("acme", "payment_succeeded", "ev_16BHbhF4s42tO2lK")],
    ),
];

/// The sample of a scheme.
pub fn of(scheme: Scheme) -> Sample {
    let found = SAMPLES.into_iter().find(|sample| sample.scheme == scheme);
    found.expect("there is a sample of every scheme")
}

impl Sample {
    /// The name of its source.
    pub fn name(&self) -> &'static str {
        self.scheme.name()
    }

    /// The path that its webhooks are posted to.
    pub fn target(&self) -> String {
        format!("/webhooks/{}{}", self.name(), self.path)
    }

    /// The settings of its source, with the name of its secret.
    pub fn source_settings(&self) -> Settings {
        let own = [("scheme", self.name()), ("secret-name", self.name())];
        own.iter()
            .chain(self.settings)
            .map(|(key, value)| (format!("source.{}.{key}", self.name()), (*value).to_owned()))
            .collect()
    }

    /// Its source, with more settings, or others, than its own.
    pub fn source(&self, more: &[(&str, &str)]) -> Source {
        let mut settings = self.source_settings();
        for (key, value) in more {
            let key = format!("source.{}.{key}", self.name());
            settings.retain(|(known, _)| *known != key);
            settings.push((key, (*value).to_owned()));
        }
        let source = Source::find(&settings, self.name(), &SampleSecrets);
        source
            .expect("a sample's settings are right")
            .expect("a sample has settings")
    }

    /// What its scheme has to be told besides the secret.
    pub fn parameters(&self) -> Vec<(&'static str, &'static str)> {
        let known = self.scheme.parameters();
        let is_parameter = |name: &str| known.iter().any(|parameter| parameter.name == name);
        self.settings
            .iter()
            .filter(|(name, _)| is_parameter(name))
            .copied()
            .collect()
    }

    /// What its source verifies with.
    pub fn keys(&self) -> Keys {
        Keys::with_parameters(self.scheme, self.verifies_with, &self.parameters()).expect("a sample's keys are right")
    }

    /// Its webhook, or another body of it, signed at a time.
    pub fn signed<'a>(&self, body: &'a [u8], timestamp: i64) -> Signed<'a> {
        let key = SigningKey::with_parameters(self.scheme, self.signs_with, &self.parameters());
        let webhook = Unsigned {
            id: "msg_sample",
            timestamp,
            body,
            url: None,
        };
        webhook_signature::sign(&key.expect("a sample can sign"), &webhook).expect("a sample can be signed")
    }

    /// All headers of a signed webhook.
    pub fn all_headers(&self, signed: &Signed<'_>) -> Vec<(String, String)> {
        let mut headers: Vec<_> = signed
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .chain(
                self.headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            )
            .collect();
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        headers
    }
}

/// Hands out what the samples verify with, by the name of their source.
#[derive(Clone, Copy, Debug)]
pub struct SampleSecrets;

impl Secrets for SampleSecrets {
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        let sample = SAMPLES.iter().find(|sample| sample.name() == name);
        Ok(sample.map(|sample| sample.verifies_with.to_owned()))
    }
}
