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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Refusal, testing::Case};

    /// The vector of GitHub's documentation, "Testing the webhook payload validation".
    const SECRET: &str = "It's a Secret to Everybody";
    const HEADER: &str = "X-Hub-Signature-256";
    const GOOD: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn good() -> Case {
        Case::new(Scheme::Github, SECRET, &[(HEADER, GOOD)], "Hello, World!")
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
    fn the_older_header_with_sha1_is_passed_over() {
        let mut case = good();
        case.headers.push(("X-Hub-Signature", "sha1=ignored".to_owned()));
        assert_eq!(case.check().unwrap().key, 0);
        case.headers.remove(0);
        assert_eq!(
            case.check(),
            Err(Refusal::MissingHeader {
                header: SIGNATURE.header
            })
        );
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let upper = GOOD.to_uppercase().replace("SHA256", "sha256");
        let values = [
            "",
            "sha256=",
            &GOOD[7..],
            &GOOD.replace("sha256", "sha1"),
            &GOOD.replace("sha256", "SHA256"),
            &upper,
            &format!("{GOOD},{GOOD}"),
        ];
        good().refuses_as_malformed(HEADER, &values);
        let other = GOOD.replace("=7", "=6");
        assert_eq!(
            good().with_header(HEADER, &other).check(),
            Err(Refusal::SignatureMismatch)
        );
    }
}
