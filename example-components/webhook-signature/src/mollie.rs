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

const HEADER: &str = "x-mollie-signature";
const PREFIX: &str = "sha256=";

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Mollie,
    headers: &[HEADER],
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
    headers: SIGNATURE.headers,
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
    let header = HEADER;
    let mut tags = Tags::default();
    for value in header::each(request, header) {
        for text in value?.split(',') {
            let text = text.trim_matches(' ');
            let tag = SIGNATURE.read(header, text.strip_prefix(PREFIX).unwrap_or(text))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, testing::Case};

    /// The secrets and the payload of Mollie's own library for PHP (mollie-api-php, SignatureValidatorTest.php), which
    /// computes its signatures as it runs; these are made with `openssl dgst -sha256 -hmac`.
    const SECRET: &str = "test_webhook_secret";
    const ALTERNATE_SECRET: &str = "alternate_webhook_secret";
    const HEADER: &str = "X-Mollie-Signature";
    const GOOD: &str = "sha256=e479a5e4aaa17db94cfc546071e10e91c0b37f21e464e751ebdd7d7ad2ffd146";
    const ALTERNATE: &str = "sha256=d9a3b662172fdc140ac73ce937f49edcb72552dfbb8dfeb1696118a2c18386ef";

    fn good() -> Case {
        let body = r#"{"id":"tr_12345","event_type":"payment-link.paid"}"#;
        Case::new(Scheme::Mollie, SECRET, &[(HEADER, GOOD)], body)
    }

    #[test]
    fn the_vector_is_verified_and_made() {
        good().has_what_all_have("other");
        good().is_made_again();
    }

    #[test]
    fn the_prefix_may_be_missing() {
        assert_eq!(good().with_header(HEADER, &GOOD[7..]).check().unwrap().key, 0);
    }

    #[test]
    fn a_rotation_has_two_signatures_in_two_headers_or_joined() {
        let mut twice = good().with_header(HEADER, ALTERNATE);
        twice.headers.push((HEADER, GOOD.to_owned()));
        let joined = good().with_header(HEADER, &format!("{ALTERNATE}, {GOOD}"));
        for case in [twice, joined] {
            assert_eq!(case.check().unwrap().key, 0);
            assert_eq!(case.with_secrets(&["new", ALTERNATE_SECRET]).check().unwrap().key, 1);
            assert_eq!(case.with_secrets(&["new"]).check(), Err(Refusal::SignatureMismatch));
        }
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let upper = GOOD[7..].to_uppercase();
        let many = [GOOD; crate::mac::MAX_TAGS + 1].join(",");
        let values = [
            "",
            ",",
            "sha256=",
            &GOOD[..70],
            &upper,
            &format!("{GOOD},"),
            &format!("invalid_signature,{GOOD}"),
            &many,
        ];
        good().refuses_as_malformed(HEADER, &values);
    }
}
