use proptest::prelude::*;

use super::*;
use crate::samples::{SAMPLES, SampleSecrets};

/// Knows one secret, fails at another.
struct OneSecret;

impl Secrets for OneSecret {
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        match name {
            "stripe" => Ok(Some("whsec_topsecret".to_owned())),
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

const SMALLEST: [(&str, &str); 3] = [("s.scheme", "stripe"), ("s.secret", "whsec_a"), ("s.tenant", "path")];

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
    assert!(source.tenant.has_path() && source.secret_in_config);
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
        ("s.secret", "one two"),
        ("s.key-names", "2026, 2025"),
        ("s.tenant", "pointer:/account"),
        ("s.tenants", "acme, acct_2=beta"),
        ("s.items", "/all/*"),
        ("s.event-type", "constant:payment"),
        ("s.event-id", "header:x-id digest"),
        ("s.event-time", "none"),
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
    ] {
        assert!(error.contains(problem), "{problem}: {error}");
    }
    assert_eq!(error.matches("source.s.").count(), 13, "{error}");
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
        let all: Vec<_> = [("s.scheme", "stripe"), ("s.tenant", "path")]
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
            &[("s.secret-name", "stripe"), ("s.secret", "a")],
            "source.s.secret can't be set together with secret-name",
        ),
    ] {
        let error = named(more).unwrap_err();
        assert!(error.starts_with(problem), "{error}");
    }
}

#[test]
fn a_tenant_in_a_header_needs_a_list() {
    for more in [&[][..], &[("s.tenants", "*")]] {
        let all: Vec<_> = [("s.tenant", "header:x-shop")].iter().chain(more).copied().collect();
        let error = with(&all).unwrap_err();
        assert!(error.starts_with("source.s.tenants must list the tenants"), "{error}");
    }
    assert!(with(&[("s.tenant", "header:x-shop"), ("s.tenants", "shop=acme")]).is_ok());
}

#[test]
fn only_signed_fields_decide_where_fields_are_signed() {
    let adyen = |key: &str, place: &str| {
        let key = format!("s.{key}");
        let mut all = vec![("s.scheme", "adyen"), ("s.secret", "00"), ("s.tenant", "constant:acme")];
        all.retain(|(known, _)| *known != key);
        all.push((&key, place));
        find(&all).map(drop)
    };
    for (key, place) in [
        ("tenant", "pointer:/merchantAccountCode"),
        ("tenant", "path"),
        ("event-id", "pointer:/pspReference pointer:/amount/value"),
    ] {
        assert_eq!(adyen(key, place), Ok(()), "{key} {place}");
    }
    for (key, place) in [
        ("tenant", "pointer:/additionalData/store"),
        ("tenant", "root:/live"),
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
    let names = with(&[("s.key-names", "a,b")]).unwrap_err();
    assert_eq!(names, "source.s.key-names has 2 names for 1 keys");
    let twice = with(&[("s.tenants", "a=x,a=y")]).unwrap_err();
    assert_eq!(twice, "source.s.tenants names one tenant twice");
    assert!(with(&[("s.event-time", "pointer:/a pointer:/b")]).is_err());
    let braintree = with(&[("s.scheme", "braintree"), ("s.secret", "a:b"), ("s.items", "/a/*")]).unwrap_err();
    assert!(braintree.contains("in XML, and one event each"), "{braintree}");
}

#[test]
fn a_secret_is_never_quoted() {
    let error = with(&[("s.scheme", "standard-webhooks"), ("s.secret", "AAEC whsec_topsecret!")]).unwrap_err();
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
        "secret-name",
        "typo",
    ] {
        let key = format!("s.{key}");
        let error = find(&[SMALLEST[1], (&key, "topsecret,,")]).unwrap_err();
        assert!(!error.contains("topsecret"), "{error}");
    }
    let shown = format!("{:?}", with(&[("s.secret", "topsecret")]));
    assert!(!shown.contains("topsecret"), "{shown}");
}

proptest! {
    #[test]
    fn no_settings_make_it_panic(settings in prop::collection::vec((
        "source\\.s\\.(scheme|secret|secret-name|key-names|tenant|tenants|items|event-type|event-id|event-time|tolerance|max-body|evidence|root|x)",
        "(stripe|github|adyen|paypal|basic|path|digest|pointer:|root:|/|~|constant:|header:|\\*|,|=|[0-9]{0,25}|KiB|s|keep| |.){0,6}",
    ), 0..10)) {
        if let Ok(Some(source)) = Source::find(&settings, "s", &SampleSecrets) {
            prop_assert!(source.max_body <= MAX_BODY);
            prop_assert!(source.tolerance.as_secs() <= 86_400);
        }
    }
}
