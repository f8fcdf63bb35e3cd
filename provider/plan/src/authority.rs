//! Who may do what, beyond the lattice: the policy's `callers`. On the lattice a link says it; a program that comes over
//! a connection of its own is known by its certificate, its user, the token that it shows, or only as a process of this
//! machine, and the policy says what that one may publish and subscribe to.

mod identity;
pub mod token;

use std::collections::{BTreeMap, BTreeSet};

pub use identity::Identity;
pub use token::TokenHash;

use crate::link::{self, Grant};
use crate::name::shown;
use crate::setting::{self, Reader, Settings};
use crate::{Code, Filter, Problem, Sources};

/// The first token of these settings' names.
const PREFIX: &str = "callers.";

/// A caller that the policy names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCaller {
    /// Its name in the policy.
    pub name: String,
    /// Under which its subscriptions are remembered; no component's id has this form.
    pub id: String,
    /// What it may publish.
    pub publishing: Grant,
    /// What it may subscribe to, and fetch.
    pub subscribing: Grant,
    /// It may ask how its links are doing, of which it has none, and what became of the events that it may subscribe to.
    pub status: bool,
    /// It may read the metrics, which name subscriptions and tenants whoever's they are.
    pub metrics: bool,
}

/// Every caller that the policy names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    by_name: BTreeMap<String, NamedCaller>,
    names: BTreeMap<Identity, String>,
}

impl Callers {
    /// Takes the settings of callers out of a policy's.
    pub fn split(settings: &Settings) -> (Settings, Settings) {
        settings
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .partition(|(k, _)| k.starts_with(PREFIX))
    }

    /// Reads the settings of callers.
    ///
    /// # Errors
    /// Every problem of every caller.
    pub fn from_settings(owner: &str, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut grouped: BTreeMap<&str, Settings> = BTreeMap::new();
        for (key, value) in settings {
            match key.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) {
                Some((name, rest)) if is_name(name) => {
                    let group = grouped.entry(name).or_default();
                    group.insert(rest.to_owned(), value.clone());
                }
                _ => problems.push(Problem {
                    setting: Some(key.clone()),
                    ..Problem::new(
                        Code::UnknownSetting,
                        format!(
                            "{owner}: setting {} names no caller: write `callers.NAME.SETTING`, with a name of 1 to 64 characters out of A-Z a-z 0-9 _ -",
                            shown(key)
                        ),
                    )
                }),
            }
        }
        let mut callers = Self::default();
        for (name, settings) in grouped {
            match caller(owner, name, &settings) {
                Ok((caller, identities)) => {
                    for identity in identities {
                        if let Some(other) = callers.names.insert(identity.clone(), name.to_owned()) {
                            problems.push(Problem::new(
                                Code::ConflictingSettings,
                                format!("{owner}: callers {other} and {name} are both {identity}: give each its own"),
                            ));
                        }
                    }
                    callers.by_name.insert(name.to_owned(), caller);
                }
                Err(p) => problems.extend(p),
            }
        }
        if problems.is_empty() {
            Ok(callers)
        } else {
            Err(problems)
        }
    }

    /// The caller that a connection proves to be, by any of what it proves. `None` for a stranger, and for whoever would
    /// be several callers at once.
    pub fn find(&self, identities: &[Identity]) -> Option<&NamedCaller> {
        let mut names = self.names_of(identities).into_iter();
        match (names.next(), names.next()) {
            (Some(name), None) => self.by_name.get(name),
            _ => None,
        }
    }

    /// That of what a connection proves by which it is a caller.
    pub fn proof<'a>(&self, identities: &'a [Identity]) -> Option<&'a Identity> {
        let mut identities = identities.iter();
        identities.find(|identity| !self.names_of(std::slice::from_ref(identity)).is_empty())
    }

    /// Whether a token is that of a caller.
    pub fn knows_token(&self, token: &TokenHash) -> bool {
        self.name_of_token(token).is_some()
    }

    fn names_of(&self, identities: &[Identity]) -> BTreeSet<&str> {
        let name = |identity: &Identity| match identity {
            Identity::Token(token) => self.name_of_token(token),
            identity => self.names.get(identity).map(String::as_str),
        };
        identities.iter().filter_map(name).collect()
    }

    /// Looks at every token, whichever it is, and compares each in constant time.
    fn name_of_token(&self, token: &TokenHash) -> Option<&str> {
        let mut found = None;
        for (known, name) in &self.names {
            if let Identity::Token(known) = known
                && known.is(token)
            {
                found = Some(name.as_str());
            }
        }
        found
    }

    /// The one name under which the bus knows whoever a connection proves to be: a caller's id, or that of a stranger,
    /// who may do nothing.
    pub fn id_of(&self, identities: &[Identity]) -> String {
        let names = self.names_of(identities);
        match names.len() {
            0 => stranger(identities),
            1 => self
                .find(identities)
                .map_or_else(|| stranger(identities), |c| c.id.clone()),
            // The rights of the first would be those of whoever sorts first, and a sum is nobody's intention.
            _ => {
                let names: Vec<_> = names.into_iter().take(2).collect();
                format!(
                    "{SEVERAL}{} is both callers {}",
                    identity::describe(identities),
                    names.join(" and ")
                )
            }
        }
    }

    /// The caller that subscriptions are remembered under, if it is one of these.
    pub fn by_id(&self, id: &str) -> Option<&NamedCaller> {
        self.by_name.get(id.strip_prefix(ID_PREFIX)?)
    }

    /// Whether the policy names none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// A component's id is a token of a subject, and has no colon.
const ID_PREFIX: &str = "caller:";
const STRANGER: &str = "stranger:";
const SEVERAL: &str = "several:";

/// The id of whoever the policy does not name.
pub fn stranger(identities: &[Identity]) -> String {
    format!("{STRANGER}{}", identity::describe(identities))
}

/// Whether an id is one that only the bus itself gives: nobody may call itself so.
pub fn is_given(id: &str) -> bool {
    [ID_PREFIX, STRANGER, SEVERAL]
        .iter()
        .any(|prefix| id.starts_with(prefix))
}

/// Whether an id is that of a named caller, whom nobody can call.
pub fn is_named_caller(id: &str) -> bool {
    id.starts_with(ID_PREFIX)
}

/// Why a stranger may do nothing; `None` for anyone else.
pub fn refusal(id: &str) -> Option<Problem> {
    let message = match (id.strip_prefix(STRANGER), id.strip_prefix(SEVERAL)) {
        (Some(""), _) => "a caller that nothing is known of is no caller of this bus: its connection tells no name, and it is \
             no process of this machine on a listener that authenticates nobody. Show a certificate with a URI, a DNS name or \
             a common name, or over HTTP a token, and name it in a table `[callers.NAME]` of the policy"
            .to_owned(),
        (Some(identity), _) => format!(
            "{identity} is no caller of this bus: add a table `[callers.NAME]` to the policy that names it \
             (`certificate-uri`, `certificate-dns`, `certificate-cn`, `unix-uid`, `token-sha256` or `loopback = true`), and says what it may do"
        ),
        (_, Some(several)) => format!(
            "{several} in the policy: let one table `[callers.NAME]` have all names of this certificate, and the token beside it, or \
             show what is one caller's"
        ),
        _ => return None,
    };
    Some(Problem::new(Code::UnknownCaller, message))
}

/// For messages: a component by its link, a caller by its name.
pub fn describe(id: &str, link: &str) -> String {
    match id.strip_prefix(ID_PREFIX) {
        Some(name) => format!("caller {name}"),
        None => format!("link {link} of component {id}"),
    }
}

/// For messages: a component by its id, a caller by its name.
pub fn named(id: &str) -> String {
    match id.strip_prefix(ID_PREFIX) {
        Some(name) => format!("caller {name}"),
        None => format!("component {id}"),
    }
}

/// For messages: how whoever has no subscription of a name comes by one.
pub fn unsubscribed(id: &str, name: &str) -> String {
    let declared = match id.strip_prefix(ID_PREFIX) {
        Some(_) => format!("declare it in the policy with `component = \"{id}\"`"),
        None => "declare it in a link".to_owned(),
    };
    format!(
        "{} has no subscription {name:?}: subscribe to it, or {declared}",
        named(id)
    )
}

/// For messages: where it is written what a caller may do. `setting` is what the policy calls it, such as
/// `publish.tenants`; a link has no `publish.` and no `subscribe.` before it.
pub fn setting(id: &str, setting: &str) -> String {
    match id.strip_prefix(ID_PREFIX) {
        Some(name) => format!("`callers.{name}.{setting}`"),
        None => format!("the link's `{}`", setting.rsplit('.').next().unwrap_or(setting)),
    }
}

fn is_name(s: &str) -> bool {
    (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

#[derive(Clone, Copy, PartialEq)]
enum Interface {
    Publisher,
    Subscriber,
    Inbox,
    Status,
}

fn caller(owner: &str, name: &str, settings: &Settings) -> Result<(NamedCaller, Vec<Identity>), Vec<Problem>> {
    let owner = format!("{owner}: caller {name}");
    let mut r = Reader::new(&owner, settings);
    if let Some(name) = r.refused(identity::EVERY_KIND) {
        r.refuse_setting(
            identity::EVERY_KIND,
            Code::UnknownSetting,
            identity::without_a_kind(name),
        );
    }
    let uri = r.optional("certificate-uri", identity::uri);
    let dns = r.optional("certificate-dns", identity::dns);
    let common_name = r.optional("certificate-cn", identity::common_name);
    let uid = r.optional("unix-uid", identity::unix_user);
    let tokens = r.or("token-sha256", Vec::new(), token::tokens);
    let loopback = r.or("loopback", false, setting::word(&[("true", true), ("false", false)]));
    let metrics = r.or("metrics", false, setting::word(&[("true", true), ("false", false)]));
    let publish_tenants = r.optional("publish.tenants", link::tenants);
    let publish_types = r.optional("publish.event-types", setting::list);
    let publish_sources = r.optional("publish.sources", Sources::parse);
    let subscribe_tenants = r.optional("subscribe.tenants", link::tenants);
    let subscribe_types = r.optional("subscribe.event-types", setting::list);
    let interfaces = r.optional("interfaces", |s| {
        let parse = setting::word(&[
            ("publisher", Interface::Publisher),
            ("subscriber", Interface::Subscriber),
            ("inbox", Interface::Inbox),
            ("status", Interface::Status),
        ]);
        s.split(',')
            .map(|item| parse(item.trim()))
            .collect::<Result<Vec<_>, _>>()
    });
    let identities: Vec<_> = [uri, dns, common_name, uid, loopback.then_some(Identity::Loopback)]
        .into_iter()
        .flatten()
        .chain(tokens)
        .collect();
    if identities.is_empty() && !settings.contains_key(identity::EVERY_KIND) {
        r.refuse(
            Code::MissingSetting,
            "it says by what it is known: give it `certificate-uri`, `certificate-dns`, `certificate-cn`, `unix-uid`, `token-sha256` or `loopback = true`",
        );
    }
    let may = |interface, tenants: bool| match &interfaces {
        Some(listed) => listed.contains(&interface),
        None => tenants,
    };
    let publish = may(Interface::Publisher, publish_tenants.is_some());
    let subscribe = may(Interface::Subscriber, subscribe_tenants.is_some());
    let inbox = may(Interface::Inbox, subscribe_tenants.is_some());
    let status = may(Interface::Status, true);
    if publish && publish_tenants.is_none() {
        r.refuse(
            Code::MissingSetting,
            "setting `publish.tenants` is missing: list the tenants it may publish for, or `*` for all",
        );
    }
    if (subscribe || inbox) && subscribe_tenants.is_none() {
        r.refuse(
            Code::MissingSetting,
            "setting `subscribe.tenants` is missing: list the tenants it may subscribe for, or `*` for all",
        );
    }
    for (side, setting, given, tenants) in [
        (
            "publish",
            "event-types",
            publish_types.is_some(),
            publish_tenants.is_some(),
        ),
        (
            "publish",
            "sources",
            publish_sources.is_some(),
            publish_tenants.is_some(),
        ),
        (
            "subscribe",
            "event-types",
            subscribe_types.is_some(),
            subscribe_tenants.is_some(),
        ),
    ] {
        if given && !tenants {
            r.conflict(format!("`{side}.{setting}` means nothing without `{side}.tenants`"));
        }
    }
    let mut problems = r.finish();
    if !problems.is_empty() {
        for p in &mut problems {
            // The setting as it stands in the document.
            p.setting = p.setting.take().map(|s| format!("{PREFIX}{name}.{s}"));
        }
        return Err(problems);
    }
    let grant = |tenants: Option<_>, types: Option<_>| Grant {
        allows: Filter::new(tenants.unwrap_or_default(), types.unwrap_or_default()),
        sources: Sources::all(),
        publish: false,
        subscribe: false,
        inbox: false,
    };
    let caller = NamedCaller {
        name: name.to_owned(),
        id: format!("{ID_PREFIX}{name}"),
        status,
        metrics,
        publishing: Grant {
            publish,
            sources: publish_sources.unwrap_or_default(),
            ..grant(publish_tenants, publish_types)
        },
        subscribing: Grant {
            subscribe,
            inbox,
            ..grant(subscribe_tenants, subscribe_types)
        },
    };
    Ok((caller, identities))
}

#[cfg(test)]
mod tests;
