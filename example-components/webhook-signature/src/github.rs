//! GitHub: `X-Hub-Signature-256: sha256=HEX` over the body.
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
//!
//! Nothing but the body is signed: `X-GitHub-Delivery` (the id) and `X-GitHub-Event` (the type) are what the transport
//! says they are, and a captured webhook can be sent again at any time. Trust them as far as TLS protects them.

use crate::{
    Coverage, Scheme,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Github,
    header: "x-hub-signature-256",
    prefix: "sha256=",
    encoding: Encoding::Hex,
    malformed: "it is not `sha256=` and 64 lower-case hexadecimal digits",
};

pub(crate) const RULES: Rules = Rules {
    name: "github",
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
