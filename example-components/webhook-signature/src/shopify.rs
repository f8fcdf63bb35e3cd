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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, testing::Case};

    /// Made with `openssl dgst -sha256 -hmac hush -binary | base64`: Shopify publishes none with its secret.
    const SECRET: &str = "hush";
    const HEADER: &str = "X-Shopify-Hmac-Sha256";
    const GOOD: &str = "gtPhVzwalO5wwOen0RsrC5+qBBLb8l1ByAzpN+a6shU=";

    fn good() -> Case {
        let body = r#"{"id":820982911946154508,"email":"jon@example.com","total_price":"254.98"}"#;
        Case::new(Scheme::Shopify, SECRET, &[(HEADER, GOOD)], body)
    }

    #[test]
    fn the_vector_is_verified_and_made() {
        good().has_what_all_have("other");
        let case = good();
        let made = case.sign(SECRET, "", 0);
        assert_eq!(
            (made.headers, &*made.body),
            (vec![(SIGNATURE.header, good().headers[0].1.clone())], &*case.body)
        );
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let unpadded = GOOD.trim_end_matches('=');
        let hexadecimal = "0".repeat(64);
        let values = [
            "",
            unpadded,
            &GOOD[4..],
            &format!("{GOOD} "),
            &format!("{GOOD}{GOOD}"),
            &hexadecimal,
            &format!("sha256={GOOD}"),
            &GOOD.replace('=', "-"),
        ];
        good().refuses_as_malformed(HEADER, &values);
        assert_eq!(
            good()
                .with_header(HEADER, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
                .check(),
            Err(Refusal::SignatureMismatch)
        );
    }
}
