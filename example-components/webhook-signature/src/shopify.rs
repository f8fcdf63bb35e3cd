//! Shopify: `X-Shopify-Hmac-Sha256: BASE64` over the body; the key is the app's client secret.
//! <https://shopify.dev/docs/apps/build/webhooks/subscribe/https#step-2-validate-the-origin-of-your-webhook-to-ensure-its-coming-from-shopify>
//!
//! Nothing but the body is signed: the shop, the topic and the webhook's id are headers that no signature covers.

use crate::{
    Coverage, Scheme,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Shopify,
    header: "x-shopify-hmac-sha256",
    prefix: "",
    encoding: Encoding::Base64,
    malformed: "it is not 32 bytes in base64",
};

pub(crate) const RULES: Rules = Rules {
    name: "shopify",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[],
    keys: key::texts,
    signing_key: signing::text,
    verify: |keys, request, _| SIGNATURE.verify(keys, request, b""),
    sign: |key, webhook| SIGNATURE.sign(key, webhook, b""),
};
