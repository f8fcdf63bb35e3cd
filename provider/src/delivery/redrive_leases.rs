//! Makes the redrive leases of a subscription that is fetched without an order ([`crate::jetstream::RedriveLease`]).

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tracing::debug;

use super::Context;
use crate::jetstream::StoreError;

/// How often leases are made for requests that were not announced to this instance.
const MAKE_EVERY: Duration = Duration::from_secs(30);
/// Requests come in numbers: one round serves those that are made in this time.
const TOGETHER: Duration = Duration::from_millis(50);
/// The wait before the store is asked again that did not answer.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// Makes, until stopped, a lease for each tenant with requests. All instances do so, and make one.
pub(super) async fn make(context: Arc<Context>) {
    while !context.stop.is_cancelled() {
        let result = tokio::select! {
            () = context.stop.cancelled() => return,
            result = make_as_requested(&context) => result,
        };
        if let Err(error) = result {
            debug!(subscription = %context.name(), ?error, "redriven dead letters wait for the store");
        }
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(STORE_WAIT) => {}
        }
    }
}

async fn make_as_requested(context: &Context) -> Result<(), StoreError> {
    let mut requests = context.store.redrive_requests(&context.id()).await?;
    loop {
        context.store.make_redrive_leases(&context.id()).await?;
        tokio::select! {
            message = requests.next() => if message.is_none() { return Ok(()) },
            () = tokio::time::sleep(MAKE_EVERY) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        while let Some(Some(_)) = requests.next().now_or_never() {}
    }
}
