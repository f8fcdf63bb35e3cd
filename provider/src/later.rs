//! Publishes what was to be published later, once it is due.
//!
//! Every instance takes part; the store gives each event to one at a time. An event that is due is first marked as
//! firing, then published, then marked as fired: cut short anywhere, another instance goes on from the mark. Publishing
//! it twice stores it once, because the log recognises its id, and where the log would have forgotten the id it is
//! looked for.

use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use futures::TryStreamExt as _;
use tracing::{info, warn};

use crate::bus::Bus;
use crate::clock;
use crate::jetstream::{Kept, State, Store};

/// The longest that an event is handed back for at once.
const LONGEST: Duration = Duration::from_secs(3_600);

/// After how long an event that could not be published is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the server says that it is there while nothing is due: a consumer that is gone says nothing.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Events that are looked at once.
const AT_ONCE: usize = 64;

/// Publishes what is due until it is dropped or the store fails.
pub(crate) async fn keep(bus: &Bus, store: &Store) -> Result<(), async_nats::Error> {
    let due = store.due().await?;
    let messages = due.stream().max_messages_per_batch(256).heartbeat(HEARTBEAT);
    let messages = messages.messages().await?;
    messages
        .map_err(async_nats::Error::from)
        .try_for_each_concurrent(AT_ONCE, |message| async {
            look(bus, store, message).await;
            Ok(())
        })
        .await
}

/// Looks at one event and settles its message.
async fn look(bus: &Bus, store: &Store, message: Message) {
    let then = match attempt(bus, store, &message).await {
        Ok(then) => then,
        Err(error) => {
            warn!(subject = %message.subject, error = %error, "an event that is due was not published; it is tried again");
            AckKind::Nak(Some(AGAIN))
        }
    };
    // Not settled, it comes again.
    if let Err(error) = message.ack_with(then).await {
        warn!(%error, "an event kept for later was not settled; it is looked at again");
    }
}

async fn attempt(bus: &Bus, store: &Store, message: &Message) -> Result<AckKind, async_nats::Error> {
    let about = message.info()?;
    let (sequence, at) = (about.stream_sequence, about.published.unix_timestamp_nanos());
    let headers = message.headers.clone().unwrap_or_default();
    let Some(kept) = Kept::read(&message.subject, sequence, headers, message.payload.clone()) else {
        warn!(subject = %message.subject, "a message that Fanout did not write is passed over");
        return Ok(AckKind::Ack);
    };
    match kept.state {
        State::Waiting => {
            let left = kept.due.saturating_sub(clock::now());
            if left > 0 {
                let left = Duration::from_nanos(left.unsigned_abs());
                return Ok(AckKind::Nak(Some(left.min(LONGEST))));
            }
            // If it was cancelled meanwhile, there is nothing left to do; if it is marked, the mark's message comes.
            store.move_on(&kept, State::Firing).await?;
        }
        State::Firing => {
            fire(bus, &kept, i64::try_from(at).unwrap_or(i64::MAX)).await?;
            // Another instance may have done the same.
            store.move_on(&kept, State::Fired).await?;
        }
        State::Fired | State::Cancelled => {}
    }
    Ok(AckKind::Ack)
}

/// Publishes an event that was marked as firing at `marked`.
async fn fire(bus: &Bus, kept: &Kept, marked: i64) -> Result<(), async_nats::Error> {
    let attributes = kept.attributes().ok_or("its attributes are not readable")?;
    let store = bus.store_for(attributes.tenant()).await?;
    let remembered = store.policy().ids_remembered();
    let age = Duration::from_nanos(clock::now().saturating_sub(marked).max(0).unsigned_abs());
    if age >= remembered / 2 && store.is_stored_since(&attributes, marked).await? {
        return Ok(());
    }
    let stored = store
        .send(&attributes, kept.event(&attributes))
        .await?
        .stored()
        .await?;
    info!(
        tenant = %attributes.tenant(),
        id = attributes.id(),
        position = %stored.position,
        duplicate = stored.duplicate,
        "an event kept for later is published"
    );
    Ok(())
}
