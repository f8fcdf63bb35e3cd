//! The schemes that sign the body and nothing else, by HMAC-SHA256 in one header: GitHub, Shopify, Adyen's platform
//! webhooks, GoCardless and Razorpay.
//!
//! None of them signs a time: a captured webhook can be sent again at any time. None signs an id, a topic or a shop
//! that stands in a header: those are what the transport says they are. Trust them as far as TLS protects them.

use crate::{
    Coverage, Scheme, adyen,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

/// <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
///
/// `X-Hub-Signature`, the older header with SHA-1, is passed over.
struct Github;

impl OverBody for Github {
    const SIGNATURE: BodySignature = BodySignature {
        scheme: Scheme::Github,
        headers: &["x-hub-signature-256"],
        prefix: "sha256=",
        encoding: Encoding::Hex,
        malformed: "it is not `sha256=` and 64 lower-case hexadecimal digits",
    };
}

/// <https://shopify.dev/docs/apps/build/webhooks/subscribe/https#step-2-validate-the-origin-of-your-webhook-to-ensure-its-coming-from-shopify>
///
/// The key is the app's client secret. Since 2026 the headers may come without `X-`; a webhook has the ones or the others.
struct Shopify;

impl OverBody for Shopify {
    const SIGNATURE: BodySignature =
        BodySignature::base64(Scheme::Shopify, &["x-shopify-hmac-sha256", "shopify-hmac-sha256"]);
}

/// Balance Platform, Management, transfers.
/// <https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures>
///
/// The key is in hexadecimal. The body's `timestamp` is the event's, and stays the same when the webhook is sent again.
struct AdyenBalance;

impl OverBody for AdyenBalance {
    const SIGNATURE: BodySignature = BodySignature::base64(Scheme::AdyenBalance, &["hmacsignature"]);
}

/// <https://developer.gocardless.com/api-reference/#webhooks-signing-webhooks>
struct Gocardless;

impl OverBody for Gocardless {
    const SIGNATURE: BodySignature = BodySignature::hex(Scheme::Gocardless, &["webhook-signature"]);
}

/// <https://razorpay.com/docs/webhooks/validate-test/>
///
/// The id, `x-razorpay-event-id`, is a header that no signature covers.
struct Razorpay;

impl OverBody for Razorpay {
    const SIGNATURE: BodySignature = BodySignature::hex(Scheme::Razorpay, &["x-razorpay-signature"]);
}

pub(crate) const GITHUB: Rules = rules::<Github>("github");
pub(crate) const SHOPIFY: Rules = rules::<Shopify>("shopify");
pub(crate) const GOCARDLESS: Rules = rules::<Gocardless>("gocardless");
pub(crate) const RAZORPAY: Rules = rules::<Razorpay>("razorpay");
pub(crate) const ADYEN_BALANCE: Rules = Rules {
    keys: |secrets, _| key::each(secrets, adyen::key),
    signing_key: |secret| signing::symmetric(adyen::key(secret)),
    ..rules::<AdyenBalance>("adyen-balance")
};

/// Where such a scheme has its signature.
trait OverBody {
    const SIGNATURE: BodySignature;
}

const fn rules<S: OverBody>(name: &'static str) -> Rules {
    Rules {
        name,
        tolerance: None,
        covers_id: false,
        covers_url: false,
        coverage: Coverage::Body,
        headers: S::SIGNATURE.headers,
        parameters: &[],
        keys: key::texts,
        signing_key: signing::text,
        verify: |keys, request, _| S::SIGNATURE.verify(keys, request, b""),
        sign: |key, webhook| S::SIGNATURE.sign(key, webhook, b""),
    }
}

#[cfg(test)]
mod tests;
