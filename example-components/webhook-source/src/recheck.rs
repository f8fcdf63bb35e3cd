//! What a consumer can check of an event's provenance, without trusting the ingress or the bus.
//!
//! It needs the source's settings and its verifying keys, and events with evidence (`evidence: keep`). The webhook is
//! verified again from the bytes in the event, and its events are made again: the one that the consumer was given has
//! to be among them, with the same source, tenant, type and id. A tenant that the source takes from the path is the
//! exception: nothing but the event names it, so it is only checked against the tenants that the source may speak for.
//!
//! What this proves: the holder of a key sent this, no longer before the bus stored it than the source's tolerance allows,
//! for this tenant. The time is the store's, which whoever published the event has no hand in; what the event says of when it
//! was verified is not asked.
//!
//! What it can't prove: parts that no signature covers, which [`Provenance::unsigned`] names, as whoever published the event
//! could have chosen them; and anything at all where a scheme signs a checksum or a sender, as the same proof then holds for
//! other bodies ([`Unproven::ProvesNothing`]).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    event::Webhook,
    provenance::{NoProvenance, Provenance},
    refusal::Refusal,
    source::{Evidence, Source},
};

/// An event as a consumer was given it.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Where it says that it came from.
    pub source: &'a str,
    /// Whose it is.
    pub tenant: &'a str,
    /// What kind it is.
    pub event_type: &'a str,
    /// Its id.
    pub id: &'a str,
    /// Its extension attributes.
    pub extensions: &'a [(&'a str, &'a str)],
    /// Its data.
    pub data: &'a [u8],
    /// When the bus stored it, by the bus's word: `published-at` of its delivery, in nanoseconds since 1970.
    pub stored_at: i64,
}

/// The way from the ingress into the store, and two clocks.
const ON_THE_WAY: Duration = Duration::from_secs(120);

/// Why an event's provenance does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// It has none.
    #[error("{0}")]
    NoProvenance(#[from] NoProvenance),
    /// It has no evidence to check.
    #[error("the event has no evidence: set `evidence: keep` for its source")]
    NoEvidence,
    /// It was verified by another scheme than the source's.
    #[error("the event was verified as {claimed}, and its source signs as {expected}")]
    OtherScheme {
        /// What the event says.
        claimed: &'static str,
        /// What the source's settings say.
        expected: &'static str,
    },
    /// Of this scheme nothing can be proven later on.
    #[error(
        "a webhook of {scheme} proves nothing to whoever checks it again: what it signs holds for other bodies too"
    )]
    ProvesNothing {
        /// The scheme.
        scheme: &'static str,
    },
    /// The evidence was refused.
    #[error("the evidence does not hold: {0}")]
    Refused(Refusal),
    /// The evidence proves another event.
    #[error("the evidence holds, and proves another {what}")]
    Another {
        /// In what they differ.
        what: &'static str,
    },
}

/// Checks an event again. The provenance that is returned is what was proven, not what was claimed; it was verified when the
/// bus stored it.
pub fn recheck(source: &Source, claim: &Claim<'_>) -> Result<Provenance, Unproven> {
    let claimed = Provenance::of(claim.extensions)?;
    if claimed.scheme != source.scheme() {
        return Err(Unproven::OtherScheme {
            claimed: claimed.scheme.name(),
            expected: source.scheme().name(),
        });
    }
    if !source.scheme().coverage().proves_later() {
        return Err(Unproven::ProvesNothing {
            scheme: source.scheme().name(),
        });
    }
    if source.event_source() != claim.source {
        return Err(Unproven::Another { what: "source" });
    }
    let kept = claimed.evidence.as_ref().ok_or(Unproven::NoEvidence)?;
    let mut headers = HeaderMap::new();
    for (name, value) in kept {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Unproven::NoProvenance(NoProvenance::Senseless("webhookevidence")));
        };
        headers.append(name, value);
    }
    // As the ingress made them, whatever this copy of the settings says of evidence.
    let source = Source {
        evidence: Evidence::Keep,
        tolerance: source.tolerance.saturating_add(ON_THE_WAY),
        ..source.clone()
    };
    let stored_at = claim.stored_at.div_euclid(1_000_000_000);
    // What the path said is not known any more, but what it would have had to say.
    let paths: Vec<Option<&str>> = match &source.tenants {
        Some(tenants) if source.tenant.has_path() => {
            let without = (!source.tenant.needs_path()).then_some(None);
            without
                .into_iter()
                .chain(tenants.called(claim.tenant).map(Some))
                .collect()
        }
        _ => vec![None],
    };
    let mut unproven = Unproven::Another { what: "tenant" };
    for path_tenant in paths {
        let webhook = Webhook {
            path_tenant,
            headers: &headers,
            body: claim.data,
        };
        match prove(&source, webhook, stored_at, claim, &claimed) {
            Ok(proven) => return Ok(proven),
            Err(why) => unproven = why,
        }
    }
    Err(unproven)
}

fn prove(
    source: &Source,
    webhook: Webhook<'_>,
    now: i64,
    claim: &Claim<'_>,
    claimed: &Provenance,
) -> Result<Provenance, Unproven> {
    let events = source.events(webhook, now).map_err(Unproven::Refused)?;
    let mut parts = events.iter().filter_map(|event| {
        let attributes: Vec<_> = event
            .extensions
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Some((event, Provenance::of(&attributes).ok()?))
    });
    let (event, proven) = parts
        .find(|(_, proven)| proven.part == claimed.part)
        .ok_or(Unproven::Another { what: "part" })?;
    for (what, proven, claimed) in [
        ("tenant", event.tenant.as_str(), claim.tenant),
        ("event type", &event.event_type, claim.event_type),
        ("id", &event.id, claim.id),
    ] {
        if proven != claimed {
            return Err(Unproven::Another { what });
        }
    }
    Ok(proven)
}

#[cfg(test)]
mod tests;
