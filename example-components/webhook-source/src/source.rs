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

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use webhook_signature::{Coverage, InvalidKey, InvalidKeys, Keys, MAX_KEYS, Scheme, UnknownScheme};

use crate::{
    defaults::{self, SIGNED_FIELDS},
    document::Format,
    event::Joint,
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

/// The tenants that a source may speak for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenants {
    /// By what the webhook calls them.
    listed: BTreeMap<String, String>,
    /// The tenant of everything that is not listed.
    others: Option<String>,
}

impl Tenants {
    /// The tenant that a webhook means by `found`.
    pub fn get(&self, found: &str) -> Option<&str> {
        self.listed.get(found).or(self.others.as_ref()).map(String::as_str)
    }

    /// What a webhook may have called a tenant.
    pub(crate) fn called<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a str> {
        let listed = self.listed.iter().filter(move |(_, known)| *known == tenant);
        let other = self.others.as_deref().filter(|known| *known == tenant);
        listed.map(|(found, _)| found.as_str()).chain(other)
    }
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

/// Secrets and where they came from.
struct FoundSecrets {
    /// Each may hold several keys, a line each.
    texts: Vec<String>,
    in_config: bool,
    key: &'static str,
}

/// `secret-name` names one that the host keeps, or several, separated by commas; `secret` holds it, for one machine.
fn find_secret(settings: &mut SourceSettings<'_>, secrets: &impl Secrets) -> Option<FoundSecrets> {
    // As it stands: a blank at its end is a part of it.
    let text = settings.take_as_it_stands("secret");
    let names = settings.optional("secret-name", |names| Ok(names.to_owned()));
    match (text, names) {
        (Some(text), None) => Some(FoundSecrets {
            texts: vec![text],
            in_config: true,
            key: "secret",
        }),
        (None, Some(names)) => {
            let mut texts = Vec::new();
            for (index, name) in names.split(',').enumerate() {
                if index >= MAX_KEYS {
                    settings.problem("secret-name", format!("names more than {MAX_KEYS} secrets"));
                    return None;
                }
                match secrets.secret(name.trim()) {
                    Ok(Some(text)) => texts.push(text),
                    Ok(None) => {
                        let what =
                            "names a secret that the component was not given: name it in the manifest's `secrets`";
                        settings.problem("secret-name", what.to_owned());
                        return None;
                    }
                    Err(error) => {
                        settings.problem("secret-name", format!("names a secret that can't be read: {error}"));
                        return None;
                    }
                }
            }
            Some(FoundSecrets {
                texts,
                in_config: false,
                key: "secret-name",
            })
        }
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
    secret: &FoundSecrets,
    parameters: &[(&'static str, String)],
    allow_short: bool,
) -> Option<Keys> {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let texts: Vec<_> = secret.texts.iter().map(String::as_str).collect();
    let read = if allow_short { Keys::allowing_short } else { Keys::of };
    match read(scheme, &texts, &parameters) {
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
            let mut what = match error.source() {
                Some(source) => format!("{error}: it {source}"),
                None => error.to_string(),
            };
            if matches!(
                error,
                InvalidKeys::Key {
                    source: InvalidKey::Short,
                    ..
                }
            ) {
                what.push_str("; set allow-short-secret to true to take that risk");
            }
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
    // The header that a signature covers is what the signature proves, under whichever of its names it came.
    let places = places.map(|place| match (scheme, place) {
        (Some(scheme), Place::Header(name)) if defaults::id_headers(scheme).contains(&name.as_str()) => Place::SignedId,
        (_, place) => place,
    });
    for place in places.iter() {
        if !allowed.contains(&place.kind()) {
            return Err(format!("can't be {}, but {}", place.kind(), allowed.join(" or ")));
        }
        if *place == Place::SignedId && scheme.is_some_and(|scheme| !scheme.covers_id()) {
            return Err("can't be signed-id: the scheme signs no id beside the body".to_owned());
        }
    }
    if scheme.is_some_and(|scheme| scheme.coverage() == Coverage::Items) {
        let signed = |place: &Place| match place {
            Place::Pointer(pointer) => SIGNED_FIELDS.contains(&pointer.as_str()),
            Place::Constant(_) | Place::Path | Place::Key => true,
            _ => false,
        };
        if !places.iter().all(signed) {
            let fields = SIGNED_FIELDS.join(", ");
            return Err(format!("is not signed: the scheme signs only {fields} of an item"));
        }
    }
    Ok(places)
}

/// Whether a place is in the request and outside of everything that a signature covers.
fn is_of_the_request(place: &Place) -> bool {
    matches!(place, Place::Path | Place::Header(_))
}

const TYPE: &str = "event-type";
const ID: &str = "event-id";
const TIME: &str = "event-time";

/// What is wrong with places that somebody decides who holds no key.
fn unsigned_problem(scheme: Scheme, part: &str, places: &Places) -> Option<String> {
    if scheme.coverage() == Coverage::Sender {
        return None;
    }
    let type_headers = defaults::type_headers(scheme);
    let is_of_type = |name: &str| type_headers.contains(&name);
    // A type that only a header names may be in the id too, beside something that is signed: there is one id for each type.
    let excused = |joined: &[Place], name: &str| match part {
        TYPE => is_of_type(name),
        ID => {
            is_of_type(name)
                && joined
                    .iter()
                    .any(|place| !is_of_the_request(place) && !is_constant(place))
        }
        _ => false,
    };
    for joined in places.alternatives() {
        for place in joined {
            if let Place::Header(name) = place
                && !excused(joined, name.as_str())
            {
                return Some(format!(
                    "is in a header that no signature covers: whoever posts a captured webhook again chooses it; take it \
                     from what is signed, or accept that with trust-unsigned: {part}"
                ));
            }
        }
    }
    None
}

fn is_constant(place: &Place) -> bool {
    matches!(place, Place::Constant(_))
}

/// The parts of an event that may come from where nothing is signed.
fn read_trusted(text: &str) -> Result<Vec<&'static str>, String> {
    let part = |text: &str| [TYPE, ID, TIME].into_iter().find(|part| *part == text.trim());
    text.split(',')
        .map(part)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("is no list of {TYPE}, {ID} and {TIME}, separated by commas"))
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

/// Who posts a webhook chooses its path and its headers: they may only choose among tenants that are listed.
fn check_tenant(
    settings: &mut SourceSettings<'_>,
    tenant: &Places,
    tenants: &Option<Option<Tenants>>,
    has_key_names: bool,
) {
    let listed = tenants.as_ref().and_then(Option::as_ref);
    if tenant.iter().any(is_of_the_request) && matches!(tenants, None | Some(None)) {
        let place = if tenant.has_path() { "the path" } else { "a header" };
        let what = format!("must list the tenants, as the tenant is in {place}, which no signature covers");
        settings.problem("tenants", what);
    }
    if tenant.iter().any(|place| *place == Place::Key) && !has_key_names {
        let what = "must name the keys, as the name of the key is the tenant";
        settings.problem("key-names", what.to_owned());
    }
    let all_constant = |joined: &&[Place]| joined.iter().all(is_constant);
    for joined in tenant.alternatives().filter(all_constant) {
        let values = joined.iter().filter_map(|place| match place {
            Place::Constant(value) => Some(value.clone()),
            _ => None,
        });
        let constant = Joint::Tenant.join(&values.collect::<Vec<_>>());
        if listed.is_some_and(|tenants| tenants.get(&constant).is_none()) {
            let what = "does not list the tenant that is a constant in `tenant`";
            settings.problem("tenants", what.to_owned());
        }
    }
}

fn read_time(scheme: Option<Scheme>, text: &str) -> Result<Option<Places>, String> {
    if text == "none" {
        return Ok(None);
    }
    let places = read_places(scheme, text, &["pointer", "root", "header"])?;
    if places.alternatives().any(|joined| joined.len() > 1) {
        return Err("can't be joined from several places".to_owned());
    }
    Ok(Some(places))
}

/// `acme`, or `acct_1=acme` where the webhook says `acct_1`, or `*=other` for whatever else it says.
fn read_tenants(text: &str) -> Result<Option<Tenants>, String> {
    if text == "*" {
        return Ok(None);
    }
    let mut tenants = Tenants::default();
    for entry in text.split(',').map(str::trim) {
        let (found, tenant) = entry.split_once('=').unwrap_or((entry, entry));
        let (found, tenant) = (found.trim(), tenant.trim());
        if found.is_empty() || tenant == "*" || !rule::is_text(tenant) {
            let what = "is neither `*` nor tenants separated by commas, each written TENANT or FOUND=TENANT, or *=TENANT \
                        for all others";
            return Err(what.to_owned());
        }
        let before = if found == "*" {
            tenants.others.replace(tenant.to_owned())
        } else {
            tenants.listed.insert(found.to_owned(), tenant.to_owned())
        };
        if before.is_some() {
            return Err("names one tenant twice".to_owned());
        }
    }
    Ok(Some(tenants))
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
