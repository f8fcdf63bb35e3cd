//! Everything that knows JetStream: reading what the store holds, taking the planner's steps, storing events and dead
//! letters, remembering subscriptions and failed attempts.
//!
//! async-nats types do not leave this module, except for the consumers and messages that `delivery` works on.

mod account;
mod acknowledgement;
mod apply;
mod attempts;
pub(crate) mod batch;
mod dead_letters;
mod durability;
mod elsewhere;
mod ended;
mod floors;
pub(crate) mod headers;
mod history;
mod in_flight;
mod journal;
mod last;
mod leases;
mod letter_notes;
mod lost;
mod marks;
mod moved;
mod observe;
mod owner_tenant;
mod publish;
mod publisher;
mod pull;
pub(crate) mod read;
mod redrive;
mod redrive_leases;
mod refusal;
mod registry;
mod retention;
mod retries;
mod scheduled;
mod standing_pulls;
mod status;
mod store;
mod swap;
mod tail;
mod time;
mod unsettled;
mod usage;

pub(crate) use acknowledgement::{Acknowledgement, acknowledge};
pub use apply::CarriedOut;
/// A message as one of the store's consumers delivered it.
pub(crate) use async_nats::jetstream::Message;
pub(crate) use attempts::Attempts;
pub use dead_letters::DeadLetter;
pub(crate) use dead_letters::{NewDeadLetter, PUBLISHED};
pub(crate) use durability::Promise;
pub use history::{AtSubscription, Kept, MOST_OF_ONE_ID};
pub(crate) use journal::JournalMessage;
pub use journal::{Delivered, Journaled};
pub(crate) use leases::{Contender, Lease, Tenure};
pub use letter_notes::LetterNote;
pub(crate) use marks::Mark;
pub(crate) use moved::InLog;
pub(crate) use publish::{Full, Outgoing, Sent, Stored, Unstored};
pub(crate) use publisher::{Beside, stated};
pub(crate) use pull::{LISTENS_FOR, Sources, Taken};
pub(crate) use redrive::Redrive;
pub(crate) use redrive_leases::RedriveLease;
pub(crate) use refusal::explained;
pub(crate) use registry::Entry;
pub use retention::Retention;
pub use retries::{MOST_LOOKED_AT, WaitingEvent};
pub(crate) use retries::{Refused, Retries, Waiting};
pub(crate) use scheduled::{Scheduled, Waits};
pub(crate) use standing_pulls::StandingPulls;
pub use store::{ConsumerState, Store, StoreError};
pub(crate) use swap::RACES;
pub use tail::{LogEvent, Read, Tail, TailError, TailFrom};
pub(crate) use unsettled::Unsettled;
