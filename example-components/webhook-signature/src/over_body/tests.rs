use crate::{Refusal, Scheme, testing::Case};

/// A scheme's webhook as it was signed, and a secret that signed nothing.
struct Vector {
    case: Case,
    other: &'static str,
}

/// The secret and the body of "Testing the webhook payload validation" in GitHub's documentation.
fn github() -> Vector {
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let headers = [("X-Hub-Signature-256", signature)];
    Vector {
        case: Case::new(Scheme::Github, "It's a Secret to Everybody", &headers, "Hello, World!"),
        other: "other",
    }
}

/// Made with `openssl dgst -sha256 -hmac hush -binary | base64`: Shopify publishes none with its secret.
fn shopify() -> Vector {
    let headers = [("X-Shopify-Hmac-Sha256", "gtPhVzwalO5wwOen0RsrC5+qBBLb8l1ByAzpN+a6shU=")];
    let body = r#"{"id":820982911946154508,"email":"jon@example.com","total_price":"254.98"}"#;
    Vector {
        case: Case::new(Scheme::Shopify, "hush", &headers, body),
        other: "other",
    }
}

/// The vector of Adyen's own library for Java (adyen-java-api-library, HMACValidatorTest.testCalculateHMAC).
fn adyen_balance() -> Vector {
    let secret = "9064450A8892A093D9E97EFCC9639DE31B74F3A7803135555A3C96F5A57915D6";
    let headers = [("HmacSignature", "YA9/UDjldIO4Gq68X4ATYYoEaPYH4f4k2uzBBzEF1PA=")];
    Vector {
        case: Case::new(Scheme::AdyenBalance, secret, &headers, "TestPayload"),
        other: "01",
    }
}

/// The vector of GoCardless's own library for Ruby (gocardless-pro-ruby, webhook_spec.rb): two events in one webhook.
fn gocardless() -> Vector {
    let signature = "2693754819d3e32d7e8fcb13c729631f316c6de8dc1cf634d6527f1c07276e7e";
    let headers = [("Webhook-Signature", signature)];
    let body = include_str!("../../tests/vectors/gocardless.json");
    Vector {
        case: Case::new(
            Scheme::Gocardless,
            "ED7D658C-D8EB-4941-948B-3973214F2D49",
            &headers,
            body,
        ),
        other: "foo",
    }
}

/// The vector of Razorpay's own library for Python (razorpay-python, test_client_utility.py).
fn razorpay() -> Vector {
    let signature = "d60e67fd884556c045e9be7dad57903e33efc7172c17c6e3ef77db42d2b366e9";
    let headers = [("X-Razorpay-Signature", signature)];
    let body = include_str!("../../tests/vectors/razorpay.json");
    Vector {
        case: Case::new(Scheme::Razorpay, "key_secret", &headers, body),
        other: "other",
    }
}

fn each() -> [Vector; 5] {
    [github(), shopify(), adyen_balance(), gocardless(), razorpay()]
}

#[test]
fn the_vectors_are_verified_and_made() {
    for Vector { case, other } in each() {
        case.has_what_all_have(other);
        case.is_made_again();
    }
}

#[test]
fn what_is_not_in_form_is_refused() {
    gocardless().case.has_one_hexadecimal_signature();
    razorpay().case.has_one_hexadecimal_signature();
    shopify().case.has_one_base64_signature();
    adyen_balance().case.has_one_base64_signature();

    let Vector { case, .. } = github();
    let (header, good) = case.headers[0].clone();
    let values = [
        "",
        "sha256=",
        &good[7..],
        &good.replace("sha256", "sha1"),
        &good.replace("sha256", "SHA256"),
        &good.to_uppercase().replace("SHA256", "sha256"),
        &format!("{good},{good}"),
    ];
    case.refuses_as_malformed(header, &values);
    let other = case.with_header(header, &good.replace("=7", "=6"));
    assert_eq!(other.check(), Err(Refusal::SignatureMismatch));
}

#[test]
fn githubs_older_header_with_sha1_is_passed_over() {
    let Vector { mut case, .. } = github();
    case.headers.push(("X-Hub-Signature", "sha1=ignored".to_owned()));
    assert_eq!(case.check().unwrap().key, 0);
    case.headers.remove(0);
    let header = "x-hub-signature-256";
    assert_eq!(case.check(), Err(Refusal::MissingHeader { header }));
}

/// Since 2026 Shopify may leave out the `X-`.
#[test]
fn shopifys_header_has_two_names_and_a_webhook_one_of_them() {
    let Vector { case, other } = shopify();
    let mut without = case.clone();
    without.headers[0].0 = "shopify-hmac-sha256";
    assert_eq!(without.check().unwrap(), case.check().unwrap());
    without.has_one_base64_signature();
    assert_eq!(without.with_secrets(&[other]).check(), Err(Refusal::SignatureMismatch));
    let good = case.headers[0].1.clone();
    for second in [good.as_str(), "", "other"] {
        let mut both = case.clone();
        both.headers.push(("Shopify-Hmac-Sha256", second.to_owned()));
        let expected = Refusal::MixedHeaders {
            header: "x-shopify-hmac-sha256",
            other: "shopify-hmac-sha256",
        };
        assert_eq!(both.check(), Err(expected), "{second}");
    }
    without.headers.push(("shopify-hmac-sha256", good));
    let header = "shopify-hmac-sha256";
    assert_eq!(without.check(), Err(Refusal::RepeatedHeader { header }));
}

#[test]
fn adyens_key_is_hexadecimal_in_either_case() {
    let Vector { case, .. } = adyen_balance();
    let lower = case.secrets[0].to_lowercase();
    assert!(case.with_secrets(&[&lower]).check().is_ok());
}
