//! A bench for the provider: a real nats-server, the provider's own binary as a host would start it, and components
//! played over wRPC.
//!
//! Waits are for conditions, with a deadline; nothing here measures time.

mod bench;
mod cli;
pub mod collector;
mod component;
pub mod composed;
mod dev_host;
mod edge;
pub mod fetcher;
pub mod hosted;
pub mod http;
pub mod http_bus;
pub mod http_caller;
mod jetstream_domain;
pub mod nemesis;
mod provider;
mod refusals;
mod running;
mod served;
pub mod stored;
pub mod tail_reader;
mod transcript;
pub mod webhook_host;

pub use bench::{Bench, LinkTo, eventually, ingress_and_invoicing};
pub use cli::{Cli, fanout, fanout_output};
pub use component::{Component, Seen, Verdict, event, every_event};
pub use dev_host::DevHost;
pub use edge::EdgeWorld;
pub use fanout_plan::status::{BusStatus, OutcomeState, State, SubscriptionStatus};
pub use fanout_transport::testing::free_ports;
pub use jetstream_domain::{LeafNodes, clustered_jetstream_domain, jetstream_domain, joined_by_gateways};
pub use provider::{Provider, beside_the_tests};
pub use refusals::refused_to;
pub use running::Running;
pub use served::{ANYONE_HERE, SERVED_POLICY, Served, ServedBus, mutual_tls};
pub use transcript::{Transcript, blocks};

pub use fanout_wit::{inbox, publisher, status, subscriber, types};
