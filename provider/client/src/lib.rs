//! A native client of a Fanout bus.
//!
//! ```no_run
//! use fanout_client::{Event, Subscription, connect};
//! use futures::StreamExt as _;
//!
//! # async fn example() -> Result<(), fanout_client::Error> {
//! let bus = connect("unix:/run/fanout/bus.sock").await?;
//!
//! // Returns once it is stored. While the bus is away it is tried again, with the same id: it is one event.
//! let receipt = bus.publish(&Event::new("acme", "invoice.paid", "evt_1").data("{}")).await?;
//! println!("stored at {}", receipt.position);
//!
//! // At least once, from now on, across restarts of this program, of the bus and of its store.
//! let mut deliveries = bus.subscribe(Subscription::durable("billing").event_types(["invoice.*"])).await?;
//! while let Some(delivery) = deliveries.next().await {
//!     let delivery = delivery?;
//!     match bill(delivery.event()) {
//!         Ok(()) => delivery.ack().await?,
//!         Err(reason) => delivery.retry(reason).await?,
//!     }
//! }
//! # Ok(())
//! # }
//! # fn bill(_: &Event) -> Result<(), String> { Ok(()) }
//! ```
//!
//! The transport is the URL's scheme, and nothing else changes with it: `tcp://`, `tls://`, `unix:`, `quic://`,
//! `webtransport://`, `http://`, `https://`, or `nats://…?target={lattice}.{provider}` for a bus on a wasmCloud lattice.
//!
//! Deliberately absent: what may be published and by whom, how events are kept, when a refused one comes again. That is
//! the bus's, and its errors tell: see [`Error`].

mod bus;
pub mod component;
mod connect;
mod connection;
mod deliveries;
mod delivery;
mod error;
mod event;
mod inbox;
mod leases;
mod missed;
mod retry;
mod subscription;
mod upstream;

pub use bus::Bus;
pub use connect::{Options, connect, connect_with};
pub use deliveries::{CaughtUp, Deliveries};
pub use delivery::Delivery;
pub use error::{Error, ErrorKind};
pub use event::{Event, Position, Receipt, Scheduled};
pub use inbox::{Inbox, Trouble};
pub use missed::Missed;
pub use subscription::{End, Start, Subscription};
pub use upstream::Upstream;

/// How to show and check certificates; from the transport.
pub use fanout_transport::{ClientIdentity, ClientTls, Pem};

/// As whom to connect to a lattice's NATS, and what holds a token; from the transport.
pub use fanout_transport::{Access, Login, NatsTls, Secret, SecretFrom};
