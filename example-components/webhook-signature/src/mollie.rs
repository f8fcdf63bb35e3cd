//! Mollie's next-generation webhooks: `X-Mollie-Signature: sha256=HEX` over the body, with and without the prefix.
//! <https://docs.mollie.com/reference/webhooks-best-practices>
//!
//! While a secret is being rotated the header comes twice, one signature for each secret; what a proxy has joined by a
//! comma is read too. Nothing but the body is signed. Mollie's older webhooks carry no signature: they are refused.

use crate::{
    Coverage, Keys, Refusal, Request, Scheme, Verified,
    body::{self, BodySignature, Encoding},
    header, key,
    mac::Tags,
    scheme::Rules,
    signing,
};

const PREFIX: &str = "sha256=";

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Mollie,
    header: "x-mollie-signature",
    prefix: "",
    encoding: Encoding::Hex,
    malformed: "it is not `sha256=` and 64 lower-case hexadecimal digits",
};

pub(crate) const RULES: Rules = Rules {
    name: "mollie",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[],
    keys: key::texts,
    signing_key: signing::text,
    verify,
    sign: |key, webhook| {
        BodySignature {
            prefix: PREFIX,
            ..SIGNATURE
        }
        .sign(key, webhook, b"")
    },
};

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let header = SIGNATURE.header;
    let mut tags = Tags::default();
    for value in header::each(request, header) {
        for text in value?.split(',') {
            let text = text.trim_matches(' ');
            let tag = SIGNATURE.read(text.strip_prefix(PREFIX).unwrap_or(text))?;
            if !tags.push(tag) {
                let problem = "it holds too many signatures";
                return Err(Refusal::MalformedHeader { header, problem });
            }
        }
    }
    if tags.is_empty() {
        return Err(Refusal::MissingHeader { header });
    }
    body::proven(SIGNATURE.scheme, keys, request, &tags, &[request.body])
}
