use super::{
    secret::{MALFORMED_KEY, read, signing_key},
    *,
};
use crate::{
    InvalidKey, Refusal,
    mac::{self, Mac},
    testing::Case,
};

const ID: &str = STANDARD_HEADERS.id;
const TIMESTAMP: &str = STANDARD_HEADERS.timestamp;
const SIGNATURE: &str = STANDARD_HEADERS.signature;

// The vector of the specification's reference libraries and of Svix's documentation.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MESSAGE_ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const TIME: i64 = 1_614_265_330;
const TIME_TEXT: &str = "1614265330";
const BODY: &str = r#"{"test": 2432232314}"#;
const GOOD: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const WRONG: &str = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";

// The vector of Svix's own server (svix-webhooks, worker.rs, test_asymmetric_key_signing), for the same webhook.
const PRIVATE_KEY: &str =
    "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC_KEY: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const GOOD_V1A: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

fn good() -> Case {
    with_names(ID, TIMESTAMP, SIGNATURE)
}

fn with_names(id: &'static str, timestamp: &'static str, signature: &'static str) -> Case {
    let headers = [(id, MESSAGE_ID), (timestamp, TIME_TEXT), (signature, GOOD)];
    Case::new(Scheme::StandardWebhooks, SECRET, &headers, BODY).at(TIME)
}

/// The same webhook, signed with the private key.
fn asymmetric() -> Case {
    good().with_secrets(&[PUBLIC_KEY]).with_header(SIGNATURE, GOOD_V1A)
}

#[test]
fn the_published_vectors_are_verified_and_made() {
    good().has_what_all_have("whsec_AAEC");
    asymmetric().has_what_all_have("whpk_JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=");
    let seed_alone = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    for (secret, case) in [
        (SECRET, good()),
        (PRIVATE_KEY, asymmetric()),
        (seed_alone, asymmetric()),
    ] {
        let verified = case.check().unwrap();
        assert_eq!(
            (verified.id.as_deref(), verified.timestamp),
            (Some(MESSAGE_ID), Some(TIME))
        );
        assert_eq!(case.sign(secret, MESSAGE_ID, TIME).headers, case.headers);
    }
}

#[test]
fn a_rotation_is_verified_from_both_sides() {
    for signature in [
        format!("{WRONG} {GOOD}"),
        format!("{GOOD} {WRONG}"),
        format!("v1b,AAEC {GOOD}"),
    ] {
        let case = good().with_header(SIGNATURE, &signature);
        assert_eq!(case.check().unwrap().key, 0, "{signature}");
        assert_eq!(case.with_secrets(&["whsec_AAEC", SECRET]).check().unwrap().key, 1);
    }
}

#[test]
fn keys_of_both_kinds_can_be_active_and_each_is_tried_with_its_own_version() {
    let both = good().with_secrets(&["whsec_AAEC", PUBLIC_KEY, SECRET]);
    for (signature, key) in [(GOOD_V1A, 1), (GOOD, 2), (&format!("{WRONG} {GOOD_V1A}"), 1)] {
        assert_eq!(both.with_header(SIGNATURE, signature).check().unwrap().key, key);
    }
    // One kind of key proves nothing of the other kind of signature: the public key is no shared secret.
    let bytes = STANDARD.decode(PUBLIC_KEY.trim_start_matches("whpk_")).unwrap();
    let parts = [MESSAGE_ID, ".", TIME_TEXT, ".", BODY].map(str::as_bytes);
    let forged = format!("v1,{}", STANDARD.encode(Mac::new(&bytes).tag(&parts)));
    for (secret, signature) in [(PUBLIC_KEY, GOOD), (SECRET, GOOD_V1A), (PUBLIC_KEY, &forged)] {
        let case = good().with_secrets(&[secret]).with_header(SIGNATURE, signature);
        assert_eq!(case.check(), Err(Refusal::SignatureMismatch), "{signature}");
    }
}

#[test]
fn every_part_is_signed() {
    for case in [good(), asymmetric()] {
        let changed = case.headers[2].1.replace(",g0", ",g1").replace(",hn", ",ho");
        for other in [
            case.with_header(ID, "msg_other"),
            case.with_header(TIMESTAMP, "1614265331"),
            case.with_header(TIMESTAMP, "01614265330"),
            case.with_header(SIGNATURE, &changed),
            case.with_body(r#"{"test": 2432232315}"#),
        ] {
            assert_eq!(other.check(), Err(Refusal::SignatureMismatch), "{:?}", other.headers);
        }
    }
    assert_eq!(
        good().with_header(SIGNATURE, WRONG).check(),
        Err(Refusal::SignatureMismatch)
    );
}

#[test]
fn svix_headers_are_read_and_never_mixed_with_the_others() {
    let svix = with_names(SVIX_HEADERS.id, SVIX_HEADERS.timestamp, SVIX_HEADERS.signature);
    assert_eq!(svix.check().unwrap().id.as_deref(), Some(MESSAGE_ID));
    let forged = svix.with_body("{}").check();
    assert_eq!(forged, Err(Refusal::SignatureMismatch));
    for name in [SVIX_HEADERS.id, SVIX_HEADERS.timestamp, SVIX_HEADERS.signature] {
        let mut twice = svix.clone();
        twice.headers.push((name, "1".to_owned()));
        assert_eq!(twice.check(), Err(Refusal::RepeatedHeader { header: name }));
    }
    let id_of_the_other = with_names(ID, SVIX_HEADERS.timestamp, SVIX_HEADERS.signature);
    assert_eq!(
        id_of_the_other.check(),
        Err(Refusal::MissingHeader { header: "svix-id" })
    );
}

/// Who holds one signed webhook has one webhook: no header that is not signed makes another of it.
#[test]
fn the_id_is_the_signed_one_and_a_signature_of_each_family_is_refused() {
    let families = [
        (ID, TIMESTAMP, SIGNATURE),
        (SVIX_HEADERS.id, SVIX_HEADERS.timestamp, SVIX_HEADERS.signature),
    ];
    for (own, other) in [(families[0], families[1]), (families[1], families[0])] {
        let own = with_names(own.0, own.1, own.2);
        let with = |more: &[(&'static str, &str)]| {
            let mut case = own.clone();
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            // In front and behind.
            case.headers.extend(more.clone());
            let behind = case.check();
            case.headers.rotate_right(more.len());
            assert_eq!(case.check(), behind);
            behind
        };
        for more in [
            &[(other.0, "forged-1")][..],
            &[(other.1, "1")],
            &[(other.0, "forged-1"), (other.1, TIME_TEXT)],
        ] {
            let verified = with(more).unwrap();
            assert_eq!(
                (verified.id.as_deref(), verified.timestamp),
                (Some(MESSAGE_ID), Some(TIME))
            );
        }
        let mixed = Err(Refusal::MixedHeaders {
            header: SIGNATURE,
            other: SVIX_HEADERS.signature,
        });
        for more in [
            &[(other.2, GOOD)][..],
            &[(other.2, WRONG)],
            &[(other.2, "")],
            &[(other.0, MESSAGE_ID), (other.1, TIME_TEXT), (other.2, GOOD)],
            &[(other.0, "forged-1"), (other.1, TIME_TEXT), (other.2, GOOD)],
        ] {
            assert_eq!(with(more), mixed, "{more:?}");
        }
        // Parts of each make no family.
        let mut parts = own.clone();
        parts.headers[0].0 = other.0;
        let header = if other.0 == ID { SVIX_HEADERS.id } else { ID };
        assert_eq!(parts.check(), Err(Refusal::MissingHeader { header }));
    }
    let mut none = good();
    none.headers.clear();
    assert_eq!(none.check(), Err(Refusal::MissingHeader { header: SIGNATURE }));
}

#[test]
fn what_is_shown_before_a_secret_is_named() {
    for (secret, before) in [
        ("v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,"),
        ("v1a,whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", "v1a,"),
    ] {
        assert_eq!(read(secret).err(), Some(InvalidKey::Prefixed { before }));
        let said = Keys::parse(Scheme::StandardWebhooks, secret).unwrap_err();
        let why = std::error::Error::source(&said).unwrap().to_string();
        assert!(
            why.contains(&format!("begins with `{before}`")) && !why.contains("Mf"),
            "{why}"
        );
    }
}

#[test]
fn a_secret_has_the_form_of_its_kind() {
    assert_eq!(read("").err(), Some(InvalidKey::Empty));
    assert_eq!(read("whsec_").err(), Some(InvalidKey::Empty));
    assert_eq!(read(PRIVATE_KEY).err(), Some(InvalidKey::Private));
    // The last is the neutral element: with it as a key, signatures that nobody made would verify.
    for secret in [
        "whsec_!!!!",
        "whsec_AAE",
        "whpk_AAEC",
        "whpk_",
        "whpk_AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ] {
        assert_eq!(read(secret).err(), Some(MALFORMED_KEY), "{secret}");
    }
    assert!(read("AAEC").is_ok());
    for secret in ["whsk_AAEC", "whsk_", PUBLIC_KEY] {
        assert!(signing_key(secret).is_err(), "{secret}");
    }
}

#[test]
fn the_time_is_checked_in_both_directions() {
    let (age_s, ahead_s, tolerance_s) = (301, 301, 300);
    assert!(good().at(TIME + 300).check().is_ok() && good().at(TIME - 300).check().is_ok());
    let late = good().at(TIME + 301).check();
    assert_eq!(late, Err(Refusal::Stale { age_s, tolerance_s }));
    let early = good().at(TIME - 301).check();
    assert_eq!(early, Err(Refusal::Future { ahead_s, tolerance_s }));
}

#[test]
fn an_id_can_not_be_cut_in_another_place() {
    let key = SigningKey::parse(Scheme::StandardWebhooks, SECRET).unwrap();
    for id in ["a.1", "", "a b", "a\n", "é"] {
        let webhook = Unsigned {
            id,
            ..Unsigned::default()
        };
        assert_eq!(crate::sign(&key, &webhook), Err(Unsignable::InvalidId), "{id}");
    }
    // What would be signed for the id `a.1`, the time 2 and the body `{}`, is also what the id `a`, the time 1 and
    // the body `2.{}` sign: an id with a `.` is refused whoever signed it.
    let tag = key.mac().tag(&[b"a.1.2.{}"]);
    let case = good()
        .with_header(TIMESTAMP, "2")
        .with_header(SIGNATURE, &format!("v1,{}", STANDARD.encode(tag)))
        .with_body("{}");
    case.refuses_as_malformed(ID, &["a.1"]);
}

#[test]
fn only_versions_that_are_known_count() {
    for signature in [&GOOD.replace("v1", "v2"), &GOOD.replace("v1", "v1b"), "v0,"] {
        let expected = Refusal::NoSupportedSignature {
            header: SIGNATURE,
            version: "v1",
        };
        assert_eq!(
            good().with_header(SIGNATURE, signature).check(),
            Err(expected),
            "{signature}"
        );
    }
}

#[test]
fn what_is_not_in_form_is_refused() {
    good().refuses_as_malformed(ID, &["", "a b", "a.b"]);
    good().refuses_as_malformed(TIMESTAMP, &["", "2021-02-25T15:02:10Z", " 1614265330"]);
    let values = [
        "",
        "v1",
        "v1,",
        "v1,bm9ldHU=",
        &GOOD.replace('=', ""),
        &GOOD.replace("OE=", "OF="),
        &format!("{GOOD} "),
        &format!("{GOOD}  {GOOD}"),
        &[GOOD; mac::MAX_TAGS + 1].join(" "),
        &[GOOD_V1A; mac::MAX_TAGS + 1].join(" "),
    ];
    good().refuses_as_malformed(SIGNATURE, &values);
}
