//! The whole contract over every transport, and through an edge: each function of `publisher`, `subscriber`, `inbox` and `status` succeeds,
//! and each variant of their errors is met, on a provider and a server that are real. A transport is a line here.
//!
//! What calls a component (`handler`, `batch-handler`, `backfill-handler`) exists on a lattice alone, and has tests of its own.

mod errors;
mod fetching;
mod publishing;
mod subscribing;
mod unready;
mod world;

use errors::Met;
use world::World;

/// Everything that can be asked of a bus that works, and what it refuses.
async fn the_contract_holds(way: &str) {
    let mut world = World::new(way).await;
    let mut met = Met::default();
    publishing::functions(&world, &mut met).await;
    publishing::refusals(&world, &mut met).await;
    subscribing::functions(&world).await;
    subscribing::refusals(&world, &mut met).await;
    fetching::functions(&world).await;
    fetching::refusals(&world, &mut met).await;
    let token = fetching::no_longer_allowed(&mut world, &mut met).await;
    // From here on the store is at fault.
    publishing::unknown_then_full(&world, &mut met).await;
    subscribing::unknown(&world, &mut met).await;
    fetching::bus_is_away(&mut world, &token, &mut met).await;
    // A bus that can't work says so, whatever it is asked.
    let unready = World::unready(way).await;
    unready::everything_is_unavailable(&unready, &mut met).await;
    met.is_every_variant(world.is_on_a_lattice());
}

macro_rules! over {
    ($($name:ident: $way:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                crate::the_contract_holds($way).await;
            }
        )*
    };
}

mod the_contract_holds_over {
    over! {
        the_lattice: "nats",
        tcp: "tcp://127.0.0.1:0",
        http: "http://127.0.0.1:0",
        https: "https://127.0.0.1:0",
        tls: "tls://127.0.0.1:0",
        a_unix_socket: "unix",
        quic: "quic://127.0.0.1:0",
        webtransport: "webtransport://127.0.0.1:0/bus",
        an_edge: "edge",
    }
}
