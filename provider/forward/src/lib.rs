//! What stands between a bus and a component that the bus can't call: an edge beside a wasmCloud host, or a runtime
//! that hosts the component itself.
//!
//! Calls go up to the bus over wRPC, on any transport ([`Upstream`]). Deliveries come down by fetching: [`Deliveries`]
//! takes them from the bus's `inbox`, hands them to a [`Subscriber`], and settles each by its answer. The bus keeps
//! everything that must not be lost; nothing here outlives the process.
//!
//! The guarantee is the bus's own: a delivery is settled only after its subscriber answered. A crash in between, on
//! either side, delivers it again.
//!
//! Deliberately absent: who may call (the bus judges by the identity that the transport proved, an edge by its own
//! links besides), and where subscriptions are declared.

mod deliver;
mod hold;
mod lazy;
mod pause;
mod state;
mod upstream;
mod wanted;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, which carries the documentation"
)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen_wrpc::generate!({
        path: "../../wit",
        inline: "
            package fanout:forward;
            world forward {
                import fanout:bus/publisher@0.1.0;
                import fanout:bus/subscriber@0.1.0;
                import fanout:bus/inbox@0.1.0;
                import fanout:bus/status@0.1.0;
                import fanout:bus/handler@0.1.0;
                import fanout:bus/batch-handler@0.1.0;
                import fanout:bus/backfill-handler@0.1.0;
            }
        ",
        world: "fanout:forward/forward",
        generate_all,
    });
}

/// The contract's types, as its bindings have them.
pub mod wit {
    pub use crate::bindings::fanout::bus::backfill_handler::Progress;
    pub use crate::bindings::fanout::bus::inbox::{
        CaughtUp, Fetched, HeldDelivery, InboxError, SettleError, Settled, Settlement, Verdict,
    };
    pub use crate::bindings::fanout::bus::publisher::{Cancellation, Scheduled};
    pub use crate::bindings::fanout::bus::status::{LinkState, LinkStatus};
    pub use crate::bindings::fanout::bus::subscriber::{
        DeliveryOptions, End, Filter, LostEvents, Need, OriginOfSubscription, Reach, Start, State, Subscription,
    };
    pub use crate::bindings::fanout::bus::types::{
        Attribute, Delivery, Event, Origin, Position, Problem, PublishError, Receipt, RefusalForNow, Rejection,
        RetryDelay, SubscribeError,
    };
}

pub use deliver::{Deliveries, Plan, Progress, Subscriber, Unhandled};
pub use lazy::Lazy;
pub use state::{Doing, State};
pub use upstream::{Inbox, Trouble, Upstream};
pub use wanted::{Need, Wanted, declared};
