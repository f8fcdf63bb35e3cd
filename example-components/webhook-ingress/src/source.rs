//! A source of webhooks: who signs them, and how they become events.
//!
//! | setting `source.NAME.…` | meaning | default |
//! |---|---|---|
//! | `scheme` | `stripe`, `standard-webhooks` or `github` | required |
//! | `secret` | one secret, or several that are active, separated by white space | required |
//! | `tenant` | `path`, `pointer:/…` or `constant:…` | required |
//! | `tenants` | the tenants that the source may speak for, separated by commas, or `*` | `*` |
//! | `event-type` | `pointer:/…`, `header:…` or `constant:…` | `pointer:/type`; github: `header:x-github-event` |
//! | `event-id` | `pointer:/…` or `header:…` | by scheme: `pointer:/id`, `header:webhook-id`, `header:x-github-delivery` |
//! | `tolerance` | how old or early a signature may be, `1s` to `1d`; not for github, which signs no time | `300s` |
//! | `max-body` | the longest body, `1B` to `16MiB` | `256KiB` |
//!
//! A tenant is never taken from a header, as no signature covers one. The path is not covered either: with `tenant=path`,
//! whoever holds the secret can speak for every tenant in `tenants`.

use std::{collections::BTreeSet, error::Error as _, time::Duration};

use webhook_signature::{Keys, Scheme, UnknownScheme};

use crate::{
    place::Place,
    setting::{InvalidSettings, Settings, SourceSettings},
    unit,
};

/// A source of webhooks.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, as in the path.
    pub name: String,
    /// How its webhooks are signed.
    pub scheme: Scheme,
    /// The active keys.
    pub keys: Keys,
    /// Where the tenant is.
    pub tenant: Place,
    /// The tenants it may speak for; absent for all.
    pub tenants: Option<BTreeSet<String>>,
    /// Where the event's type is.
    pub event_type: Place,
    /// Where the event's id is.
    pub event_id: Place,
    /// How far a signature's time may be from now.
    pub tolerance: Duration,
    /// The longest body in bytes.
    pub max_body: usize,
}

/// A body is held in memory whole, and more than one at a time.
const MAX_BODY: usize = 16 << 20;

impl Source {
    /// Reads the settings of a source: nothing if there are none, or everything that is wrong with them.
    pub fn find(settings: &Settings, name: &str) -> Result<Option<Self>, InvalidSettings> {
        if !is_name(name) {
            return Ok(None);
        }
        let Some(mut settings) = SourceSettings::of(settings, name) else {
            return Ok(None);
        };
        let scheme = settings.required("scheme", read_scheme);
        let keys = match scheme {
            Some(scheme) => settings.required("secret", |text| read_keys(scheme, text)),
            // Without a scheme a secret can't be read, and its absence is still worth saying.
            None => settings.required("secret", |_| Ok(())).and(None),
        };
        let tenant = settings.required("tenant", |text| read_place(text, &["path", "pointer", "constant"]));
        let tenants = settings.optional("tenants", read_tenants).flatten();
        let event_type = settings.optional("event-type", |text| {
            read_place(text, &["pointer", "header", "constant"])
        });
        let event_id = settings.optional("event-id", |text| read_place(text, &["pointer", "header"]));
        let tolerance = settings.optional("tolerance", |text| read_tolerance(scheme, text));
        let max_body = settings.optional("max-body", read_max_body);
        settings.finish()?;

        // Whatever is missing here was named by `finish`.
        let (Some(scheme), Some(keys), Some(tenant)) = (scheme, keys, tenant) else {
            return Ok(None);
        };
        Ok(Some(Self {
            name: name.to_owned(),
            scheme,
            keys,
            tenant,
            tenants,
            event_type: event_type.unwrap_or_else(|| default_event_type(scheme)),
            event_id: event_id.unwrap_or_else(|| default_event_id(scheme)),
            tolerance: tolerance.or(scheme.default_tolerance()).unwrap_or_default(),
            max_body: max_body.unwrap_or(256 << 10),
        }))
    }

    /// Whether it may speak for a tenant.
    pub fn allows(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|tenants| tenants.contains(tenant))
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn default_event_type(scheme: Scheme) -> Place {
    match scheme {
        Scheme::Github => Place::Header(http::HeaderName::from_static("x-github-event")),
        _ => Place::Pointer("/type".to_owned()),
    }
}

fn default_event_id(scheme: Scheme) -> Place {
    match scheme {
        Scheme::StandardWebhooks => Place::Header(http::HeaderName::from_static("webhook-id")),
        Scheme::Github => Place::Header(http::HeaderName::from_static("x-github-delivery")),
        _ => Place::Pointer("/id".to_owned()),
    }
}

// No reader quotes a value: a secret that stands under the wrong key would end in the log.

fn read_scheme(text: &str) -> Result<Scheme, String> {
    text.parse().map_err(|error: UnknownScheme| format!("is none: {error}"))
}

fn read_keys(scheme: Scheme, text: &str) -> Result<Keys, String> {
    Keys::parse(scheme, text).map_err(|error| match error.source() {
        Some(source) => format!("{error}: it {source}"),
        None => error.to_string(),
    })
}

fn read_place(text: &str, allowed: &[&str]) -> Result<Place, String> {
    let place: Place = text.parse().map_err(str::to_owned)?;
    let kind = text.split(':').next().unwrap_or_default();
    if allowed.contains(&kind) {
        Ok(place)
    } else {
        Err(format!("can't be {kind}, but {}", allowed.join(" or ")))
    }
}

fn read_tenants(text: &str) -> Result<Option<BTreeSet<String>>, String> {
    if text == "*" {
        return Ok(None);
    }
    let tenants: BTreeSet<_> = text.split(',').map(|tenant| tenant.trim().to_owned()).collect();
    if tenants.iter().any(|tenant| tenant.is_empty() || tenant.contains('*')) {
        return Err("is neither `*` nor tenants separated by commas".to_owned());
    }
    Ok(Some(tenants))
}

fn read_tolerance(scheme: Option<Scheme>, text: &str) -> Result<Duration, String> {
    if scheme.is_some_and(|scheme| !scheme.signs_time()) {
        return Err("can't be set: the scheme signs no time".to_owned());
    }
    let within = |tolerance: &Duration| (1..=86_400).contains(&tolerance.as_secs());
    unit::duration(text)
        .filter(within)
        .ok_or_else(|| "is no duration from 1s to 1d".to_owned())
}

fn read_max_body(text: &str) -> Result<usize, String> {
    let within = |size: &usize| (1..=MAX_BODY).contains(size);
    unit::size(text)
        .filter(within)
        .ok_or_else(|| "is no size from 1B to 16MiB".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(pairs: &[(&str, &str)]) -> Result<Option<Source>, String> {
        let settings = pairs
            .iter()
            .map(|(key, value)| (format!("source.{key}"), value.to_string()))
            .collect();
        Source::find(&settings, "s").map_err(|error| error.to_string())
    }

    const SMALLEST: [(&str, &str); 3] = [("s.scheme", "stripe"), ("s.secret", "whsec_a"), ("s.tenant", "path")];

    #[test]
    fn three_settings_make_a_source() {
        let source = find(&SMALLEST).unwrap().unwrap();
        assert_eq!((source.name.as_str(), source.scheme), ("s", Scheme::Stripe));
        assert_eq!(source.tenant, Place::Path);
        assert_eq!(
            (source.event_type.to_string(), source.event_id.to_string()),
            ("pointer:/type".into(), "pointer:/id".into())
        );
        assert_eq!((source.tolerance, source.max_body), (Duration::from_secs(300), 262_144));
        assert!(source.allows("anyone"));
    }

    #[test]
    fn each_scheme_has_its_places() {
        for (scheme, event_type, event_id) in [
            ("stripe", "pointer:/type", "pointer:/id"),
            ("standard-webhooks", "pointer:/type", "header:webhook-id"),
            ("github", "header:x-github-event", "header:x-github-delivery"),
        ] {
            let source = find(&[
                ("s.scheme", scheme),
                ("s.secret", "AAEC"),
                ("s.tenant", "constant:acme"),
            ]);
            let source = source.unwrap().unwrap();
            assert_eq!(
                (source.event_type.to_string(), source.event_id.to_string()),
                (event_type.into(), event_id.into())
            );
        }
    }

    #[test]
    fn every_setting_is_read() {
        let source = find(&[
            ("s.scheme", "stripe"),
            ("s.secret", "one two"),
            ("s.tenant", "pointer:/account"),
            ("s.tenants", "acme, beta"),
            ("s.event-type", "constant:payment"),
            ("s.event-id", "header:x-id"),
            ("s.tolerance", "1m"),
            ("s.max-body", "1KiB"),
        ]);
        let source = source.unwrap().unwrap();
        assert_eq!(source.tenant.to_string(), "pointer:/account");
        assert_eq!(
            (source.event_type.to_string(), source.event_id.to_string()),
            ("constant:payment".into(), "header:x-id".into())
        );
        assert_eq!((source.tolerance, source.max_body), (Duration::from_secs(60), 1024));
        assert!(source.allows("acme") && source.allows("beta"));
        assert!(!source.allows("gamma") && !source.allows("acme, beta") && !source.allows("*"));
    }

    #[test]
    fn a_source_without_settings_is_unknown() {
        assert!(matches!(find(&[]), Ok(None)));
        assert!(matches!(find(&[("other.scheme", "stripe")]), Ok(None)));
        for name in ["", "S", "a.b", "a/b", "é", &"a".repeat(65)] {
            let settings = vec![(format!("source.{name}.scheme"), "stripe".to_owned())];
            assert!(matches!(Source::find(&settings, name), Ok(None)), "{name:?}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let error = find(&[
            ("s.scheme", "strype"),
            ("s.tenant", "header:x-tenant"),
            ("s.tenants", "a,,b"),
            ("s.event-type", "path"),
            ("s.event-id", "constant:1"),
            ("s.tolerance", "0s"),
            ("s.max-body", "1GiB"),
            ("s.max_body", "1KiB"),
        ]);
        let error = error.unwrap_err();
        for problem in [
            "source.s.scheme is none: no signature scheme has this name",
            "source.s.secret is missing",
            "source.s.tenant can't be header, but path or pointer or constant",
            "source.s.tenants is neither",
            "source.s.event-type can't be path",
            "source.s.event-id can't be constant",
            "source.s.tolerance is no duration",
            "source.s.max-body is no size",
            "source.s.max_body is unknown",
        ] {
            assert!(error.contains(problem), "{problem}: {error}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = find(&[("s.max-body", "1B")]).unwrap_err();
        assert_eq!(
            error,
            "source.s.scheme is missing; source.s.secret is missing; source.s.tenant is missing"
        );
    }

    #[test]
    fn a_scheme_without_time_takes_no_tolerance() {
        let github = [
            ("s.scheme", "github"),
            ("s.secret", "a"),
            ("s.tenant", "constant:acme"),
            ("s.tolerance", "300s"),
        ];
        assert_eq!(
            find(&github).unwrap_err(),
            "source.s.tolerance can't be set: the scheme signs no time"
        );
    }

    #[test]
    fn a_secret_is_never_quoted() {
        let broken = [
            ("s.scheme", "standard-webhooks"),
            ("s.secret", "AAEC whsec_topsecret!"),
            ("s.tenant", "path"),
        ];
        let error = find(&broken).unwrap_err();
        assert!(
            error.starts_with("source.s.secret holds secrets of which number 2 can't be used"),
            "{error}"
        );
        assert!(!error.contains("topsecret"), "{error}");
        for key in [
            "scheme",
            "tenant",
            "tenants",
            "event-type",
            "event-id",
            "tolerance",
            "max-body",
            "typo",
        ] {
            let wrong_place = [SMALLEST[1], (&format!("s.{key}"), "topsecret,,")];
            let error = find(&wrong_place).unwrap_err();
            assert!(!error.contains("topsecret"), "{error}");
        }
        let shown = format!("{:?}", find(&[SMALLEST[0], ("s.secret", "topsecret"), SMALLEST[2]]));
        assert!(!shown.contains("topsecret"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_settings_make_it_panic(settings in prop::collection::vec((
            "source\\.s\\.(scheme|secret|tenant|tenants|event-type|event-id|tolerance|max-body|x)",
            "(stripe|github|path|pointer:|/|~|constant:|\\*|,|[0-9]{0,25}|KiB|s|.){0,6}",
        ), 0..8)) {
            if let Ok(Some(source)) = Source::find(&settings, "s") {
                prop_assert!(source.max_body <= MAX_BODY);
            }
        }
    }
}
