//! GitHub: `X-Hub-Signature-256: sha256=HEX` over the body.
//!
//! Nothing but the body is signed: `X-GitHub-Delivery` (the id) and `X-GitHub-Event` (the type) are what the transport
//! says they are, and a captured webhook can be sent again at any time. Trust them as far as TLS protects them.

use crate::{Key, Keys, Refusal, Request, Scheme, Unsigned, Verified, header, mac, mac::Tags};

const HEADER: &str = "x-hub-signature-256";
const PREFIX: &str = "sha256=";

pub(crate) fn verify<'a>(keys: &Keys, request: &Request<'a>) -> Result<Verified<'a>, Refusal> {
    let malformed = Refusal::MalformedHeader {
        header: HEADER,
        problem: "it is not `sha256=` and 64 lower-case hexadecimal digits",
    };
    let tag = header::only(request, HEADER)?
        .strip_prefix(PREFIX)
        .and_then(mac::from_hex)
        .ok_or(malformed.clone())?;
    let mut tags = Tags::default();
    if !tags.push(tag) {
        return Err(malformed);
    }
    let key = tags.made_by(keys, &[request.body]).ok_or(Refusal::SignatureMismatch)?;
    Ok(Verified {
        scheme: Scheme::Github,
        key,
        id: None,
        timestamp: None,
    })
}

pub(crate) fn sign(key: &Key, webhook: &Unsigned<'_>) -> Vec<(&'static str, String)> {
    vec![(
        HEADER,
        format!("{PREFIX}{}", hex::encode(mac::tag(key, &[webhook.body]))),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    // The vector of GitHub's documentation, "Testing the webhook payload validation".
    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const GOOD: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn check(secret: &str, signature: &str, body: &[u8]) -> Result<usize, Refusal> {
        let keys = Keys::from(Key::new(Scheme::Github, secret).unwrap());
        let headers = [
            ("X-Hub-Signature-256", signature.as_bytes()),
            ("X-Hub-Signature", b"sha1=ignored".as_slice()),
        ];
        let verified = verify(&keys, &Request::new(&headers, body))?;
        assert_eq!((verified.id, verified.timestamp), (None, None));
        Ok(verified.key)
    }

    #[test]
    fn the_documented_vector_is_verified_and_made() {
        assert_eq!(check(SECRET, GOOD, BODY), Ok(0));
        let key = Key::new(Scheme::Github, SECRET).unwrap();
        assert_eq!(
            sign(
                &key,
                &Unsigned {
                    id: "",
                    timestamp: 0,
                    body: BODY
                }
            ),
            [(HEADER, GOOD.to_owned())]
        );
    }

    #[test]
    fn a_rotation_says_which_key_matched() {
        let keys = ["new", SECRET].map(|secret| Key::new(Scheme::Github, secret).unwrap());
        let keys = Keys::new(keys.to_vec()).unwrap();
        let headers = [(HEADER, GOOD.as_bytes())];
        assert_eq!(verify(&keys, &Request::new(&headers, BODY)).unwrap().key, 1);
    }

    #[test]
    fn what_was_not_signed_is_refused() {
        assert_eq!(check("other", GOOD, BODY), Err(Refusal::SignatureMismatch));
        assert_eq!(
            check(SECRET, &GOOD.replace("=7", "=6"), BODY),
            Err(Refusal::SignatureMismatch)
        );
        assert_eq!(check(SECRET, GOOD, b"Hello, World"), Err(Refusal::SignatureMismatch));
        assert_eq!(check(SECRET, GOOD, b""), Err(Refusal::SignatureMismatch));
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let upper = GOOD.to_uppercase().replace("SHA256", "sha256");
        for signature in [
            "",
            "sha256=",
            &GOOD[7..],
            &GOOD.replace("sha256", "sha1"),
            &upper,
            &format!("{GOOD},{GOOD}"),
        ] {
            let refusal = check(SECRET, signature, BODY).unwrap_err();
            assert!(
                matches!(refusal, Refusal::MalformedHeader { header: HEADER, .. }),
                "{signature:?}: {refusal:?}"
            );
        }
        let keys = Keys::from(Key::new(Scheme::Github, SECRET).unwrap());
        assert_eq!(
            verify(&keys, &Request::new(&[], BODY)),
            Err(Refusal::MissingHeader { header: HEADER })
        );
    }
}
