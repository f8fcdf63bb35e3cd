//! Everything that knows JetStream: reading what the store holds, taking the planner's steps, storing events and dead
//! letters, remembering subscriptions and failed attempts.
//!
//! async-nats types do not leave this module, except for the consumers and messages that `delivery` works on.

mod apply;
mod attempts;
mod dead_letters;
mod moved;
mod observe;
mod publish;
mod pull;
mod registry;
mod set_aside;
mod store;

pub(crate) use attempts::Attempts;
pub(crate) use dead_letters::{DeadLetter, DeadLetters};
pub(crate) use publish::{Sent, Unstored};
pub(crate) use pull::{LISTENS_FOR, Taken};
pub use set_aside::SetAside;
pub use store::{ConsumerState, Store, StoreError};
