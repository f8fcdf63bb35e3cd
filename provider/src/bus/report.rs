//! What is logged of how a bus is: what was not so before.

use fanout_plan::Code;
use tracing::{error, info, warn};

use crate::view::View;

/// Logs what was not so before: the same problem is logged once, not at each round.
pub(super) fn report(before: &View, now: &View) {
    if before.policy_problems != now.policy_problems {
        for p in &now.policy_problems {
            error!(code = %p.code, "{}", p.message);
        }
    }
    for p in now.notices.iter().chain(&now.between_places) {
        if !before.notices.contains(p) && !before.between_places.contains(p) {
            warn!(code = %p.code, "{}", p.message);
        }
    }
    if let Some(p) = now
        .nothing_is_published
        .iter()
        .find(|p| before.nothing_is_published.as_ref() != Some(p))
    {
        error!(code = %p.code, "{}", p.message);
    }
    for (part, p) in &now.failed {
        if before.failed.get(part) != Some(p) {
            error!(code = %p.code, %part, "{}", p.message);
        }
    }
    for (name, registered) in &now.registry {
        let was = before.registry.get(name).and_then(|r| r.withheld.as_ref());
        if let Some(p) = registered
            .withheld_problem()
            .filter(|_| was != registered.withheld.as_ref())
        {
            warn!(code = %p.code, "{}", p.message);
        }
    }
    for (id, place) in now.moved.iter().filter(|(id, _)| !before.moved.contains_key(*id)) {
        // Where it went on while this place was lost, nobody here was told.
        warn!(code = %Code::AtAnotherPlace, "subscription {} is at place {place} now: nothing of it is delivered here", id.name);
    }
    for part in before.failed.keys().filter(|part| !now.failed.contains_key(*part)) {
        info!(%part, "a part of the topology is in order again, or is not needed any more");
    }
    for (key, outcome) in &now.links {
        if before.links.get(key).map(|o| &o.problems) != Some(&outcome.problems) {
            for p in &outcome.problems {
                warn!(code = %p.code, "{}", p.message);
            }
        }
    }
}
