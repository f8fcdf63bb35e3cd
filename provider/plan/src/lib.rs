//! The pure planner of a bus: policy and what is observed in, topology and steps out.
//!
//! Everything here is a function of its arguments. Deliberately absent: IO, async-nats, tokio, the clock, the
//! environment.

pub mod account;
mod api;
pub mod authority;
pub mod by_partition;
pub mod check;
pub mod cost;
pub mod declared;
pub mod document;
pub mod edge;
pub mod entry;
pub mod envelope;
mod event;
pub mod explain;
mod filter;
pub mod floor;
pub mod gap;
pub mod in_force;
mod incarnation;
pub mod isolation;
pub mod layout;
pub mod letter;
pub mod limits;
pub mod link;
pub mod listen;
mod log_position;
mod loss;
mod name;
pub mod partition;
mod pattern;
mod pattern_set;
mod places;
pub mod planner;
pub mod policy;
mod position;
mod problem;
pub mod quota;
pub mod rate;
pub mod retry;
pub mod sequence;
mod setting;
pub mod source;
pub mod step;
pub mod structured;
mod subject;
pub mod subscription;
pub mod timestamp;
pub mod topology;
pub mod unregistered;
pub mod usage;

pub use api::JetStreamApi;
pub use event::{Attributes, MAX_EXTENSION_NAME, MAX_EXTENSIONS, RawEvent};
pub use filter::Filter;
pub use incarnation::{Incarnation, Round, SubscriptionId, without_incarnation};
pub use log_position::LogPosition;
pub use name::{BusName, EventType, SubscriptionName, TenantId};
pub use pattern::EventPattern;
pub use policy::Policy;
pub use position::Position;
pub use problem::{Code, Problem};
pub use retry::RetrySchedule;
pub use setting::{Settings, show_duration};
pub use source::Sources;
pub use subject::{BusNames, LetterId, SubjectTemplate};
