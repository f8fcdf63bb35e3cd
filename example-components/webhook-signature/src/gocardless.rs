//! GoCardless: `Webhook-Signature: HEX` over the body, which holds many events.
//! <https://developer.gocardless.com/api-reference/#webhooks-signing-webhooks>
//!
//! Nothing but the body is signed, and it holds no time of signing.

use crate::{
    Coverage, Scheme,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Gocardless,
    header: "webhook-signature",
    prefix: "",
    encoding: Encoding::Hex,
    malformed: "it is not 64 lower-case hexadecimal digits",
};

pub(crate) const RULES: Rules = Rules {
    name: "gocardless",
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
