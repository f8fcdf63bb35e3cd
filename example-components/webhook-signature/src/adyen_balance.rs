//! Adyen's platform webhooks (Balance Platform, Management, transfers): `HmacSignature: BASE64` over the body; the key is
//! in hexadecimal.
//! <https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures>
//!
//! Nothing but the body is signed. Its `timestamp` is the event's, and stays the same when the webhook is sent again.

use crate::{
    Coverage, Scheme, adyen,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::AdyenBalance,
    header: "hmacsignature",
    prefix: "",
    encoding: Encoding::Base64,
    malformed: "it is not 32 bytes in base64",
};

pub(crate) const RULES: Rules = Rules {
    name: "adyen-balance",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[],
    keys: |secrets, _| key::each(secrets, adyen::key),
    signing_key: |secret| signing::symmetric(adyen::key(secret)),
    verify: |keys, request, _| SIGNATURE.verify(keys, request, b""),
    sign: |key, webhook| SIGNATURE.sign(key, webhook, b""),
};
