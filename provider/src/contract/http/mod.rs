//! The contract over HTTP, for whoever speaks it: CloudEvents in, JSON out, problems as `application/problem+json`, live
//! tails as server-sent events, and what operators ask for.
//!
//! Start at `operations`: a row for each operation, from which `/openapi.json` is made. An operation of the contract is
//! translated to one call of the contract's function and back (`call`), so that rights, bounds, quotas and deadlines are
//! decided where they are for every other way in; `admission` asks the same guard before a body is read. `problem` has the one table of statuses.
//!
//! Deliberately absent: connections, tokens and bodies' bounds, which are `fanout-transport`'s; an edge, which listens on
//! its lattice alone.

mod admission;
mod answer;
mod call;
mod cloud_event;
mod events;
mod fetching;
mod hub;
mod life;
mod lists;
mod objects;
mod openapi;
mod operations;
mod operators;
mod origins;
mod pages;
mod parameters;
mod problem;
mod settlements;
mod status;
mod subscriptions;
mod tail;
mod tail_limits;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{delete, get, post, put};
use axum::{Router, middleware};

pub(crate) use origins::Origins;
pub use tail_limits::{Share, TailLimits};

use self::life::LookUps;
use self::operators::Operators;
use self::problem::Refused;
use self::tail::Tails;
use crate::bus::Bus;

/// What answers requests over HTTP.
pub(super) fn router(bus: &Bus, origins: Origins, tails: TailLimits) -> Router {
    let tails = Tails::new(bus.clone(), tails);
    let operators = Operators::new(bus.clone());
    let look_ups = LookUps::new(bus.clone());
    Router::new()
        .route("/v1/events", post(events::publish).get(tail::follow).with_state(tails))
        .route("/v1/tenants/{tenant}/events", post(events::publish))
        .route("/v1/events:together", post(events::publish_together))
        .route("/v1/tenants/{tenant}/events:together", post(events::publish_together))
        .route("/v1/events:at", post(events::publish_at))
        .route("/v1/tenants/{tenant}/events:at", post(events::publish_at))
        .route("/v1/scheduled", delete(events::cancel))
        .route("/v1/subscriptions", get(subscriptions::list).with_state(bus.clone()))
        .route(
            // `{name}`, or `{name}:{action}`: axum's paths have one parameter in a segment.
            "/v1/subscriptions/{name}",
            put(subscriptions::make)
                .get(subscriptions::one)
                .delete(subscriptions::end)
                .post(subscriptions::act)
                .with_state(bus.clone()),
        )
        .route("/v1/settlements", post(settlements::settle))
        .route("/v1/status", get(status::links))
        .route("/v1/life", get(life::life).with_state(look_ups))
        .route("/livez", get(operators::live))
        .route("/readyz", get(operators::ready))
        .route("/metrics", get(operators::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/docs/errors/{code}", get(pages::page))
        .fallback(|| async {
            Refused::not_found("there is nothing at this path: `GET /openapi.json` lists what is here")
        })
        .method_not_allowed_fallback(|| async { Refused::method_not_allowed() })
        // The transport bounds bodies, each caller's together, before they come here.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(bus.clone(), admission::admit))
        .layer(middleware::from_fn_with_state(origins, origins::guard))
        .with_state(operators)
}

/// Whether a request needs no caller. Browsers ask what a page may send without saying for whom.
pub(super) fn is_open(method: &Method, uri: &Uri) -> bool {
    method == Method::OPTIONS || operations::is_open(uri.path())
}
