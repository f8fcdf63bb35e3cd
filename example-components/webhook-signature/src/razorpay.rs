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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, testing::Case};

    /// The vector of Razorpay's own library for Python (razorpay-python, test_client_utility.py).
    const SECRET: &str = "key_secret";
    const HEADER: &str = "X-Razorpay-Signature";
    const GOOD: &str = "d60e67fd884556c045e9be7dad57903e33efc7172c17c6e3ef77db42d2b366e9";
    const GOOD_DIGIT: &str = "d";

    fn good() -> Case {
        let body = include_str!("../tests/vectors/razorpay.json");
        Case::new(Scheme::Razorpay, SECRET, &[(HEADER, GOOD)], body)
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
