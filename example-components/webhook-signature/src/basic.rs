//! HTTP Basic, as Chargebee sends it: `Authorization: Basic BASE64` of `USER:PASSWORD`.
//! <https://www.chargebee.com/docs/2.0/webhook_settings.html> and <https://datatracker.ietf.org/doc/html/rfc7617>
//!
//! Nothing is signed. Who knows the password can send anything, so that what is proven is who sends, as far as TLS keeps
//! the password secret.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    Coverage, InvalidKey, InvalidKeys, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable,
    Unsigned, Verified, header,
    key::{self, Key},
    mac::Found,
    scheme::Rules,
    signing::Material,
};

const HEADER: &str = "authorization";

pub(crate) const RULES: Rules = Rules {
    name: "basic",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Sender,
    headers: &[],
    parameters: &[],
    keys: |secrets, _| key::each(secrets, read),
    signing_key: |secret| match read(secret) {
        Ok(_) => Ok(Material::Credential(secret.into())),
        Err(source) => Err(InvalidKeys::Key { place: 1, source }),
    },
    verify,
    sign,
};

/// The hash of a user and a password: of one length whatever their lengths, to be compared in constant time.
#[derive(Clone, Copy)]
pub(crate) struct Credential([u8; 32]);

impl Credential {
    fn new(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }
}

fn read(secret: &str) -> Result<Key, InvalidKey> {
    match secret.split_once(':') {
        Some((_, "")) => Err(InvalidKey::Empty),
        Some(_) => Ok(Key::Credential(Credential::new(secret.as_bytes()))),
        None => Err(InvalidKey::Malformed {
            expected: "`USER:PASSWORD`",
        }),
    }
}

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let given = header::only(request, HEADER)?;
    let given = given
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Basic"))
        .and_then(|(_, credential)| STANDARD.decode(credential).ok())
        .ok_or(Refusal::MalformedHeader {
            header: HEADER,
            problem: "it is not `Basic ` and base64",
        })?;
    let given = Credential::new(&given);
    let mut found = Found::default();
    for (index, key) in (0_u32..).zip(keys.iter()) {
        if let Key::Credential(credential) = key {
            found.note(index, credential.0.ct_eq(&given.0));
        }
    }
    Ok(Verified {
        scheme: Scheme::Basic,
        key: found.index().ok_or(Refusal::SignatureMismatch)?,
        id: None,
        timestamp: None,
        proven: Proven::Sender,
    })
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let Material::Credential(credential) = &key.material else {
        unreachable!("basic reads no other key")
    };
    let value = format!("Basic {}", STANDARD.encode(credential.as_bytes()));
    Ok(Signed::headers(vec![(HEADER, value)], webhook))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    /// The example of RFC 7617, section 2, with a password that holds a space.
    const SECRET: &str = "Aladdin:open sesame";
    const GOOD: &str = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";

    fn good() -> Case {
        Case::new(Scheme::Basic, SECRET, &[("Authorization", GOOD)], r#"{"id":"ev_1"}"#)
    }

    #[test]
    fn the_example_of_the_rfc_is_verified_and_made() {
        let verified = good().check().unwrap();
        assert_eq!((verified.key, verified.proven), (0, None));
        assert_eq!(good().sign(SECRET, "", 0).headers, [(HEADER, GOOD.to_owned())]);
        assert!(
            good()
                .with_header("Authorization", &GOOD.replace("Basic", "basic"))
                .check()
                .is_ok()
        );
    }

    #[test]
    fn nothing_of_the_webhook_is_signed() {
        assert_eq!(good().with_body("something else").check(), good().check());
    }

    #[test]
    fn a_rotation_says_which_credential_matched() {
        assert_eq!(good().with_secrets(&["Aladdin:new", SECRET]).check().unwrap().key, 1);
        assert_eq!(good().with_secrets(&[SECRET, "Aladdin:new"]).check().unwrap().key, 0);
    }

    #[test]
    fn another_user_and_another_password_are_refused() {
        for secret in [
            "aladdin:open sesame",
            "Aladdin:open",
            "Aladdin:open sesame ",
            "Aladdi:nopen sesame",
        ] {
            assert_eq!(
                good().with_secrets(&[secret]).check(),
                Err(Refusal::SignatureMismatch),
                "{secret}"
            );
        }
        // `Aladdin:`, `:open sesame` and nothing.
        for value in ["Basic QWxhZGRpbjo=", "Basic Om9wZW4gc2VzYW1l", "Basic "] {
            assert_eq!(
                good().with_header("Authorization", value).check(),
                Err(Refusal::SignatureMismatch),
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        let values = [
            "",
            "Basic",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basic  QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ",
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZR==",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ];
        good().refuses_as_malformed("Authorization", &values);
        let mut case = good();
        case.headers.push(("authorization", GOOD.to_owned()));
        assert_eq!(case.check(), Err(Refusal::RepeatedHeader { header: HEADER }));
        case.headers.clear();
        assert_eq!(case.check(), Err(Refusal::MissingHeader { header: HEADER }));
    }

    #[test]
    fn a_secret_is_a_user_and_a_password() {
        let refusal = |secret| read(secret).err();
        assert_eq!(refusal("user:"), Some(InvalidKey::Empty));
        assert_eq!(refusal(":"), Some(InvalidKey::Empty));
        assert!(matches!(refusal("user"), Some(InvalidKey::Malformed { .. })));
        assert_eq!(refusal("user:pass:word"), None);
    }
}
