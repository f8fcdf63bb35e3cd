//! Who may call what, and how much of anything may be in a call: decided before its parameters are decoded.
//!
//! What a caller may do with a tenant, an event type or a subscription is decided by the function, which knows them.

use bytes::Bytes;
use fanout_plan::authority::TokenHash;
use fanout_plan::link::Grant;
use fanout_plan::{Code, Problem, authority};
use fanout_transport::{Caller, Error, Guard, Refusal, Shape, Tally, TooMany, encode, listed};

use super::backend::{Authority, Rights};
use super::errors::{inbox_refusal, publish_refusal, settle_refusal, subscribe_refusal};
use super::exports::known;
use super::shapes::{self, MAX_ITEMS};

/// A call with more items than this is answered by one refusal, not by one for each.
const MAX_REFUSALS: usize = 2 * MAX_ITEMS;
/// Bytes of the smallest event and the smallest settlement.
const MIN_EVENT_BYTES: usize = 11;
const MIN_SETTLEMENT_BYTES: usize = 2;

/// An interface of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interface {
    Publisher,
    Subscriber,
    Inbox,
    Status,
}

impl Interface {
    fn of(instance: &str) -> Option<Self> {
        match name_of(instance)? {
            "publisher" => Some(Self::Publisher),
            "subscriber" => Some(Self::Subscriber),
            "inbox" => Some(Self::Inbox),
            "status" => Some(Self::Status),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
            Self::Inbox => "inbox",
            Self::Status => "status",
        }
    }
}

/// The interface of `fanout:bus/{interface}@{version}`.
fn name_of(instance: &str) -> Option<&str> {
    let name = instance.strip_prefix("fanout:bus/")?;
    name.split('@').next()
}

/// Whether a caller may call functions of an interface.
pub(super) fn may(view: &impl Rights, caller: &Caller, interface: Interface) -> Result<(), Problem> {
    match interface {
        // Who has a link that was refused may ask why.
        Interface::Status => included(view.may_list_links(caller)?, caller, interface),
        _ => granted(view, caller, interface).map(drop),
    }
}

/// What a caller may do through a link that includes the interface.
pub(super) fn granted<'a>(view: &'a impl Rights, caller: &Caller, interface: Interface) -> Result<&'a Grant, Problem> {
    let grant = view.grant(caller, interface)?;
    let includes = match interface {
        Interface::Publisher => grant.publish,
        Interface::Subscriber => grant.subscribe,
        Interface::Inbox => grant.inbox,
        Interface::Status => view.may_list_links(caller)?,
    };
    included(includes, caller, interface)?;
    Ok(grant)
}

fn included(includes: bool, caller: &Caller, interface: Interface) -> Result<(), Problem> {
    if includes {
        return Ok(());
    }
    Err(Problem::new(
        Code::InterfaceNotLinked,
        format!(
            "{} does not include `{}`: add it to {}",
            authority::describe(&caller.component, &caller.link),
            interface.as_str(),
            authority::setting(&caller.component, "interfaces")
        ),
    ))
}

/// The guard of the contract's functions.
pub(super) struct OfContract<A> {
    authority: A,
    refused: Tally,
}

impl<A: Authority> OfContract<A> {
    pub(super) fn new(authority: A) -> Self {
        Self {
            authority,
            refused: Tally::new("calls were refused by who made them"),
        }
    }
}

impl<A: Authority> Guard for OfContract<A> {
    fn admit(&self, caller: Caller, instance: &str, func: &str, first: &[u8]) -> Result<Caller, Refusal> {
        let view = self.authority.view();
        let caller = known(&*view, caller);
        let Some(interface) = Interface::of(instance) else {
            return Err(Refusal::Failure(format!("{instance} is no interface of the bus")));
        };
        match may(&*view, &caller, interface) {
            Ok(()) => Ok(caller),
            Err(p) => {
                self.refused.count(|| format!("{}.{func}: {p}", interface.as_str()));
                Err(refuse(interface, func, p, first))
            }
        }
    }

    fn shape(&self, instance: &str, func: &str) -> Option<&'static Shape> {
        shapes::of(name_of(instance)?, func)
    }

    fn knows_token(&self, sha256: &[u8; 32]) -> bool {
        self.authority.view().knows_token(&TokenHash::new(*sha256))
    }

    fn too_many(&self, caller: &Caller, instance: &str, func: &str, many: TooMany) -> Refusal {
        let TooMany { of, count, most } = many;
        let p = match of {
            "events" => Problem::new(
                Code::TooManyEvents,
                format!("{count} events in one call: at most {most} are taken, and none of these was stored"),
            ),
            "settlements" => Problem::new(
                Code::TooManyEvents,
                format!("{count} settlements in one call: at most {most} are taken, and none of these was"),
            ),
            _ => Problem::new(
                if of == "extensions" {
                    Code::InvalidAttribute
                } else {
                    Code::InvalidSetting
                },
                format!("{count} {of} in one place: at most {most} are read, and nothing of this call was taken"),
            ),
        };
        let key = authority::describe(&caller.component, &caller.link);
        self.refused.count(|| format!("{func} by {key}: {p}"));
        match Interface::of(instance) {
            Some(interface) => {
                let items = usize::try_from(count).unwrap_or(usize::MAX);
                let items = if matches!(of, "events" | "settlements") {
                    items
                } else {
                    1
                };
                answer(interface, func, p, if items > MAX_REFUSALS { 1 } else { items })
            }
            None => Refusal::Failure(p.to_string()),
        }
    }
}

/// The refusal of a call by its caller, with as many answers as its function owes for what is here.
fn refuse(interface: Interface, func: &str, p: Problem, first: &[u8]) -> Refusal {
    let least = match interface {
        Interface::Inbox => MIN_SETTLEMENT_BYTES,
        _ => MIN_EVENT_BYTES,
    };
    let here = first.len() / least;
    let items = listed(first).map_or(1, |count| usize::try_from(count).unwrap_or(usize::MAX));
    // An answer for what is only claimed would be larger than the call.
    let owed = if items > MAX_REFUSALS { 1 } else { items.min(here) };
    answer(interface, func, p, owed.max(1))
}

/// A refusal in the words of a function's result.
fn answer(interface: Interface, func: &str, p: Problem, items: usize) -> Refusal {
    let said = p.to_string();
    let encoded: Result<Bytes, Error> = match (interface, func) {
        (Interface::Publisher, "publish-tenant-events") => encode(of_each::<(), _>(items, |said_before| {
            publish_refusal(again(&p, said_before))
        })),
        (Interface::Inbox, "settle") => encode(of_each::<(), _>(items, |said_before| {
            settle_refusal(again(&p, said_before))
        })),
        (Interface::Publisher, _) => encode(Err::<(), _>(publish_refusal(p))),
        (Interface::Subscriber, _) => encode(Err::<(), _>(subscribe_refusal(p))),
        (Interface::Inbox, _) => encode(Err::<(), _>(inbox_refusal(p))),
        (Interface::Status, _) => return Refusal::Failure(said),
    };
    encoded.map_or(Refusal::Failure(said), Refusal::Answer)
}

/// What is said of each of many items that are refused alike. It is said in full once: an answer must not be many times
/// as large as what it answers.
pub(super) fn of_each<T, E>(items: usize, refusal: impl Fn(bool) -> E) -> Vec<Result<T, E>> {
    (0..items).map(|i| Err(refusal(i > 0))).collect()
}

/// A problem, or the same one after it was told of an item before.
pub(super) fn again(p: &Problem, said_before: bool) -> Problem {
    match said_before {
        false => p.clone(),
        true => Problem::new(p.code, SAID_BEFORE),
    }
}

/// Instead of a message that stands in an item before.
pub(super) const SAID_BEFORE: &str = "as before";

/// Leaves the message of results that refuse many items alike in the first of them only.
pub(super) fn once<T, E>(results: &mut [Result<T, E>], problem: impl Fn(&mut E) -> &mut fanout_wit::types::Problem) {
    let mut said = None::<String>;
    for problem in results
        .iter_mut()
        .filter_map(|result| result.as_mut().err())
        .map(problem)
    {
        if said.as_ref() == Some(&problem.message) {
            SAID_BEFORE.clone_into(&mut problem.message);
        } else {
            said = Some(problem.message.clone());
        }
    }
}
