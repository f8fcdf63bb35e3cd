use super::*;
use crate::{InvalidKey, InvalidKeys, Keys, Refusal, Scheme, SigningKey, Unsigned, testing::Case};

// The webhook is that of PayPal's own libraries' tests (PayPal-Python-SDK, PayPal-Ruby-SDK); the signature there is of a
// certificate that is long gone. Here it is signed with `openssl dgst -sha256 -sign` by the tests' own certificates.
const BODY: &str = include_str!("../../tests/vectors/paypal/event.json");
const ROOT_PEM: &str = include_str!("../../tests/vectors/paypal/root.pem");
const OTHER_ROOT: &str = include_str!("../../tests/vectors/paypal/other-root.pem");
const INTERMEDIATE: &str = include_str!("../../tests/vectors/paypal/intermediate.pem");
const CERTIFICATE: &str = include_str!("../../tests/vectors/paypal/certificate.pem");
const SHORT_LIVED: &str = include_str!("../../tests/vectors/paypal/short-lived.pem");
const OTHER_NAME: &str = include_str!("../../tests/vectors/paypal/other-name.pem");
const PRIVATE_KEY: &str = include_str!("../../tests/vectors/paypal/private-key.pem");
const GOOD: &str = include_str!("../../tests/vectors/paypal/certificate.sig");
const BY_SHORT_LIVED: &str = include_str!("../../tests/vectors/paypal/short-lived.sig");

const ID: &str = "dfb3be50-fd74-11e4-8bf3-77339302725b";
const TIME: &str = "2025-05-18T15:45:13Z";
const NOW: i64 = 1_747_583_113;
const WEBHOOK: &str = "4JH86294D6297924G";

const NAMES: [&str; 4] = [
    "PAYPAL-TRANSMISSION-ID",
    "PAYPAL-TRANSMISSION-TIME",
    "PAYPAL-TRANSMISSION-SIG",
    "PAYPAL-AUTH-ALGO",
];

fn good() -> Case {
    let values = [ID, TIME, GOOD, "SHA256withRSA"];
    let headers: Vec<_> = NAMES.into_iter().zip(values).collect();
    let chain = format!("{CERTIFICATE}{INTERMEDIATE}");
    let mut case = Case::new(Scheme::Paypal, &chain, &headers, BODY).at(NOW);
    case.parameters = vec![(WEBHOOK_ID, WEBHOOK.to_owned()), (ROOT, ROOT_PEM.to_owned())];
    case
}

fn with_parameter(name: &'static str, value: &str) -> Case {
    let mut case = good();
    case.parameters.retain(|(known, _)| *known != name);
    case.parameters.push((name, value.to_owned()));
    case
}

/// What PayPal's own libraries' tests expect to be signed (PayPal-Ruby-SDK, webhook_examples_spec.rb).
#[test]
fn the_signed_text_is_the_vendors() {
    let message = signature::message(ID, "2015-05-18T15:45:13Z", WEBHOOK, BODY.as_bytes());
    assert_eq!(message, format!("{ID}|2015-05-18T15:45:13Z|{WEBHOOK}|2771810304"));
}

#[test]
fn what_openssl_signed_is_verified_and_made() {
    good().has_what_all_have_but_rotation();
    let verified = good().check().unwrap();
    assert_eq!((verified.id.as_deref(), verified.timestamp), (Some(ID), Some(NOW)));
    let case = good();
    let made = case.sign(PRIVATE_KEY, ID, NOW);
    for ((name, value), (expected_name, expected)) in made.headers.iter().zip(&good().headers) {
        assert_eq!((*name, value), (expected_name.to_ascii_lowercase().as_str(), expected));
    }
}

#[test]
fn every_part_is_signed() {
    for (name, value) in [
        (NAMES[0], "dfb3be50-fd74-11e4-8bf3-77339302725c"),
        (NAMES[1], "2025-05-18T15:45:14Z"),
        (NAMES[1], "2025-05-18T15:45:13+00:00"),
        (NAMES[2], BY_SHORT_LIVED),
    ] {
        assert_eq!(
            good().with_header(name, value).check(),
            Err(Refusal::SignatureMismatch),
            "{value}"
        );
    }
    let other_webhook = with_parameter(WEBHOOK_ID, "4JH86294D6297924H");
    assert_eq!(other_webhook.check(), Err(Refusal::SignatureMismatch));
}

#[test]
fn several_certificates_can_be_active() {
    let both = format!("{SHORT_LIVED}{INTERMEDIATE}{CERTIFICATE}");
    assert_eq!(good().with_secrets(&[&both]).check().unwrap().key, 1);
    let apart = good().with_secrets(&[SHORT_LIVED, CERTIFICATE, INTERMEDIATE]);
    assert_eq!(apart.check().unwrap().key, 1);
    assert_eq!(apart.with_header(NAMES[2], BY_SHORT_LIVED).check().unwrap().key, 0);
}

#[test]
fn the_certificate_must_lead_to_the_root() {
    let no_path = Refusal::UntrustedCertificate {
        problem: "it does not lead to a root that is configured",
    };
    assert_eq!(with_parameter(ROOT, OTHER_ROOT).check(), Err(no_path.clone()));
    assert_eq!(good().with_secrets(&[CERTIFICATE]).check(), Err(no_path));
    assert!(with_parameter(ROOT, &format!("{OTHER_ROOT}{ROOT_PEM}")).check().is_ok());
    // An intermediate may be what is trusted.
    assert!(with_parameter(ROOT, INTERMEDIATE).check().is_ok());
}

#[test]
fn the_certificate_must_be_valid_now() {
    let case = good()
        .with_secrets(&[SHORT_LIVED, INTERMEDIATE])
        .with_header(NAMES[2], BY_SHORT_LIVED);
    assert!(case.check().is_ok());
    let untrusted = |problem| Err(Refusal::UntrustedCertificate { problem });
    assert_eq!(case.at(1_800_000_000).check(), untrusted("it has expired"));
    assert_eq!(case.at(1_700_000_000).check(), untrusted("it is not valid yet"));
    assert_eq!(case.at(-1).check(), untrusted("no certificate was valid before 1970"));
}

#[test]
fn the_certificate_must_bear_the_name() {
    let named = |secrets: &[&str], parameters: &[(&str, &str)]| {
        let known = [(WEBHOOK_ID, WEBHOOK), (ROOT, ROOT_PEM)];
        Keys::of(Scheme::Paypal, secrets, &[known.as_slice(), parameters].concat())
    };
    // It leads to the same root, which proves nothing: everyone can buy such a certificate.
    let expected = "a certificate that bears PayPal's name";
    let source = InvalidKey::Malformed { expected };
    assert_eq!(
        named(&[OTHER_NAME, INTERMEDIATE], &[]).err(),
        Some(InvalidKeys::Key { place: 1, source })
    );
    let sandbox = (CERTIFICATE_NAME, "messageverificationcerts.sandbox.paypal.com");
    assert_eq!(
        named(&[CERTIFICATE, INTERMEDIATE], &[sandbox]).err(),
        Some(InvalidKeys::Key { place: 1, source })
    );
    let other = (CERTIFICATE_NAME, "messageverificationcerts.paypal.com.example");
    assert_eq!(named(&[OTHER_NAME, INTERMEDIATE], &[other]).unwrap().len(), 1);
    // Beside one that bears the name, it is no key.
    let keys = named(&[OTHER_NAME, CERTIFICATE, INTERMEDIATE], &[]).unwrap();
    assert_eq!(keys.len(), 1);
    let case = good().with_secrets(&[OTHER_NAME, CERTIFICATE, INTERMEDIATE]);
    assert_eq!(
        case.with_header(NAMES[2], BY_SHORT_LIVED).check(),
        Err(Refusal::SignatureMismatch)
    );
}

/// A repeat keeps the time of the first; nothing genuine is from the future.
#[test]
fn a_repeat_of_three_days_is_in_time_and_what_is_from_the_future_is_not() {
    let tolerance_s = 3 * 86_400 + 3_600;
    for age_s in [0, 301, 38 * 3_600, 3 * 86_400, tolerance_s] {
        assert!(good().at(NOW + age_s).check().is_ok(), "{age_s}");
    }
    assert_eq!(
        good().at(NOW + tolerance_s + 1).check(),
        Err(Refusal::Stale {
            age_s: tolerance_s.unsigned_abs() + 1,
            tolerance_s: tolerance_s.unsigned_abs()
        })
    );
    assert!(good().at(NOW - 300).check().is_ok());
    let tolerance_s = 300;
    assert_eq!(
        good().at(NOW - 301).check(),
        Err(Refusal::Future {
            ahead_s: 301,
            tolerance_s
        })
    );
}

#[test]
fn what_is_not_in_form_is_refused() {
    good().refuses_as_malformed(NAMES[0], &["", "a|b", "a b"]);
    good().refuses_as_malformed(
        NAMES[1],
        &[
            "",
            "1747583113",
            "2025-05-18",
            "2025-13-18T15:45:13Z",
            "2025-05-18T15:45:13",
        ],
    );
    good().refuses_as_malformed(NAMES[2], &["!", &GOOD[..GOOD.len() - 1], &format!("{GOOD} ")]);
    assert_eq!(
        good().with_header(NAMES[2], "").check(),
        Err(Refusal::SignatureMismatch)
    );
    for algorithm in ["", "SHA1withRSA", "sha256", "SHA256WithRSA"] {
        let refusal = good().with_header(NAMES[3], algorithm).check();
        assert!(
            matches!(refusal, Err(Refusal::NoSupportedSignature { .. })),
            "{algorithm}: {refusal:?}"
        );
    }
}

/// The limit of PayPal's specification, as it is: another body with the same CRC-32 verifies. It is never told as the body.
#[test]
fn a_body_with_the_same_crc_is_not_told_apart_and_is_no_proof() {
    let forged = good().with_body(b"{\"id\":\"forged\"}\x97&\xc41".to_vec());
    assert!(forged.check().is_ok());
    assert_eq!(Scheme::Paypal.coverage(), Coverage::Checksum);
    assert!(!Scheme::Paypal.coverage().proves_later());
    let case = good();
    let headers: Vec<_> = case
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let parameters: Vec<_> = case
        .parameters
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let keys = Keys::with_parameters(Scheme::Paypal, &case.secrets[0], &parameters).unwrap();
    let request = crate::Request::new(&headers, &case.body);
    let verified = crate::verify(&keys, &request, NOW, Duration::ZERO).unwrap();
    assert_eq!(verified.proven, crate::Proven::Checksum(&case.body));
}

#[test]
fn what_is_no_certificate_and_no_key_is_refused() {
    let known = [(WEBHOOK_ID, WEBHOOK), (ROOT, ROOT_PEM)];
    let broken = CERTIFICATE.replace("MII", "MIJ");
    for pem in ["", "x", PRIVATE_KEY, ROOT_PEM, &CERTIFICATE[..400], &broken] {
        let refusal = Keys::of(Scheme::Paypal, &[pem], &known).err();
        assert!(matches!(refusal, Some(InvalidKeys::Key { .. })), "{pem}: {refusal:?}");
    }
    for root in ["x", PRIVATE_KEY] {
        let refusal = Keys::of(Scheme::Paypal, &[CERTIFICATE], &[known[0], (ROOT, root)]).err();
        assert!(
            matches!(refusal, Some(InvalidKeys::InvalidParameter { name: ROOT, .. })),
            "{root}: {refusal:?}"
        );
    }
    assert!(SigningKey::with_parameters(Scheme::Paypal, CERTIFICATE, &known).is_err());
    let key = SigningKey::with_parameters(Scheme::Paypal, PRIVATE_KEY, &known).unwrap();
    for (id, timestamp) in [("", 0), ("a|b", 0), ("a", i64::MAX)] {
        let webhook = Unsigned {
            id,
            timestamp,
            ..Unsigned::default()
        };
        assert!(crate::sign(&key, &webhook).is_err(), "{id} {timestamp}");
    }
}

#[test]
fn only_paypals_own_urls_are_trusted() {
    let certificate = "/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77";
    for host in [
        "api.paypal.com",
        "api-m.paypal.com",
        "api.sandbox.paypal.com",
        "api-m.sandbox.paypal.com",
    ] {
        assert!(is_trusted_cert_url(&format!("https://{host}{certificate}")), "{host}");
    }
    for url in [
        "",
        "https://",
        "https://api.paypal.com",
        "https://api.paypal.com/",
        "https://api.paypal.com/v1/notifications/certs/",
        "https://api.paypal.com/v1/notifications/certs/../../x",
        "https://api.paypal.com/v1/notifications/certs/CERT-1?x=y",
        "https://api.paypal.com/v1/notifications/certs/CERT-1#x",
        "https://api.paypal.com/v1/notifications/certs/CERT%2d1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1/x",
        "https://api.paypal.com//v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs\\CERT-1",
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "HTTPS://api.paypal.com/v1/notifications/certs/CERT-1",
        "https:/api.paypal.com/v1/notifications/certs/CERT-1",
        "https:///api.paypal.com/v1/notifications/certs/CERT-1",
        "ftp://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://user@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com@evil.example/v1/notifications/certs/CERT-1",
        "https://evil.example#@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://evil.example\\@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com\\evil.example/v1/notifications/certs/CERT-1",
        "https://api.paypal.com:443/v1/notifications/certs/CERT-1",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-1",
        "https://api.paypal.com./v1/notifications/certs/CERT-1",
        "https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1",
        "https://evil.example/api.paypal.com/v1/notifications/certs/CERT-1",
        "https://evilapi.paypal.com/v1/notifications/certs/CERT-1",
        "https://paypal.com/v1/notifications/certs/CERT-1",
        "https://www.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypa1.com/v1/notifications/certs/CERT-1",
        "https://api.pаypal.com/v1/notifications/certs/CERT-1",
        "https://api.xn--pypal-4ve.com/v1/notifications/certs/CERT-1",
        "https://api.paypal。com/v1/notifications/certs/CERT-1",
        " https://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1 ",
        "https://api.paypal.com/v1/notifications/certs/CERT-1\n",
        "https://api.paypal.com/v1/notifications/certs/CERT-\0",
        "https://API.paypal.com/v1/notifications/certs/CERT-1",
    ] {
        assert!(!is_trusted_cert_url(url), "{url:?}");
    }
    assert!(!is_trusted_cert_url(&format!(
        "https://api.paypal.com/v1/notifications/certs/{}",
        "a".repeat(129)
    )));
}
