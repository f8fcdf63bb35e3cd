//! One delivery, or a batch of them, given to an instance of the component.

use std::time::Duration;

use wasmtime::error::Context as _;

use crate::bindings::calls::fanout::bus::types::{BackfillProgress, Delivery, Rejection};
use crate::program::Program;

/// Why a component gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// It took longer than it may.
    #[error("component {component} did not answer within {deadline_ms} ms")]
    Deadline { component: String, deadline_ms: u128 },
    /// It trapped, or has no such export.
    #[error("component {component} failed without an answer: {reason}")]
    Failed { component: String, reason: String },
}

pub(crate) type Verdict = Result<(), Rejection>;

impl Program {
    /// Calls `handler`.
    pub(crate) async fn handle_event(
        &self,
        delivery: &Delivery,
        traceparent: Option<&str>,
    ) -> Result<Verdict, Unanswered> {
        self.bounded(async {
            let pre = self.exports().one.as_ref().context("it exports no `handler`")?;
            let mut store = self.store(traceparent);
            let instance = pre.instantiate_async(&mut store).await?;
            let handler = instance.fanout_bus_handler();
            handler.call_handle_event(&mut store, delivery).await
        })
        .await
    }

    /// Calls `batch-handler`. One verdict for each, in order.
    pub(crate) async fn handle_events(
        &self,
        deliveries: &[Delivery],
        traceparent: Option<&str>,
    ) -> Result<Vec<Verdict>, Unanswered> {
        self.bounded(async {
            let pre = self.exports().many.as_ref().context("it exports no `batch-handler`")?;
            let mut store = self.store(traceparent);
            let instance = pre.instantiate_async(&mut store).await?;
            let handler = instance.fanout_bus_batch_handler();
            handler.call_handle_events(&mut store, deliveries).await
        })
        .await
    }

    /// Calls `backfill-handler`.
    pub(crate) async fn handle_caught_up(&self, progress: &BackfillProgress) -> Result<Verdict, Unanswered> {
        self.bounded(async {
            let pre = self
                .exports()
                .caught_up
                .as_ref()
                .context("it exports no `backfill-handler`")?;
            let mut store = self.store(None);
            let instance = pre.instantiate_async(&mut store).await?;
            let handler = instance.fanout_bus_backfill_handler();
            handler.call_handle_caught_up(&mut store, progress).await
        })
        .await
    }

    /// Waits for a place and for the answer, within the deadline. A component that never yields is ended by it too.
    async fn bounded<T>(&self, work: impl Future<Output = wasmtime::Result<T>>) -> Result<T, Unanswered> {
        let deadline: Duration = self.deadline();
        let component = || self.surroundings().name.clone();
        let placed = async {
            let _place = self.place().await?;
            work.await
        };
        match tokio::time::timeout(deadline, placed).await {
            Ok(answer) => answer.map_err(|error| Unanswered::Failed {
                component: component(),
                reason: format!("{error:#}"),
            }),
            Err(_) => Err(Unanswered::Deadline {
                component: component(),
                deadline_ms: deadline.as_millis(),
            }),
        }
    }
}
