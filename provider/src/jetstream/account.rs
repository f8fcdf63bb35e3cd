//! What the bus's account may have, and what the server says of what it may not.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_plan::account::{Account, Bound, Budget};
use fanout_plan::step::Step;
use fanout_plan::{Code, Problem};
use serde::Deserialize;

use super::refusal::answer_in;
use super::{Store, StoreError};

/// How long the server may take to say what the account may have. A user that may not ask is never answered.
const ANSWERS_IN: Duration = Duration::from_secs(2);

/// Codes of nats-server 2.15 that speak of an account without JetStream: disabled, not enabled, not enabled for it.
const NO_JETSTREAM: [u64; 3] = [10035, 10039, 10076];

/// `INFO`'s answer. Older servers leave some of it out.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(flatten)]
    own: Tier,
    #[serde(default)]
    tiers: BTreeMap<String, Tier>,
}

/// Of the same answer, in which domain the server's own JetStream is.
#[derive(Deserialize)]
struct Domain {
    domain: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tier {
    reserved_memory: u64,
    reserved_storage: u64,
    streams: u64,
    limits: Limits,
}

/// What is below zero, or is not said, is no bound.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Limits {
    max_memory: Option<i64>,
    max_storage: Option<i64>,
    max_streams: Option<i64>,
    max_consumers: Option<i64>,
    /// Zero is no bound for these two.
    memory_max_stream_bytes: i64,
    storage_max_stream_bytes: i64,
    max_bytes_required: bool,
}

impl From<Tier> for Budget {
    fn from(t: Tier) -> Self {
        let some = |limit: Option<i64>| limit.and_then(|n| u64::try_from(n).ok());
        let above_zero = |limit: i64| u64::try_from(limit).ok().filter(|n| *n > 0);
        let bound = |limit, taken| Bound {
            limit: some(limit),
            taken,
        };
        Self {
            disk: bound(t.limits.max_storage, t.reserved_storage),
            memory: bound(t.limits.max_memory, t.reserved_memory),
            // No stream at all is what JetStream being off is for: 0 is no bound (nats-server 2.15).
            streams: bound(t.limits.max_streams.filter(|n| *n > 0), t.streams),
            consumers: some(t.limits.max_consumers.filter(|n| *n > 0)),
            stream_on_disk: above_zero(t.limits.storage_max_stream_bytes),
            stream_in_memory: above_zero(t.limits.memory_max_stream_bytes),
            needs_sizes: t.limits.max_bytes_required,
        }
    }
}

/// Refusals of a stream that the account or another stream is the reason of, by the server's code, and what to do about them.
pub(super) fn refusal(code: u64) -> Option<(Code, &'static str)> {
    match code {
        10065 => Some((
            Code::SubjectTaken,
            "choose another `subject` or `bus`, or take the subject from the stream that holds it",
        )),
        10023 | 10026 | 10027 | 10028 | 10047 | 10113 | 10120 | 10122 => Some((
            Code::AccountLimit,
            "lower the sizes in the policy (`fanout plan` says what each part takes), or have the bound of the account or the server raised",
        )),
        _ => None,
    }
}

impl Store {
    /// What the account may have; `None` when the server does not say.
    ///
    /// # Errors
    /// [`StoreError::NoJetStream`] when nobody answers for JetStream.
    pub(super) async fn account(&self) -> Result<Option<Account>, StoreError> {
        let action = "say what its account may have";
        let missing = |why: Option<&str>| {
            let mut problem = self.policy.jetstream.unanswered();
            if let Some(why) = why.filter(|why| !why.is_empty()) {
                problem.message = format!("{} (it says: {why})", problem.message);
            }
            StoreError::NoJetStream(problem)
        };
        let nats = self.nats();
        let asked = nats.request(format!("{}.INFO", self.policy.jetstream.subject()), "".into());
        let answer = match tokio::time::timeout(ANSWERS_IN, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) if e.kind() == async_nats::RequestErrorKind::NoResponders => return Err(missing(None)),
            Ok(Err(e)) if e.kind() != async_nats::RequestErrorKind::TimedOut => {
                return Err(StoreError::when(action)(e));
            }
            Ok(Err(_)) | Err(_) => return Ok(None),
        };
        let answer: Answer = serde_json::from_slice(&answer.payload).map_err(StoreError::when(action))?;
        if let Some(refusal) = answer.error {
            if NO_JETSTREAM.contains(&refusal.err_code) {
                return Err(missing(Some(&refusal.description)));
            }
            let said = format!("{} ({})", refusal.description, refusal.err_code);
            return Err(StoreError::when(action)(said));
        }
        let mut tiers: BTreeMap<_, _> = answer.tiers.into_iter().map(|(name, t)| (name, t.into())).collect();
        if tiers.is_empty() {
            tiers.insert(String::new(), answer.own.into());
        }
        Ok(Some(Account { tiers }))
    }

    /// Why this instance is not at the place that it says it is at: the servers that it is connected to are in another JetStream
    /// domain. `None` where they are in its own, in none, or do not say.
    pub(crate) async fn is_not_at_its_place(&self) -> Option<Problem> {
        let places = self.policy.places.as_ref()?;
        let (here, own) = (&places.here, &places.own()?.domain);
        let nats = self.nats();
        let asked = nats.request("$JS.API.INFO", "".into());
        let answer = tokio::time::timeout(ANSWERS_IN, asked).await.ok()?.ok()?;
        let Domain { domain } = serde_json::from_slice(&answer.payload).ok()?;
        let other = domain.filter(|domain| !domain.is_empty() && domain != own)?;
        Some(Problem::new(
            Code::PlaceConflict,
            format!(
                "this instance says that it is at place {here}, whose JetStream domain is {own}, and is connected to servers of domain {other}: what it does crosses a link, and stands still while that is cut; connect it to servers of place {here}, or correct its `place`"
            ),
        ))
    }

    /// Whether JetStream answers, as far as the account may ask.
    ///
    /// # Errors
    /// [`StoreError::NoJetStream`] when nobody answers for it.
    pub async fn answers(&self) -> Result<(), StoreError> {
        self.account().await.map(drop)
    }

    /// Whether the store can be asked: it says how the dead letters are doing, a stream that each bus has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn is_reached(&self) -> Result<(), StoreError> {
        let asked = self.letters().await?.get_info().await;
        asked.map(drop).map_err(StoreError::when("say how it is doing"))
    }

    /// Takes away again what a plan that could not be finished has made of a bus that was not there before, the last
    /// first. What holds a message stays: somebody uses it.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub async fn unmake(&self, made: &[Step]) -> Result<(), StoreError> {
        for step in made.iter().rev() {
            let name = match step {
                Step::CreateStream(s) => s.name.clone(),
                Step::CreateBucket(b) => format!("KV_{}", b.name),
                _ => continue,
            };
            let action = || format!("remove {name} again");
            let stream = self.js.get_stream(&name).await.map_err(StoreError::when(action()))?;
            if stream.cached_info().state.messages == 0 {
                self.js.delete_stream(&name).await.map_err(StoreError::when(action()))?;
            }
        }
        Ok(())
    }

    /// Why a stream or a bucket was not made or changed. What the account or another stream is in the way of is no
    /// trouble that passes.
    pub(super) fn not_made<E: Into<async_nats::Error>>(&self, step: &Step) -> impl FnOnce(E) -> StoreError {
        let (bus, step) = (self.policy.bus.clone(), step.to_string());
        move |source| {
            let source = source.into();
            let Some(answer) = answer_in(&*source) else {
                return StoreError::when(step)(source);
            };
            let said = answer.to_string();
            let Some((code, what_to_do)) = refusal(answer.error_code().0) else {
                return StoreError::when(step)(source);
            };
            StoreError::Refused(vec![Problem::new(
                code,
                format!("bus {bus}: the server did not {step}: {said}: {what_to_do}"),
            )])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_answer_is_read() {
        let text = r#"{"type":"io.nats.jetstream.api.v1.account_info_response","memory":0,"storage":7,"reserved_memory":0,
            "reserved_storage":1024,"streams":2,"consumers":1,"limits":{"max_memory":-1,"max_storage":10737418240,"max_streams":-1,
            "max_consumers":5,"max_ack_pending":-1,"memory_max_stream_bytes":-1,"storage_max_stream_bytes":-1,
            "max_bytes_required":true},"api":{"level":1,"total":3,"errors":0}}"#;
        let answer: Answer = serde_json::from_str(text).unwrap();
        let budget = Budget::from(answer.own);
        let expected = Budget {
            disk: Bound {
                limit: Some(10 << 30),
                taken: 1024,
            },
            streams: Bound { limit: None, taken: 2 },
            consumers: Some(5),
            needs_sizes: true,
            ..Budget::default()
        };
        assert_eq!(budget, expected);
        let tiers =
            r#"{"tiers":{"R3":{"reserved_storage":5,"limits":{"max_storage":9,"storage_max_stream_bytes":4}}}}"#;
        let answer: Answer = serde_json::from_str(tiers).unwrap();
        let budget: Budget = answer.tiers.into_values().next().unwrap().into();
        assert_eq!((budget.disk.limit, budget.stream_on_disk), (Some(9), Some(4)));
    }
}
