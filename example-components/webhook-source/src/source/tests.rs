use proptest::prelude::*;

use super::*;
use crate::samples::{SAMPLES, SampleSecrets};

/// Knows one secret, fails at another.
struct OneSecret;

impl Secrets for OneSecret {
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        match name {
            "stripe" => Ok(Some("whsec_topsecret_topsecret\n".to_owned())),
            "old" => Ok(Some(
                "whsec_an old secret with blanks \nwhsec_and_another_one".to_owned(),
            )),
            "broken" => Err("the backend is away".to_owned()),
            _ => Ok(None),
        }
    }
}

fn find(pairs: &[(&str, &str)]) -> Result<Option<Source>, String> {
    let settings = pairs
        .iter()
        .map(|(key, value)| (format!("source.{key}"), (*value).to_owned()))
        .collect();
    Source::find(&settings, "s", &OneSecret).map_err(|error| error.to_string())
}

const SECRET: &str = "whsec_for_tests_only";

const SMALLEST: [(&str, &str); 3] = [
    ("s.scheme", "stripe"),
    ("s.secret", SECRET),
    ("s.tenant", "pointer:/account"),
];

/// The smallest source, changed.
fn with(more: &[(&str, &str)]) -> Result<Option<Source>, String> {
    let others = SMALLEST
        .iter()
        .filter(|(key, _)| !more.iter().any(|(other, _)| other == key));
    let all: Vec<_> = others.chain(more).copied().collect();
    find(&all)
}

#[test]
fn three_settings_make_a_source() {
    let source = find(&SMALLEST).unwrap().unwrap();
    assert_eq!((source.name.as_str(), source.scheme()), ("s", Scheme::Stripe));
    assert!(!source.tenant.has_path() && source.secret_in_config);
    assert_eq!(source.format, Format::Json);
    assert_eq!(
        (source.event_type.to_string(), source.event_id.to_string()),
        ("pointer:/type".into(), "pointer:/id".into())
    );
    assert_eq!((source.tolerance, source.max_body), (Duration::from_secs(300), 262_144));
    assert_eq!((source.evidence, source.key_name(0)), (Evidence::None, "0".to_owned()));
    assert_eq!(source.tenant_of("anyone"), Some("anyone"));
}

#[test]
fn each_scheme_has_its_places() {
    for sample in SAMPLES {
        let source = sample.source(&[]);
        let defaults = defaults::of(sample.scheme);
        assert_eq!(source.scheme(), sample.scheme);
        assert_eq!(source.event_type.to_string(), defaults.event_type);
        assert_eq!(source.event_id.to_string(), defaults.event_id);
        assert_eq!(
            source.event_time.map(|time| time.to_string()).as_deref(),
            defaults.event_time
        );
        assert_eq!(source.items.map(|items| items.to_string()).as_deref(), defaults.items);
        assert!(!source.secret_in_config);
    }
}

#[test]
fn every_setting_is_read() {
    let source = find(&[
        ("s.scheme", "stripe"),
        ("s.secret", "the first of them\nthe second of them"),
        ("s.key-names", "2026, 2025"),
        ("s.tenant", "pointer:/account"),
        ("s.tenants", "acme, acct_2=beta"),
        ("s.items", "/all/*"),
        ("s.event-type", "constant:payment"),
        ("s.event-id", "header:x-id digest"),
        ("s.event-time", "none"),
        ("s.trust-unsigned", "event-id"),
        ("s.format", "json"),
        ("s.allow-short-secret", "false"),
        ("s.tolerance", "1m"),
        ("s.max-body", "1KiB"),
        ("s.evidence", "keep"),
    ]);
    let source = source.unwrap().unwrap();
    assert_eq!(source.tenant.to_string(), "pointer:/account");
    assert_eq!(
        (source.event_type.to_string(), source.event_id.to_string()),
        ("constant:payment".into(), "header:x-id digest".into())
    );
    assert_eq!((source.tolerance, source.max_body), (Duration::from_secs(60), 1024));
    assert_eq!((source.evidence, source.event_time), (Evidence::Keep, None));
    assert_eq!(source.items.unwrap().to_string(), "/all/*");
    assert_eq!(source.key_names, ["2026", "2025"]);
}

#[test]
fn a_source_without_settings_is_unknown() {
    assert!(matches!(find(&[]), Ok(None)));
    assert!(matches!(find(&[("other.scheme", "stripe")]), Ok(None)));
    for name in ["", "S", "a.b", "a/b", "é", &"a".repeat(65)] {
        let settings = vec![(format!("source.{name}.scheme"), "stripe".to_owned())];
        assert!(
            matches!(Source::find(&settings, name, &OneSecret), Ok(None)),
            "{name:?}"
        );
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let error = find(&[
        ("s.scheme", "strype"),
        ("s.webhook-id", "passed over, as the scheme is wrong"),
        ("s.tenant", "digest"),
        ("s.tenants", "a,,b"),
        ("s.items", "/events"),
        ("s.key-names", "A"),
        ("s.event-type", "path"),
        ("s.event-id", "path"),
        ("s.event-time", "constant:1"),
        ("s.tolerance", "0s"),
        ("s.max-body", "1GiB"),
        ("s.evidence", "yes"),
        ("s.max_body", "1KiB"),
        ("s.format", "yaml"),
        ("s.trust-unsigned", "tenant"),
        ("s.allow-short-secret", "yes"),
    ]);
    let error = error.unwrap_err();
    for problem in [
        "source.s.scheme is none: no signature scheme has this name",
        "source.s.secret is missing",
        "source.s.tenant can't be digest, but path or pointer",
        "source.s.tenants is neither",
        "source.s.items names no items",
        "source.s.key-names is no list",
        "source.s.event-type can't be path",
        "source.s.event-id can't be path",
        "source.s.event-time can't be constant",
        "source.s.tolerance is no duration",
        "source.s.max-body is no size",
        "source.s.evidence is neither",
        "source.s.max_body is unknown",
        "source.s.format is none of json, form and xml",
        "source.s.trust-unsigned is no list",
        "source.s.allow-short-secret is neither",
    ] {
        assert!(error.contains(problem), "{problem}: {error}");
    }
    assert_eq!(error.matches("source.s.").count(), 16, "{error}");
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        find(&[("s.max-body", "1B")]).unwrap_err(),
        "source.s.scheme is missing; source.s.secret is missing: set secret-name to the name of a secret in the manifest; \
         source.s.tenant is missing"
    );
    let paypal = with(&[("s.scheme", "paypal")]).unwrap_err();
    assert_eq!(paypal, "source.s.webhook-id is missing; source.s.root is missing");
    let square = with(&[("s.scheme", "square")]).unwrap_err();
    assert!(
        square.starts_with("source.s.notification-url is missing: the scheme signs the URL"),
        "{square}"
    );
    let empty = with(&[("s.scheme", "square"), ("s.notification-url", " ")]).unwrap_err();
    assert_eq!(empty, "source.s.notification-url is empty");
}

#[test]
fn a_secret_is_named_or_given() {
    let named = |more: &[(&str, &str)]| {
        let all: Vec<_> = [("s.scheme", "stripe"), ("s.tenant", "pointer:/account")]
            .iter()
            .chain(more)
            .copied()
            .collect();
        find(&all)
    };
    let source = named(&[("s.secret-name", "stripe")]).unwrap().unwrap();
    assert!(!source.secret_in_config);
    for (more, problem) in [
        (
            &[("s.secret-name", "other")][..],
            "source.s.secret-name names a secret that the component was not given",
        ),
        (
            &[("s.secret-name", "broken")],
            "source.s.secret-name names a secret that can't be read: the backend is away",
        ),
        (
            &[("s.secret-name", "stripe,other")],
            "source.s.secret-name names a secret that the component was not given",
        ),
        (
            &[("s.secret-name", "stripe"), ("s.secret", "a")],
            "source.s.secret can't be set together with secret-name",
        ),
    ] {
        let error = named(more).unwrap_err();
        assert!(error.starts_with(problem), "{error}");
    }
}

#[test]
fn a_secret_is_one_key_as_it_stands_and_several_are_lines_or_names() {
    let keys = |key: &str, value: &str| {
        let settings = [("s.scheme", "github"), ("s.tenant", "constant:a"), (key, value)];
        find(&settings).map(|source| source.unwrap().keys.len())
    };
    for (key, value, count) in [
        ("s.secret", "It's a Secret to Everybody", 1),
        ("s.secret", "It's a Secret to Everybody\n", 1),
        ("s.secret", " blanks at both ends ", 1),
        ("s.secret", "the first of them\nthe second of them\n", 2),
        ("s.secret-name", "stripe", 1),
        ("s.secret-name", "old", 2),
        ("s.secret-name", "stripe, old", 3),
    ] {
        assert_eq!(keys(key, value), Ok(count), "{key} {value:?}");
    }
    assert!(keys("s.secret-name", &["old"; 9].join(",")).is_err());
    assert!(keys("s.secret-name", &["old"; 17].join(",")).is_err());
    // A blank is a part of the secret, also at its end.
    let signs = |secret: &str, signed_with: &str| {
        let source = find(&[("s.scheme", "github"), ("s.tenant", "constant:a"), ("s.secret", secret)]);
        let key = webhook_signature::SigningKey::parse(Scheme::Github, signed_with).unwrap();
        let unsigned = webhook_signature::Unsigned {
            id: "",
            timestamp: 0,
            body: b"{}",
            url: None,
        };
        let signed = webhook_signature::sign(&key, &unsigned).unwrap();
        let headers: Vec<_> = signed
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let request = webhook_signature::Request::new(&headers, b"{}");
        let source = source.unwrap().unwrap();
        webhook_signature::verify(&source.keys, &request, 0, source.tolerance).is_ok()
    };
    assert!(signs("a secret with a blank ", "a secret with a blank "));
    assert!(!signs("a secret with a blank ", "a secret with a blank"));
}

#[test]
fn a_short_secret_is_allowed_by_a_setting_alone() {
    let short = |more: &[(&str, &str)]| with(&[&[("s.secret", "fifteen letters")], more].concat());
    let error = short(&[]).unwrap_err();
    assert!(
        error.contains("can find it by trying") && error.contains("set allow-short-secret to true"),
        "{error}"
    );
    assert!(!error.contains("fifteen"), "{error}");
    assert!(short(&[("s.allow-short-secret", "false")]).is_err());
    assert!(short(&[("s.allow-short-secret", "true")]).is_ok());
    assert!(with(&[("s.secret", ""), ("s.allow-short-secret", "true")]).is_err());
}

#[test]
fn a_tenant_that_the_request_names_needs_a_list() {
    for tenant in [
        "header:x-shop",
        "path",
        "pointer:/a || path",
        "constant:a header:x-shop",
    ] {
        for more in [&[][..], &[("s.tenants", "*")]] {
            let all: Vec<_> = [("s.tenant", tenant)].iter().chain(more).copied().collect();
            let error = with(&all).unwrap_err();
            assert!(
                error.starts_with("source.s.tenants must list the tenants"),
                "{tenant}: {error}"
            );
        }
        assert!(
            with(&[("s.tenant", tenant), ("s.tenants", "shop=acme")]).is_ok(),
            "{tenant}"
        );
    }
    // The same of a sender that is known by a password.
    let basic = [("s.scheme", "basic"), ("s.secret", "a:b"), ("s.tenant", "path")];
    assert!(find(&basic).unwrap_err().contains("must list the tenants"));
    // All others may have a tenant, but not any.
    let others = with(&[("s.tenant", "path"), ("s.tenants", "*=others")])
        .unwrap()
        .unwrap();
    assert_eq!(
        (others.tenant_of("x"), others.tenant_of("*")),
        (Some("others"), Some("others"))
    );
    for tenants in ["acme=*", "*=*", "a,", "=a", "*=a,*=b", "a=\u{7}"] {
        let error = with(&[("s.tenants", tenants)]).unwrap_err();
        assert!(error.starts_with("source.s.tenants "), "{tenants}: {error}");
    }
}

#[test]
fn a_constant_that_is_not_listed_is_noticed_at_once() {
    let tenants = ("s.tenants", "acme,globex");
    let error = with(&[("s.tenant", "pointer:/a || constant:others"), tenants]).unwrap_err();
    assert!(
        error.contains("source.s.tenants does not list the tenant that is a constant"),
        "{error}"
    );
    assert!(with(&[("s.tenant", "pointer:/a || constant:acme"), tenants]).is_ok());
    assert!(with(&[("s.tenant", "pointer:/a || constant:others")]).is_ok());
}

#[test]
fn the_key_is_a_tenant_only_by_its_name() {
    let error = with(&[("s.tenant", "key")]).unwrap_err();
    assert!(error.starts_with("source.s.key-names must name the keys"), "{error}");
    assert!(with(&[("s.tenant", "key"), ("s.key-names", "acme")]).is_ok());
}

#[test]
fn what_nobody_signed_decides_only_where_a_setting_says_so() {
    for (part, place) in [
        ("event-type", "header:x-type"),
        ("event-type", "pointer:/type || header:x-type"),
        ("event-id", "header:x-id"),
        ("event-id", "header:x-id digest"),
        ("event-id", "header:webhook-id"),
        ("event-time", "header:date"),
    ] {
        let setting = format!("s.{part}");
        let error = with(&[(&setting, place)]).unwrap_err();
        assert!(
            error.starts_with(&format!("source.s.{part} is in a header that no signature covers"))
                && error.contains(&format!("trust-unsigned: {part}")),
            "{error}"
        );
        assert!(
            with(&[(&setting, place), ("s.trust-unsigned", part)]).is_ok(),
            "{place}"
        );
        let other = if part == "event-id" {
            "event-type,event-time"
        } else {
            "event-id"
        };
        assert!(
            with(&[(&setting, place), ("s.trust-unsigned", other)]).is_err(),
            "{place}"
        );
    }
    let github = |part: &str, place: &str| {
        let setting = format!("s.{part}");
        with(&[("s.scheme", "github"), (&setting, place)]).map(drop)
    };
    // The one place where the vendor names the type; in an id only beside what is signed.
    assert_eq!(github("event-type", "header:x-github-event pointer:/action"), Ok(()));
    assert_eq!(github("event-id", "header:x-github-event digest"), Ok(()));
    for place in [
        "header:x-github-delivery",
        "header:x-github-event",
        "header:x-github-event constant:a",
    ] {
        assert!(github("event-id", place).is_err(), "{place}");
    }
    assert!(github("event-time", "header:x-github-event").is_err());
    // Where a password is all that is proven, its holder made the whole request.
    let basic = [
        ("s.scheme", "basic"),
        ("s.secret", "a:b"),
        ("s.event-id", "header:x-id"),
    ];
    assert!(with(&basic).is_ok());
}

#[test]
fn an_id_is_signed_where_the_scheme_signs_one() {
    for (scheme, secret) in [("standard-webhooks", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")] {
        let source = |place| with(&[("s.scheme", scheme), ("s.secret", secret), ("s.event-id", place)]);
        for place in ["signed-id", "header:webhook-id", "header:svix-id"] {
            assert_eq!(
                source(place).unwrap().unwrap().event_id.to_string(),
                "signed-id",
                "{place}"
            );
        }
        assert!(source("header:x-id").is_err());
    }
    let error = with(&[("s.event-id", "signed-id")]).unwrap_err();
    assert!(error.contains("signs no id"), "{error}");
}

#[test]
fn the_format_is_the_schemes_or_a_setting() {
    for sample in SAMPLES {
        let expected = if sample.scheme == Scheme::Braintree {
            Format::Xml
        } else {
            Format::Json
        };
        assert_eq!(sample.source(&[]).format, expected, "{}", sample.scheme);
    }
    let form = with(&[("s.scheme", "github"), ("s.format", "form")]).unwrap().unwrap();
    assert_eq!(form.format, Format::Form);
    for (scheme, secret) in [
        ("adyen", "00112233445566778899aabbccddeeff"),
        ("braintree", "a:a_private_key_for_tests"),
    ] {
        let error = with(&[
            ("s.scheme", scheme),
            ("s.secret", secret),
            ("s.tenant", "constant:a"),
            ("s.format", "json"),
        ]);
        assert!(error.unwrap_err().contains("source.s.format can't be set"), "{scheme}");
    }
    let items = with(&[("s.format", "xml"), ("s.items", "/a/*")]).unwrap_err();
    assert!(items.contains("only JSON holds many events"), "{items}");
}

#[test]
fn only_signed_fields_decide_where_fields_are_signed() {
    const HEX: &str = "00112233445566778899aabbccddeeff";
    let adyen = |key: &str, place: &str| {
        let key = format!("s.{key}");
        let mut all = vec![
            ("s.scheme", "adyen"),
            ("s.secret", HEX),
            ("s.tenant", "constant:acme"),
            ("s.tenants", "acme"),
        ];
        all.retain(|(known, _)| *known != key);
        all.push((&key, place));
        find(&all).map(drop)
    };
    for (key, place) in [
        ("tenant", "pointer:/merchantAccountCode"),
        ("tenant", "path"),
        ("tenant", "pointer:/merchantReference || pointer:/merchantAccountCode"),
        ("event-id", "pointer:/pspReference pointer:/amount/value"),
    ] {
        assert_eq!(adyen(key, place), Ok(()), "{key} {place}");
    }
    for (key, place) in [
        ("tenant", "pointer:/additionalData/store"),
        ("tenant", "root:/live"),
        ("tenant", "pointer:/merchantReference || pointer:/additionalData/store"),
        ("event-type", "header:x-type"),
        ("event-id", "digest"),
        ("event-time", "pointer:/eventDate"),
    ] {
        let error = adyen(key, place).unwrap_err();
        assert!(
            error.contains("is not signed: the scheme signs only /pspReference"),
            "{key} {place}: {error}"
        );
    }
    assert!(
        adyen("items", "/notificationItems/*")
            .unwrap_err()
            .contains("the scheme says where")
    );
}

#[test]
fn what_can_not_be_is_refused() {
    let github = with(&[("s.scheme", "github"), ("s.tolerance", "300s")]).unwrap_err();
    assert_eq!(github, "source.s.tolerance can't be set: the scheme signs no time");
    let basic = with(&[("s.scheme", "basic"), ("s.secret", "a:b"), ("s.evidence", "keep")]).unwrap_err();
    assert!(basic.contains("its proof is the password itself"), "{basic}");
    let paypal = with(&[
        ("s.scheme", "paypal"),
        ("s.root", "x"),
        ("s.webhook-id", "y"),
        ("s.evidence", "keep"),
    ]);
    assert!(
        paypal
            .unwrap_err()
            .contains("source.s.evidence can't be keep: the scheme signs a checksum")
    );
    let names = with(&[("s.key-names", "a,b")]).unwrap_err();
    assert_eq!(names, "source.s.key-names has 2 names for 1 keys");
    let twice = with(&[("s.tenants", "a=x,a=y")]).unwrap_err();
    assert_eq!(twice, "source.s.tenants names one tenant twice");
    assert!(with(&[("s.event-time", "pointer:/a pointer:/b")]).is_err());
    let braintree = with(&[
        ("s.scheme", "braintree"),
        ("s.secret", "a:a_private_key_for_tests"),
        ("s.items", "/a/*"),
    ])
    .unwrap_err();
    assert!(braintree.contains("in XML, and one event each"), "{braintree}");
}

#[test]
fn a_secret_is_never_quoted() {
    let error = with(&[
        ("s.scheme", "standard-webhooks"),
        ("s.secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_topsecret!"),
    ])
    .unwrap_err();
    assert!(
        error.starts_with("source.s.secret holds secrets of which number 2 can't be used"),
        "{error}"
    );
    assert!(!error.contains("topsecret"), "{error}");
    for key in [
        "scheme",
        "tenant",
        "tenants",
        "items",
        "key-names",
        "event-type",
        "event-id",
        "event-time",
        "tolerance",
        "max-body",
        "evidence",
        "format",
        "trust-unsigned",
        "allow-short-secret",
        "secret-name",
        "typo",
    ] {
        let key = format!("s.{key}");
        let error = find(&[SMALLEST[1], (&key, "topsecret,,")]).unwrap_err();
        assert!(!error.contains("topsecret"), "{error}");
    }
    let shown = format!("{:?}", with(&[("s.secret", "topsecret_topsecret")]));
    assert!(!shown.contains("topsecret"), "{shown}");
}

proptest! {
    #[test]
    fn no_settings_make_it_panic(settings in prop::collection::vec((
        "source\\.s\\.(scheme|secret|secret-name|key-names|tenant|tenants|items|event-type|event-id|event-time|tolerance|max-body|evidence|format|trust-unsigned|allow-short-secret|root|x)",
        "(stripe|github|adyen|paypal|basic|path|digest|key|signed-id|json|form|true|event-id|\\|\\||pointer:|root:|/|~|constant:|header:|\\*|,|=|[0-9]{0,25}|KiB|s|keep| |.){0,6}",
    ), 0..10)) {
        if let Ok(Some(source)) = Source::find(&settings, "s", &SampleSecrets) {
            prop_assert!(source.max_body <= MAX_BODY);
            prop_assert!(source.tolerance.as_secs() <= 7 * 86_400);
        }
    }
}
