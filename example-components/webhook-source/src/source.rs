//! A source of webhooks: who signs them, and how they become events.
//!
//! `docs/ingress.md` has the table of settings. Rules that hold for all of them:
//! - Everything that is wrong with a source is said at once, and no value is quoted: a secret that stands under the wrong
//!   key would end in the log.
//! - Where a signature covers single fields only, the tenant, the type and the id are taken from those fields and no
//!   others.
//! - The path and the headers are covered by no signature. Whoever holds the secret of a source that takes its tenant from
//!   there can speak for every tenant in `tenants`, which therefore has to list them where a header decides.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use webhook_signature::{Coverage, InvalidKeys, Keys, Scheme, UnknownScheme};

use crate::{
    defaults::{self, SIGNED_FIELDS},
    items::Items,
    place::{Place, Places},
    rule,
    setting::{InvalidSettings, Settings, SourceSettings},
    unit,
};

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
    /// Where the tenant is.
    pub tenant: Places,
    /// The tenants it may speak for, by what the webhook calls them; absent for all.
    pub tenants: Option<BTreeMap<String, String>>,
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

/// The parameter of the schemes that sign the URL.
const URL: &str = "notification-url";

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
        let keys = match (scheme, &secret, parameters) {
            (Some(scheme), Some(secret), Some(parameters)) => read_keys(&mut settings, scheme, secret, &parameters),
            _ => None,
        };
        let key_names = settings.optional("key-names", |text| read_key_names(keys.as_ref(), text));

        let tenant = settings.required("tenant", |text| {
            read_places(scheme, text, &["path", "pointer", "root", "header", "constant"])
        });
        let tenants = settings.optional("tenants", read_tenants);
        let by_header = |places: &Places| places.iter().any(|place| matches!(place, Place::Header(_)));
        if tenant.as_ref().is_some_and(by_header) && matches!(tenants, None | Some(None)) {
            let what = "must list the tenants, as the tenant is in a header, which no signature covers";
            settings.problem("tenants", what.to_owned());
        }
        let items = settings.optional("items", |text| read_items(scheme, text));
        let event_type = settings.optional("event-type", |text| {
            read_places(scheme, text, &["pointer", "root", "header", "constant"])
        });
        let event_id = settings.optional("event-id", |text| {
            read_places(scheme, text, &["pointer", "root", "header", "constant", "digest"])
        });
        let event_time = settings.optional("event-time", |text| read_time(scheme, text));
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

    /// The tenant that a webhook means by `found`, if the source may speak for it.
    pub fn tenant_of<'a>(&'a self, found: &'a str) -> Option<&'a str> {
        match &self.tenants {
            None => Some(found),
            Some(tenants) => tenants.get(found).map(String::as_str),
        }
    }

    /// What a key is called.
    pub fn key_name(&self, key: usize) -> String {
        self.key_names.get(key).cloned().unwrap_or_else(|| key.to_string())
    }
}

/// A secret and where it came from.
struct Secret {
    text: String,
    in_config: bool,
    key: &'static str,
}

/// `secret-name` names one that the host keeps; `secret` holds it, for one machine.
fn find_secret(settings: &mut SourceSettings<'_>, secrets: &impl Secrets) -> Option<Secret> {
    let text = settings.optional("secret", |text| Ok(text.to_owned()));
    let name = settings.optional("secret-name", |name| Ok(name.to_owned()));
    match (text, name) {
        (Some(text), None) => Some(Secret {
            text,
            in_config: true,
            key: "secret",
        }),
        (None, Some(name)) => match secrets.secret(&name) {
            Ok(Some(text)) => Some(Secret {
                text,
                in_config: false,
                key: "secret-name",
            }),
            Ok(None) => {
                let what = "names a secret that the component was not given: name it in the manifest's `secrets`";
                settings.problem("secret-name", what.to_owned());
                None
            }
            Err(error) => {
                settings.problem("secret-name", format!("names a secret that can't be read: {error}"));
                None
            }
        },
        (Some(_), Some(_)) => {
            settings.problem("secret", "can't be set together with secret-name".to_owned());
            None
        }
        (None, None) => {
            let what = "is missing: set secret-name to the name of a secret in the manifest";
            settings.problem("secret", what.to_owned());
            None
        }
    }
}

/// Takes the settings that are named for the scheme's parameters; nothing if a required one is missing.
///
/// Without a scheme, those of every scheme are passed over: what is wrong is the scheme.
fn read_parameters(settings: &mut SourceSettings<'_>, scheme: Option<Scheme>) -> Option<Vec<(&'static str, String)>> {
    let Some(scheme) = scheme else {
        for parameter in Scheme::ALL.iter().flat_map(|scheme| scheme.parameters()) {
            settings.pass_over(parameter.name);
        }
        return None;
    };
    let mut given = Vec::new();
    let mut complete = true;
    for parameter in scheme.parameters() {
        let value = if parameter.required {
            settings.required(parameter.name, |text| Ok(text.to_owned()))
        } else {
            settings.optional(parameter.name, |text| Ok(text.to_owned()))
        };
        complete &= value.is_some() || !parameter.required;
        given.extend(value.map(|value| (parameter.name, value)));
    }
    complete.then_some(given)
}

fn read_keys(
    settings: &mut SourceSettings<'_>,
    scheme: Scheme,
    secret: &Secret,
    parameters: &[(&'static str, String)],
) -> Option<Keys> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    match Keys::with_parameters(scheme, &secret.text, &parameters) {
        // Behind a proxy the component can't know under which URL its sender reaches it.
        Ok(keys) if scheme.covers_url() && keys.parameter(URL).is_none() => {
            settings.problem(
                URL,
                "is missing: the scheme signs the URL that the sender was given".to_owned(),
            );
            None
        }
        Ok(keys) => Some(keys),
        Err(InvalidKeys::InvalidParameter { name, problem }) => {
            settings.problem(name, problem.to_owned());
            None
        }
        Err(error) => {
            let what = match error.source() {
                Some(source) => format!("{error}: it {source}"),
                None => error.to_string(),
            };
            settings.problem(secret.key, what);
            None
        }
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

fn read_scheme(text: &str) -> Result<Scheme, String> {
    text.parse().map_err(|error: UnknownScheme| format!("is none: {error}"))
}

fn read_key_names(keys: Option<&Keys>, text: &str) -> Result<Vec<String>, String> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if !names.iter().all(|name| is_name(name)) {
        return Err("is no list of names out of a-z 0-9 - _, separated by commas".to_owned());
    }
    match keys {
        Some(keys) if keys.len() != names.len() => {
            let (names, keys) = (names.len(), keys.len());
            Err(format!("has {names} names for {keys} keys"))
        }
        _ => Ok(names),
    }
}

fn read_places(scheme: Option<Scheme>, text: &str, allowed: &[&str]) -> Result<Places, String> {
    let places: Places = text.parse().map_err(str::to_owned)?;
    for place in places.iter() {
        if !allowed.contains(&place.kind()) {
            return Err(format!("can't be {}, but {}", place.kind(), allowed.join(" or ")));
        }
    }
    if scheme.is_some_and(|scheme| scheme.coverage() == Coverage::Items) {
        let signed = |place: &Place| match place {
            Place::Pointer(pointer) => SIGNED_FIELDS.contains(&pointer.as_str()),
            Place::Constant(_) | Place::Path => true,
            _ => false,
        };
        if !places.iter().all(signed) {
            let fields = SIGNED_FIELDS.join(", ");
            return Err(format!("is not signed: the scheme signs only {fields} of an item"));
        }
    }
    Ok(places)
}

fn read_time(scheme: Option<Scheme>, text: &str) -> Result<Option<Places>, String> {
    if text == "none" {
        return Ok(None);
    }
    let places = read_places(scheme, text, &["pointer", "root", "header"])?;
    if places.iter().count() > 1 {
        return Err("can't be joined from several places".to_owned());
    }
    Ok(Some(places))
}

/// `acme`, or `acct_1=acme` where the webhook says `acct_1`.
fn read_tenants(text: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    if text == "*" {
        return Ok(None);
    }
    let mut tenants = BTreeMap::new();
    for entry in text.split(',').map(str::trim) {
        let (found, tenant) = entry.split_once('=').unwrap_or((entry, entry));
        let (found, tenant) = (found.trim(), tenant.trim());
        if found.is_empty() || !rule::is_tenant(tenant) {
            let what = "is neither `*` nor tenants separated by commas, each written TENANT or FOUND=TENANT, \
                        a tenant being 1 to 64 characters out of A-Z a-z 0-9 _ -";
            return Err(what.to_owned());
        }
        if tenants.insert(found.to_owned(), tenant.to_owned()).is_some() {
            return Err("names one tenant twice".to_owned());
        }
    }
    Ok(Some(tenants))
}

fn read_items(scheme: Option<Scheme>, text: &str) -> Result<Option<Items>, String> {
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
    text.parse().map(Some).map_err(str::to_owned)
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

fn read_evidence(scheme: Option<Scheme>, text: &str) -> Result<Evidence, String> {
    match text {
        "none" => Ok(Evidence::None),
        // The password would be stored with each event, for every consumer to read.
        "keep" if scheme.is_some_and(|scheme| scheme.coverage() == Coverage::Sender) => {
            Err("can't be keep: the scheme signs nothing, and its proof is the password itself".to_owned())
        }
        "keep" => Ok(Evidence::Keep),
        _ => Err("is neither none nor keep".to_owned()),
    }
}

#[cfg(test)]
mod tests;
