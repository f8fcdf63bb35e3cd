//! A live tail: the log as server-sent events, for browsers and whoever else reads them.
//!
//! A tail reads the log apart from every subscription, and leaves nothing behind. The `id` of what it sends is how far each
//! partition was read, `PARTITION/OFFSET`, with a comma between them on a divided bus: who connects again with it as
//! `last-event-id` goes on behind it, and nothing is missing or comes twice. What a caller may read is what it may subscribe
//! to, at every moment.
//!
//! What is live comes from the one reader of the instance ([`super::hub`]). A tail that begins before what that keeps reads
//! the store by itself until it has caught up. It reads when its own reader does: nothing is collected for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use fanout_plan::by_partition::ByPartition;
use fanout_plan::{Code, Filter, Problem, link, out_of_reach};
use fanout_transport::Caller;
use futures::stream;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::call::Call;
use super::cloud_event::CloudEvent;
use super::hub::{Hub, Next};
use super::parameters::{of_parameter, unreadable};
use super::problem::Refused;
use super::tail_limits::{Share, TailLimits};
use crate::bus::Bus;
use crate::contract::convert;
use crate::contract::exports::known;
use crate::contract::guard::{Interface, granted};
use crate::inbox::{Waiting, Waits};
use crate::jetstream::{LogEvent, Read, Store, Tail, TailError, TailFrom};
use crate::matching;
use crate::view::View;

/// How long one waits until it may read the store by itself, or until the instance's reader is as far as itself.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a quiet tail checks whether its caller still may read.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// After how long a browser connects again.
const RECONNECT: Duration = Duration::from_secs(1);
/// Partitions whose places an `id` holds: more would not fit the head of a request.
const MAX_PARTITIONS: usize = 256;
/// Events that are matched before other tails are served.
const AT_A_TIME: usize = 256;
/// Bytes of a payload that count as one more of them.
const BYTES_OF_A_MATCH: usize = 16 << 10;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks proxies not to collect what is sent.
const NO_BUFFERING: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// What tails are made from.
#[derive(Clone)]
pub(super) struct Tails {
    bus: Bus,
    limits: TailLimits,
    open: Waiting,
    catching_up: Waiting,
    hub: Arc<Mutex<std::sync::Weak<Hub>>>,
}

/// An event of a tail: the `data` of a message.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TailEvent {
    /// Where it stands in the log.
    position: String,
    /// When the bus stored it, RFC 3339.
    published_at: String,
    /// The event.
    event: CloudEvent,
}

/// Positions whose events expired before they were read: the `data` of a message `expired`.
#[derive(Debug, Serialize)]
struct Expired {
    code: String,
    first: String,
    last: String,
}

impl Tails {
    pub(super) fn new(bus: Bus, limits: TailLimits) -> Self {
        let places = |share: Share| Waiting::new(share.of_one, share.of_all);
        Self {
            bus,
            limits,
            open: places(limits.open),
            catching_up: places(limits.catching_up),
            hub: Arc::default(),
        }
    }

    /// The reader of the instance, which begins with the first who asks for it.
    async fn hub(&self, store: &Store) -> Result<Arc<Hub>, Problem> {
        let mut last = self.hub.lock().await;
        if let Some(hub) = last.upgrade().filter(|hub| hub.is_of(store)) {
            return Ok(hub);
        }
        let hub = Arc::new(Hub::begin(store, &self.limits).await.map_err(|e| log_problem(&e))?);
        *last = Arc::downgrade(&hub);
        Ok(hub)
    }
}

/// `GET /v1/events`
pub(super) async fn follow(State(tails): State<Tails>, call: Call, headers: HeaderMap) -> Result<Response, Refused> {
    let parameters = call.parameters(&["tenant", "type", "pattern", "from"])?;
    let asked = Filter::new(parameters.all("tenant")?, parameters.all("type")?);
    let pattern = parameters.optional("pattern")?.map(str::parse);
    let asked = pattern
        .transpose()
        .and_then(|pattern| asked.with_pattern(pattern))
        .map_err(|p| of_parameter("pattern", p))?;
    let from = match (headers.get(LAST_EVENT_ID), parameters.optional("from")?) {
        // A browser that connects again sends both.
        (Some(last), _) => TailFrom::Behind(last.to_str().ok().and_then(read_id).ok_or_else(|| {
            Refused::invalid_request(
                "the header `last-event-id` is not one that this bus gave: leave it out, or send the last `id`",
            )
        })?),
        (None, Some(from)) => TailFrom::Start(link::start(from).map_err(|p| unreadable("from", &p))?),
        (None, None) => TailFrom::Now,
    };
    let view = tails.bus.view();
    let filter = permitted(&view, call.caller(), &asked)?;
    let store = view.store()?.clone();
    let component = known(&*view, call.caller().clone()).component;
    within_limits(&view, &store, &filter, &component)?;
    let permit = tails.open.enter(&component).ok_or_else(|| {
        Problem::new(
            Code::TooManyTails,
            format!(
                "{} live tails of this caller, or {} of all, are open at this instance: close some, or read more in one",
                tails.limits.open.of_one, tails.limits.open.of_all
            ),
        )
    })?;
    let hub = tails.hub(&store).await?;
    let read_to = hub.read_to(&store, &filter);
    // Whether a place beyond what was read is in the log, only the store knows.
    let is_read = |given: &ByPartition| {
        read_to
            .0
            .iter()
            .all(|(p, read)| given.knows(*p) && given.of(*p) <= *read)
    };
    let joined = match &from {
        TailFrom::Now => Some(read_to.clone()),
        TailFrom::Behind(given) if is_read(given) => Some(
            read_to
                .0
                .keys()
                .map(|partition| (*partition, given.of(*partition)))
                .collect(),
        ),
        _ => None,
    };
    let joined = joined.and_then(|given: ByPartition| Some((hub.join(&given)?, given)));
    let catches_up_for = tails.limits.catches_up_for;
    let (phase, given) = match joined {
        Some((number, given)) => (Phase::Live(number), given),
        None => match tails.catching_up.enter(&component) {
            Some(permit) => {
                let tail = store.tail(&filter, from).await.map_err(|e| log_problem(&e))?;
                let given = tail.given();
                let catching_up = CatchingUp::begin(tail, permit, catches_up_for);
                (Phase::CatchingUp(catching_up), given)
            }
            None => (Phase::Waiting(from), ByPartition::default()),
        },
    };
    let reader = Reader {
        changes: hub.changes(),
        hub,
        catching_up: tails.catching_up.clone(),
        catches_up_for,
        tells_every: tails.limits.heartbeat,
        bus: tails.bus,
        caller: call.caller().clone(),
        component,
        asked,
        filter,
        view,
        phase,
        given,
        stage: Stage::Begins,
        told: Instant::now(),
        _permit: permit,
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(tails.limits.heartbeat).text("here"));
    Ok(([NO_BUFFERING], events).into_response())
}

/// What a caller reads that asks for this: what it could subscribe to.
pub(super) fn permitted(view: &View, caller: &Caller, asked: &Filter) -> Result<Filter, Problem> {
    let caller = known(view, caller.clone());
    let grant = granted(view, &caller, Interface::Subscriber)?;
    grant.narrow(asked.clone(), &caller.component, &caller.link)
}

/// The bounds of a subscription's filter hold for a tail's, and as a subscription it would have to be given something.
fn within_limits(view: &View, store: &Store, filter: &Filter, component: &str) -> Result<(), Problem> {
    let policy = view.policy.as_deref().unwrap_or_else(|| store.policy());
    let name = "live-tail".parse()?;
    policy
        .limits
        .filter(&name, filter, &store.policy().subject, Some(store.max_request()))?;
    out_of_reach::check_call(policy, &name, filter, component)?;
    if store.layout().touching(filter).count() > MAX_PARTITIONS {
        return Err(Problem::new(
            Code::LimitExceeded,
            format!("this tail would read more than {MAX_PARTITIONS} partitions: name the tenants that it is for"),
        ));
    }
    Ok(())
}

/// Reads the log for one reader.
struct Reader {
    hub: Arc<Hub>,
    changes: watch::Receiver<()>,
    catching_up: Waiting,
    catches_up_for: Duration,
    /// How often it says how far it read, where nothing that was read is sent.
    tells_every: Duration,
    bus: Bus,
    caller: Caller,
    component: String,
    asked: Filter,
    filter: Filter,
    view: Arc<View>,
    phase: Phase,
    /// How far each partition that it wants was read.
    given: ByPartition,
    stage: Stage,
    /// When it was last said how far the log was read.
    told: Instant,
    _permit: Waits,
}

/// From where a tail reads.
enum Phase {
    /// It may not read the store by itself yet.
    Waiting(TailFrom),
    CatchingUp(CatchingUp),
    /// From the instance's reader, the event of this number next.
    Live(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begins,
    Reads,
    Ended,
}

/// What is stored next; `None` once all is read.
type Stored = Option<Result<Read, TailError>>;

/// A reader of the store.
struct CatchingUp {
    /// `None` once its time is up.
    tail: Arc<Mutex<Option<Tail>>>,
    over: CancellationToken,
    _reads: DropGuard,
}

impl CatchingUp {
    /// It ends with this, and when its time is up: whether its events are taken meanwhile is not asked, so that who takes none
    /// does not hold a place for longer. The next may begin once nothing of it is left at the store.
    fn begin(tail: Tail, permit: Waits, catches_up_for: Duration) -> Self {
        let tail = Arc::new(Mutex::new(Some(tail)));
        let over = CancellationToken::new();
        let (ending, ended) = (Arc::clone(&tail), over.clone());
        tokio::spawn(async move {
            drop(timeout(catches_up_for, ended.cancelled()).await);
            ended.cancel();
            let tail = ending.lock().await.take();
            if let Some(tail) = tail {
                tail.end().await;
            }
            drop(permit);
        });
        Self {
            tail,
            over: over.clone(),
            _reads: over.drop_guard(),
        }
    }

    /// What is stored next, if it is soon found, and how far it was read then; `None` once its time is up.
    async fn next(&self) -> Option<(Option<Stored>, ByPartition)> {
        let mut tail = self.tail.lock().await;
        let tail = tail.as_mut()?;
        let read = self
            .over
            .run_until_cancelled(timeout(CHECK_EVERY, tail.stored()))
            .await?;
        Some((read.ok(), tail.given()))
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        match self.stage {
            // A reader that goes away before the first event comes back here. One that waits has no place yet.
            Stage::Begins => {
                self.stage = Stage::Reads;
                let begins = Event::default().retry(RECONNECT);
                Some(match self.phase {
                    Phase::Waiting(_) => begins,
                    _ => begins.id(id(&self.given)),
                })
            }
            Stage::Reads => Some(self.read().await.unwrap_or_else(|problem| {
                self.stage = Stage::Ended;
                let last = match self.given.is_empty() {
                    true => Event::default(),
                    // Behind what was left out, too.
                    false => self.progress(),
                };
                last.event("end").data(json(&Refused::from(problem).document))
            })),
            Stage::Ended => None,
        }
    }

    /// The next message, or why there is none any more.
    async fn read(&mut self) -> Result<Event, Problem> {
        let mut matched = 0;
        loop {
            self.still_permitted()?;
            matched += 1;
            if matched >= AT_A_TIME {
                matched = 0;
                tokio::task::yield_now().await;
            }
            match &mut self.phase {
                Phase::Live(number) => {
                    self.changes.borrow_and_update();
                    match self.hub.next(*number) {
                        Next::Event(passed) => {
                            let position = passed.position;
                            let is_new = self.given.knows(position.partition)
                                && self.given.of(position.partition) < position.offset;
                            // Before anything is noted of it: given up meanwhile, it is judged again.
                            let is_match = is_new
                                && matching::matches(&self.filter, &passed.event, &passed.data, &self.component).await;
                            *number += 1;
                            if is_new {
                                // Whoever has a pattern may read all of it.
                                matched += passed.data.len() / BYTES_OF_A_MATCH;
                                self.given.0.insert(position.partition, position.offset);
                                if is_match {
                                    return Ok(self.progress().data(&passed.text));
                                }
                                if self.told.elapsed() > self.tells_every {
                                    return Ok(self.progress());
                                }
                            }
                        }
                        // Whether it may read is checked now and then.
                        Next::Nothing => drop(timeout(CHECK_EVERY, self.changes.changed()).await),
                        Next::Forgotten => {
                            return Err(Problem::new(
                                Code::SlowReader,
                                "events came faster than they were read: connect again with the last `id`, and the tail goes on behind it",
                            ));
                        }
                        Next::Ended(problem) => return Err(problem),
                    }
                }
                Phase::CatchingUp(reading) => {
                    let Some((read, given)) = reading.next().await else {
                        return Err(Problem::new(
                            Code::SlowReader,
                            format!(
                                "this tail has read the store for {} s, and gives way to others: connect again with the last `id`, and it goes on behind it",
                                self.catches_up_for.as_secs()
                            ),
                        ));
                    };
                    let before = std::mem::replace(&mut self.given, given);
                    let Some(read) = read else {
                        // Much is left out: whoever comes back need not read that again.
                        return Ok(self.progress());
                    };
                    let is_all = read.is_none();
                    if let Some(message) = self.message(read)? {
                        // What it may read may have changed while the store was read.
                        return match self.still_permitted() {
                            Ok(()) => Ok(message),
                            Err(problem) => {
                                // It was not sent, and comes to who connects again.
                                self.given = before;
                                Err(problem)
                            }
                        };
                    }
                    if is_all && matches!(self.phase, Phase::CatchingUp(_)) {
                        sleep(AGAIN).await;
                    }
                }
                Phase::Waiting(from) => match self.catching_up.enter(&self.component) {
                    None => sleep(AGAIN).await,
                    Some(permit) => {
                        let tail = self.view.store()?.tail(&self.filter, from.clone()).await;
                        let tail = tail.map_err(|e| log_problem(&e))?;
                        self.given = tail.given();
                        self.phase = Phase::CatchingUp(CatchingUp::begin(tail, permit, self.catches_up_for));
                        return Ok(Event::default().id(id(&self.given)));
                    }
                },
            }
        }
    }

    /// A message that says how far the log was read.
    fn progress(&mut self) -> Event {
        self.told = Instant::now();
        Event::default().id(id(&self.given))
    }

    /// What was read of the store, as a message. Once all is read, what comes next comes from the instance's reader, as soon
    /// as that is as far.
    fn message(&mut self, read: Option<Result<Read, TailError>>) -> Result<Option<Event>, Problem> {
        let event = self.progress();
        Ok(match read {
            Some(Ok(Read::Event(read))) => shown(*read).map(|text| event.data(text)),
            Some(Ok(Read::Expired { first, last })) => {
                let expired = Expired {
                    code: Code::RetentionGap.to_string(),
                    first: first.to_string(),
                    last: last.to_string(),
                };
                Some(event.event("expired").data(json(&expired)))
            }
            Some(Err(error)) => return Err(log_problem(&error)),
            None => {
                if let Some(number) = self.hub.join(&self.given) {
                    self.phase = Phase::Live(number);
                }
                None
            }
        })
    }

    /// Whether the caller still reads what it reads, of a log that is divided as it was.
    fn still_permitted(&mut self) -> Result<(), Problem> {
        let view = self.bus.view();
        if Arc::ptr_eq(&view, &self.view) {
            return Ok(());
        }
        let filter = permitted(&view, &self.caller, &self.asked)?;
        let is_as_it_was = view.store.as_ref().is_none_or(|store| {
            let wanted = store.layout().touching(&filter).map(|p| p.number);
            self.given.is_empty() || wanted.eq(self.given.0.keys().copied())
        });
        if filter != self.filter || !is_as_it_was {
            return Err(Problem::new(
                Code::TopologyChanged,
                "what this caller may read, or how the log is divided, has changed: connect again, and the tail goes on where it stood",
            ));
        }
        if view.store.is_some() {
            self.view = view;
        }
        Ok(())
    }
}

/// An event of the log as each reader is sent it; `None` for what is none.
pub(super) fn shown(event: LogEvent) -> Option<String> {
    let attributes = event.event?;
    Some(json(&TailEvent {
        position: event.position.to_string(),
        published_at: event.published_at.to_string(),
        event: CloudEvent(convert::event(attributes, event.payload)),
    }))
}

/// One line: an event's own line ends stand between the tokens of its JSON, where a blank means the same.
fn json(data: &impl Serialize) -> String {
    let text = serde_json::to_string(data).unwrap_or_default();
    text.replace(['\r', '\n'], " ")
}

/// Why the log can't be read.
pub(super) fn log_problem(error: &TailError) -> Problem {
    match error {
        TailError::Refused(problem) => problem.clone(),
        TailError::Unknown { .. } => Problem::new(Code::UnknownPosition, error.to_string()),
        _ => Problem::new(Code::StoreUnavailable, format!("the log can't be read: {error}")),
    }
}

/// How far each partition was read.
fn id(given: &ByPartition) -> String {
    let places = given
        .0
        .iter()
        .map(|(partition, offset)| format!("{partition}/{offset}"));
    places.collect::<Vec<_>>().join(",")
}

fn read_id(text: &str) -> Option<ByPartition> {
    let places = text.split(',').take(MAX_PARTITIONS + 1).map(|place| {
        let (partition, offset) = place.trim().split_once('/')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    });
    let places: Vec<(u32, u64)> = places.collect::<Option<_>>()?;
    let read: ByPartition = places.iter().copied().collect();
    (places.len() <= MAX_PARTITIONS && read.0.len() == places.len()).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_given() {
        for text in ["0/0", "0/42", "0/42,3/1,17/18446744073709551615"] {
            assert_eq!(read_id(text).map(|read| id(&read)).as_deref(), Some(text));
        }
        let many: Vec<_> = (0..=MAX_PARTITIONS).map(|n| format!("{n}/1")).collect();
        for bad in [
            "",
            "42",
            "0/",
            "/1",
            "0/-1",
            "0/1,0/2",
            "0/1,",
            "0/18446744073709551616",
            &many.join(","),
        ] {
            assert!(read_id(bad).is_none(), "{bad}");
        }
    }
}
