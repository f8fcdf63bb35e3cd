//! Razorpay: `X-Razorpay-Signature: HEX` over the body.
//! <https://razorpay.com/docs/webhooks/validate-test/>
//!
//! Nothing but the body is signed: the id, `x-razorpay-event-id`, is a header that no signature covers.

use crate::{
    Coverage, Scheme,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Razorpay,
    header: "x-razorpay-signature",
    prefix: "",
    encoding: Encoding::Hex,
    malformed: "it is not 64 lower-case hexadecimal digits",
};

pub(crate) const RULES: Rules = Rules {
    name: "razorpay",
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
