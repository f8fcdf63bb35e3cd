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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, testing::Case};

    /// The vector of GoCardless's own library for Ruby (gocardless-pro-ruby, webhook_spec.rb): two events in one webhook.
    const SECRET: &str = "ED7D658C-D8EB-4941-948B-3973214F2D49";
    const HEADER: &str = "Webhook-Signature";
    const GOOD: &str = "2693754819d3e32d7e8fcb13c729631f316c6de8dc1cf634d6527f1c07276e7e";
    const GOOD_DIGIT: &str = "2";

    fn good() -> Case {
        let body = include_str!("../tests/vectors/gocardless.json");
        Case::new(Scheme::Gocardless, SECRET, &[(HEADER, GOOD)], body)
    }

    #[test]
    fn the_vector_is_verified_and_made() {
        good().has_what_all_have("foo");
        let case = good();
        let made = case.sign(SECRET, "", 0);
        assert_eq!(
            (made.headers, &*made.body),
            (vec![(SIGNATURE.header, good().headers[0].1.clone())], &*case.body)
        );
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let upper = GOOD.to_uppercase();
        let values = [
            "",
            &GOOD[2..],
            &format!("{GOOD}ab"),
            &upper,
            &GOOD.replace(GOOD_DIGIT, "g"),
            &format!(" {GOOD}"),
            &format!("{GOOD},{GOOD}"),
            &format!("sha256={GOOD}"),
        ];
        good().refuses_as_malformed(HEADER, &values);
        assert_eq!(
            good().with_header(HEADER, &"0".repeat(64)).check(),
            Err(Refusal::SignatureMismatch)
        );
    }
}
