//! A source of webhooks: who signs them, and how they become events.
//!
//! `docs/ingress.md` has the table of settings. Rules that hold for all of them:
//! - Everything that is wrong with a source is said at once, and no value is quoted: a secret that stands under the wrong
//!   key would end in the log.
//! - What is not signed decides nothing, or a setting says that it does. The body's format is the scheme's or a setting,
//!   never the request's `Content-Type`. A header decides a type or a time only where `trust-unsigned` says so, or where the
//!   vendor has no other place for a type; an id only with `trust-unsigned`. Headers and the path decide the tenant only
//!   among those that `tenants` lists.
//! - Where a signature covers single fields only, the tenant, the type and the id are taken from those fields and no
//!   others. Where it covers an id, the id is the covered one.

mod keys;
mod places;
mod tenants;

use std::time::Duration;

use webhook_signature::{Coverage, Keys, Scheme, UnknownScheme};

use self::keys::{find_secret, read_key_names, read_keys, read_parameters};
use self::places::{ID, TIME, TYPE, is_of_the_request, read_places, read_time, read_trusted, unsigned_problem};
use self::tenants::{check_tenant, read_tenants};
use crate::{
    defaults,
    document::Format,
    items::Items,
    place::{Place, Places},
    setting::{InvalidSettings, Settings, SourceSettings},
    unit,
};

pub use self::tenants::Tenants;

/// A source of webhooks.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, as in the path.
    pub name: String,
    /// The active keys, and the scheme they are of.
    pub keys: Keys,
    /// What the keys are called, in their order; empty if they are only counted.
    pub key_names: Vec<String>,
    /// Whether the secret stands in the configuration, where it can be read.
    pub secret_in_config: bool,
    /// What its webhooks are written in.
    pub format: Format,
    /// Where the tenant is.
    pub tenant: Places,
    /// The tenants it may speak for; absent for all.
    pub tenants: Option<Tenants>,
    /// Where the events are, if a webhook holds many.
    pub items: Option<Items>,
    /// Where an event's type is.
    pub event_type: Places,
    /// Where an event's id is.
    pub event_id: Places,
    /// When it happened.
    pub event_time: Option<Places>,
    /// How far a signature's time may be from now; no matter where the scheme signs none.
    pub tolerance: Duration,
    /// The longest body in bytes.
    pub max_body: usize,
    /// What a consumer is given to check the signature again.
    pub evidence: Evidence,
}

/// What a consumer is given to check a signature again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing: it has to trust what the ingress says it verified.
    None,
    /// The raw body and the headers that were signed.
    Keep,
}

/// A body is held in memory whole, and more than one at a time.
pub const MAX_BODY: usize = 16 << 20;
/// Unless configured.
const DEFAULT_MAX_BODY: usize = 256 << 10;

/// PayPal repeats for three days with the time of the first attempt.
const MAX_TOLERANCE_S: u64 = 7 * 86_400;

/// Hands out the secrets that a component was given, by name.
pub trait Secrets {
    /// A secret; nothing if the component has none of this name. The error holds no secret.
    fn secret(&self, name: &str) -> Result<Option<String>, String>;
}

impl Source {
    /// Reads the settings of a source: nothing if there are none, or everything that is wrong with them.
    pub fn find(settings: &Settings, name: &str, secrets: &impl Secrets) -> Result<Option<Self>, InvalidSettings> {
        if !is_name(name) {
            return Ok(None);
        }
        let Some(mut settings) = SourceSettings::of(settings, name) else {
            return Ok(None);
        };
        let scheme = settings.required("scheme", read_scheme);
        let secret = find_secret(&mut settings, secrets);
        let parameters = read_parameters(&mut settings, scheme);
        let allow_short = settings.optional("allow-short-secret", read_flag).unwrap_or(false);
        let keys = match (scheme, &secret, parameters) {
            (Some(scheme), Some(secret), Some(parameters)) => {
                read_keys(&mut settings, scheme, secret, &parameters, allow_short)
            }
            _ => None,
        };
        let key_names = settings.optional("key-names", |text| read_key_names(keys.as_ref(), text));
        let format = settings.optional("format", |text| read_format(scheme, text));
        let format = format.unwrap_or_else(|| scheme.map_or(Format::Json, default_format));

        let tenant = settings.required("tenant", |text| {
            read_places(
                scheme,
                text,
                &["path", "pointer", "root", "header", "constant", "signed-id", "key"],
            )
        });
        let tenants = settings.optional("tenants", read_tenants);
        if let Some(tenant) = &tenant {
            check_tenant(&mut settings, tenant, &tenants, key_names.is_some());
        }
        let items = settings.optional("items", |text| read_items(scheme, format, text));
        let event_type = settings.optional("event-type", |text| {
            read_places(scheme, text, &["pointer", "root", "header", "constant"])
        });
        let event_id = settings.optional("event-id", |text| {
            let kinds = ["pointer", "root", "header", "constant", "digest", "signed-id"];
            read_places(scheme, text, &kinds)
        });
        let event_time = settings.optional("event-time", |text| read_time(scheme, text));
        let trusted = settings.optional("trust-unsigned", read_trusted).unwrap_or_default();
        if let Some(scheme) = scheme {
            let time = event_time.as_ref().and_then(Option::as_ref);
            for (part, places) in [(TYPE, event_type.as_ref()), (ID, event_id.as_ref()), (TIME, time)] {
                let untrusted = places.filter(|_| !trusted.contains(&part));
                if let Some(what) = untrusted.and_then(|places| unsigned_problem(scheme, part, places)) {
                    settings.problem(part, what);
                }
            }
        }
        let tolerance = settings.optional("tolerance", |text| read_tolerance(scheme, text));
        let max_body = settings.optional("max-body", read_max_body);
        let evidence = settings.optional("evidence", |text| read_evidence(scheme, text));
        settings.finish()?;

        // Whatever is missing here was named by `finish`.
        let (Some(scheme), Some(secret), Some(keys), Some(tenant)) = (scheme, secret, keys, tenant) else {
            return Ok(None);
        };
        let defaults = defaults::of(scheme);
        // The defaults are constants, and a test reads each of them.
        let default = |text: &str| text.parse::<Places>().unwrap_or(Places::from(Place::Digest));
        Ok(Some(Self {
            name: name.to_owned(),
            keys,
            key_names: key_names.unwrap_or_default(),
            secret_in_config: secret.in_config,
            format,
            tenant,
            tenants: tenants.flatten(),
            items: items.unwrap_or_else(|| defaults.items.and_then(|text| text.parse().ok())),
            event_type: event_type.unwrap_or_else(|| default(defaults.event_type)),
            event_id: event_id.unwrap_or_else(|| default(defaults.event_id)),
            event_time: event_time.unwrap_or_else(|| defaults.event_time.map(default)),
            tolerance: tolerance.or(scheme.default_tolerance()).unwrap_or_default(),
            max_body: max_body.unwrap_or(DEFAULT_MAX_BODY),
            evidence: evidence.unwrap_or(Evidence::None),
        }))
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.keys.scheme()
    }

    /// The CloudEvents `source` of its events: with their id it is their identity, so that no source takes another's for a
    /// repeat of its own.
    pub fn event_source(&self) -> String {
        format!("/webhooks/{}", self.name)
    }

    /// The tenant that a webhook means by `found`, if the source may speak for it.
    pub fn tenant_of<'a>(&'a self, found: &'a str) -> Option<&'a str> {
        match &self.tenants {
            None => Some(found),
            Some(tenants) => tenants.get(found),
        }
    }

    /// Whether what stands in a place is the word of whoever made the request, and of no holder of a key.
    ///
    /// Where a password is all that is proven, its holder made the whole request.
    pub(crate) fn is_unsigned(&self, place: &Place) -> bool {
        self.scheme().coverage() != Coverage::Sender && is_of_the_request(place)
    }

    /// What a key is called.
    pub fn key_name(&self, key: usize) -> String {
        self.key_names.get(key).cloned().unwrap_or_else(|| key.to_string())
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn read_scheme(text: &str) -> Result<Scheme, String> {
    text.parse().map_err(|error: UnknownScheme| format!("is none: {error}"))
}

fn read_flag(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// What a scheme's vendor sends.
fn default_format(scheme: Scheme) -> Format {
    match scheme.coverage() {
        Coverage::Payload => Format::Xml,
        _ => Format::Json,
    }
}

fn read_format(scheme: Option<Scheme>, text: &str) -> Result<Format, String> {
    match scheme.map(Scheme::coverage) {
        Some(Coverage::Items) => return Err("can't be set: the scheme's webhooks are in JSON".to_owned()),
        Some(Coverage::Payload) => return Err("can't be set: the scheme's payloads are in XML".to_owned()),
        _ => {}
    }
    text.parse().map_err(str::to_owned)
}

fn read_items(scheme: Option<Scheme>, format: Format, text: &str) -> Result<Option<Items>, String> {
    match scheme.map(Scheme::coverage) {
        Some(Coverage::Items) => return Err("can't be set: the scheme says where the items are".to_owned()),
        Some(Coverage::Payload) => {
            return Err("can't be set: the scheme's webhooks are in XML, and one event each".to_owned());
        }
        _ => {}
    }
    if text == "none" {
        return Ok(None);
    }
    if format != Format::Json {
        return Err("can't be set: only JSON holds many events".to_owned());
    }
    text.parse().map(Some).map_err(str::to_owned)
}

fn read_tolerance(scheme: Option<Scheme>, text: &str) -> Result<Duration, String> {
    if scheme.is_some_and(|scheme| !scheme.signs_time()) {
        return Err("can't be set: the scheme signs no time".to_owned());
    }
    let within = |tolerance: &Duration| (1..=MAX_TOLERANCE_S).contains(&tolerance.as_secs());
    unit::duration(text)
        .filter(within)
        .ok_or_else(|| "is no duration from 1s to 7d".to_owned())
}

fn read_max_body(text: &str) -> Result<usize, String> {
    let within = |size: &usize| (1..=MAX_BODY).contains(size);
    unit::size(text)
        .filter(within)
        .ok_or_else(|| "is no size from 1B to 16MiB".to_owned())
}

fn read_evidence(scheme: Option<Scheme>, text: &str) -> Result<Evidence, String> {
    match text {
        "none" => Ok(Evidence::None),
        // The password would be stored with each event, for every consumer to read.
        "keep" if scheme.is_some_and(|scheme| scheme.coverage() == Coverage::Sender) => {
            Err("can't be keep: the scheme signs nothing, and its proof is the password itself".to_owned())
        }
        "keep" if scheme.is_some_and(|scheme| !scheme.coverage().proves_later()) => Err(
            "can't be keep: the scheme signs a checksum, which proves nothing to whoever checks it again".to_owned(),
        ),
        "keep" => Ok(Evidence::Keep),
        _ => Err("is neither none nor keep".to_owned()),
    }
}

#[cfg(test)]
mod tests;
