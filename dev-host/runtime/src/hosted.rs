//! The component as a subscriber: its subscriptions, declared or made by its own calls, and their deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fanout_client::component::{Deliveries, Plan, Progress, Subscriber, Unhandled};
use fanout_wit::types as wit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::convert;
use crate::program::Program;

/// What a running component asks for.
#[derive(Debug)]
pub enum Order {
    /// Deliver this subscription.
    Deliver {
        /// What, and how.
        plan: Plan,
        /// Through `batch-handler`, not `handler`.
        is_batch: bool,
    },
    /// Deliver it no more.
    End(String),
}

/// Keeps deliveries running as they are ordered, until it is stopped; then lets those under way end.
pub async fn keep(program: Arc<Program>, mut orders: mpsc::Receiver<Order>, stop: CancellationToken) {
    let mut running: BTreeMap<String, Deliveries> = BTreeMap::new();
    loop {
        let order = tokio::select! {
            () = stop.cancelled() => break,
            order = orders.recv() => order,
        };
        match order {
            None => break,
            Some(Order::End(name)) => {
                if let Some(deliveries) = running.remove(&name) {
                    deliveries.stop().await;
                }
            }
            Some(Order::Deliver { plan, is_batch }) => {
                let name = plan.wanted.name().to_owned();
                if let Some(before) = running.remove(&name) {
                    before.stop().await;
                }
                info!(
                    subscription = name,
                    component = program.surroundings().name,
                    "delivering"
                );
                let hosted = Arc::new(Hosted {
                    program: Arc::clone(&program),
                    is_batch,
                });
                let bus = program.surroundings().bus.clone();
                running.insert(name, Deliveries::start(bus, hosted, plan));
            }
        }
    }
    for (_, deliveries) in running {
        deliveries.stop().await;
    }
}

struct Hosted {
    program: Arc<Program>,
    is_batch: bool,
}

impl Subscriber for Hosted {
    async fn handle(
        &self,
        deliveries: &[wit::Delivery],
        traceparent: Option<&str>,
    ) -> Result<Vec<Result<(), wit::Rejection>>, Unhandled> {
        let deliveries: Vec<_> = deliveries.iter().map(convert::delivery).collect();
        let verdicts = if self.is_batch {
            self.program.handle_events(&deliveries, traceparent).await
        } else {
            match deliveries.first() {
                Some(delivery) => {
                    let verdict = self.program.handle_event(delivery, traceparent).await;
                    verdict.map(|verdict| vec![verdict])
                }
                None => Ok(Vec::new()),
            }
        };
        let verdicts = verdicts.map_err(|failure| Unhandled::Failed(failure.to_string()))?;
        Ok(verdicts
            .into_iter()
            .map(|verdict| verdict.map_err(convert::rejection))
            .collect())
    }

    async fn caught_up(&self, progress: &Progress) -> Result<(), Unhandled> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        let told = self.program.handle_caught_up(&convert::progress(progress, now)).await;
        match told {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rejection)) => Err(Unhandled::Failed(format!("{rejection:?}"))),
            Err(failure) => Err(Unhandled::Failed(failure.to_string())),
        }
    }
}
