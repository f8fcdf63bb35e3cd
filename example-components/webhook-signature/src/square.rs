//! Square: `x-square-hmacsha256-signature: BASE64` over the notification URL and the body, with nothing between them.
//! <https://developer.squareup.com/docs/webhooks/step3validate>
//!
//! The URL is the one the subscription was made with, to the letter. Behind a proxy it is not the one the request shows:
//! give it as `notification-url`. The URL is not the forger's to choose where it is a parameter; where it is the
//! request's, it must match as signed.

use crate::{
    Coverage, Keys, Parameter, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified,
    body::BodySignature, key, scheme::Rules, signing,
};

const NOTIFICATION_URL: &str = "notification-url";

const SIGNATURE: BodySignature = BodySignature::base64(Scheme::Square, &["x-square-hmacsha256-signature"]);

pub(crate) const RULES: Rules = Rules {
    name: "square",
    tolerance: None,
    covers_id: false,
    covers_url: true,
    coverage: Coverage::Body,
    headers: SIGNATURE.headers,
    parameters: &[Parameter::optional(
        NOTIFICATION_URL,
        "the notification URL as the subscription at Square has it; by default the request's own",
    )],
    keys: key::texts,
    signing_key: signing::text,
    verify,
    sign,
};

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let url = keys.parameter(NOTIFICATION_URL).or(request.url).ok_or(Refusal::NoUrl)?;
    SIGNATURE.verify(keys, request, url.as_bytes())
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let url = key
        .parameters
        .get(NOTIFICATION_URL)
        .or(webhook.url)
        .ok_or(Unsignable::NoUrl)?;
    SIGNATURE.sign(key, webhook, url.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Case;

    /// The vector of Square's own libraries (square-go-sdk, square-python-sdk and the others: the tests of WebhooksHelper).
    const SECRET: &str = "Ibxx_5AKakO-3qeNVR61Dw";
    const HEADER: &str = "x-square-hmacsha256-signature";
    const GOOD: &str = "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4=";
    const URL: &str = "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9";
    const BODY: &str = r#"{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification","event_id":"ac3ac95b-f97d-458c-a6e6-18981597e05f","created_at":"2022-07-13T20:30:59.037339943Z","data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}"#;

    fn good() -> Case {
        let mut case = Case::new(Scheme::Square, SECRET, &[(HEADER, GOOD)], BODY);
        case.url = Some(URL);
        case
    }

    #[test]
    fn the_vector_is_verified_and_made() {
        good().has_what_all_have("other");
        good().is_made_again();
    }

    #[test]
    fn a_second_vector_has_characters_that_json_may_escape() {
        let mut case = Case::new(
            Scheme::Square,
            "signature-key",
            &[(HEADER, "Cxt7+aTi4rKgcA0bC4g9EHdVtLSDWdqccmL5MvihU4U=")],
            r#"{"data":{"type":"webhooks","id":">id<"}}"#,
        );
        case.url = Some("https://webhook.site/webhooks");
        assert!(case.check().is_ok());
    }

    #[test]
    fn another_url_is_refused_and_none_too() {
        let mut case = good();
        for url in [
            "http://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9",
            "https://webhook.site/",
            "",
        ] {
            case.url = Some(url);
            assert_eq!(case.check(), Err(Refusal::SignatureMismatch), "{url}");
        }
        case.url = None;
        assert_eq!(case.check(), Err(Refusal::NoUrl));
        let key = SigningKey::parse(Scheme::Square, SECRET).unwrap();
        assert_eq!(crate::sign(&key, &Unsigned::default()), Err(Unsignable::NoUrl));
    }

    #[test]
    fn the_end_of_the_url_can_not_become_the_bodys_beginning_where_the_url_is_configured() {
        // The signature does not say where the URL ends: with the request's own URL, a sender who holds a signed webhook
        // could move the border. The configured URL can't be moved.
        let mut case = good().with_body(format!("9{BODY}"));
        case.url = Some(&URL[..URL.len() - 1]);
        assert!(case.check().is_ok());
        case.parameters = vec![(NOTIFICATION_URL, URL.to_owned())];
        assert_eq!(case.check(), Err(Refusal::SignatureMismatch));
        let mut case = good();
        case.parameters = vec![(NOTIFICATION_URL, URL.to_owned())];
        case.url = Some("http://10.0.0.1/");
        assert!(case.check().is_ok());
    }

    #[test]
    fn what_is_not_in_form_is_refused() {
        good().has_one_base64_signature();
    }
}
