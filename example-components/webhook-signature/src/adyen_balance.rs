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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, testing::Case};

    /// The vector of Adyen's own library for Java (adyen-java-api-library, HMACValidatorTest.testCalculateHMAC).
    const SECRET: &str = "9064450A8892A093D9E97EFCC9639DE31B74F3A7803135555A3C96F5A57915D6";
    const HEADER: &str = "HmacSignature";
    const GOOD: &str = "YA9/UDjldIO4Gq68X4ATYYoEaPYH4f4k2uzBBzEF1PA=";

    fn good() -> Case {
        Case::new(Scheme::AdyenBalance, SECRET, &[(HEADER, GOOD)], "TestPayload")
    }

    #[test]
    fn the_vector_is_verified_and_made() {
        good().has_what_all_have("00");
        let case = good();
        let made = case.sign(SECRET, "", 0);
        assert_eq!(
            (made.headers, &*made.body),
            (vec![(SIGNATURE.header, good().headers[0].1.clone())], &*case.body)
        );
    }

    #[test]
    fn a_key_is_hexadecimal_in_either_case() {
        assert!(good().with_secrets(&[&SECRET.to_lowercase()]).check().is_ok());
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
