//! Who may do what, beyond the lattice: the policy's `callers`. On the lattice a link says it; a program that comes over
//! a connection of its own is known by its certificate, its user, or only as a process of this machine, and the policy
//! says what that one may publish and subscribe to.

use std::collections::BTreeMap;
use std::fmt;

use crate::link::{self, Grant};
use crate::name::shown;
use crate::setting::{self, Reader, Settings};
use crate::{Code, Filter, Problem, Sources};

/// The first token of these settings' names.
const PREFIX: &str = "callers.";

/// How a caller that is not on the lattice is known: by its connection, never by what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A name in a certificate that the listener's authority signed.
    Certificate(String),
    /// A user of this machine, as its kernel says.
    UnixUser(u32),
    /// Some process of this machine.
    Loopback,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(name) => write!(f, "certificate {}", shown(name)),
            Self::UnixUser(uid) => write!(f, "unix user {uid}"),
            Self::Loopback => f.write_str("a process of this machine without a name"),
        }
    }
}

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

    /// The caller that has an identity.
    pub fn find(&self, identity: &Identity) -> Option<&NamedCaller> {
        self.by_name.get(self.names.get(identity)?)
    }

    /// The one name under which the bus knows whoever has an identity: a caller's id, or that of a stranger, who may do
    /// nothing.
    pub fn id_of(&self, identity: &Identity) -> String {
        self.find(identity).map_or_else(|| stranger(identity), |c| c.id.clone())
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

/// The id of whoever has an identity that the policy does not name.
pub fn stranger(identity: &Identity) -> String {
    format!("{STRANGER}{identity}")
}

/// Whether an id is one that only the bus itself gives: nobody may call itself so.
pub fn is_given(id: &str) -> bool {
    is_named_caller(id) || id.starts_with(STRANGER)
}

/// Whether an id is that of a named caller, whom nobody can call.
pub fn is_named_caller(id: &str) -> bool {
    id.starts_with(ID_PREFIX)
}

/// Why a stranger may do nothing; `None` for anyone else.
pub fn refusal(id: &str) -> Option<Problem> {
    let identity = id.strip_prefix(STRANGER)?;
    Some(Problem::new(
        Code::UnknownCaller,
        format!(
            "{identity} is no caller of this bus: add a table `[callers.NAME]` to the policy that names it (`certificate`, `unix-uid` or `loopback = true`), and says what it may do"
        ),
    ))
}

/// For messages: a component by its link, a caller by its name.
pub fn describe(id: &str, link: &str) -> String {
    match id.strip_prefix(ID_PREFIX) {
        Some(name) => format!("caller {name}"),
        None => format!("link {link} of component {id}"),
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
    let certificate = r.optional("certificate", certificate_name);
    let uid = r.optional("unix-uid", setting::number(0, u32::MAX.into()));
    let loopback = r.or("loopback", false, setting::word(&[("true", true), ("false", false)]));
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
    let identities: Vec<_> = [
        certificate.map(Identity::Certificate),
        uid.map(|uid| Identity::UnixUser(uid as u32)),
        loopback.then_some(Identity::Loopback),
    ]
    .into_iter()
    .flatten()
    .collect();
    if identities.is_empty() {
        r.refuse(
            Code::MissingSetting,
            "it says by what it is known: give it `certificate`, `unix-uid` or `loopback = true`",
        );
    }
    let may = |interface, tenants: bool| match &interfaces {
        Some(listed) => listed.contains(&interface),
        None => tenants,
    };
    let publish = may(Interface::Publisher, publish_tenants.is_some());
    let subscribe = may(Interface::Subscriber, subscribe_tenants.is_some());
    let inbox = may(Interface::Inbox, subscribe_tenants.is_some());
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
            r.refuse(
                Code::ConflictingSettings,
                format!("`{side}.{setting}` means nothing without `{side}.tenants`"),
            );
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

fn certificate_name(s: &str) -> Result<String, Problem> {
    if (1..=253).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(s.to_owned());
    }
    Err(Problem::new(
        Code::InvalidSetting,
        format!(
            "{} is not a certificate's name: write its first URI or DNS name, such as `spiffe://example.org/billing` or `billing.example.org`",
            shown(s)
        ),
    ))
}

#[cfg(test)]
mod tests;
