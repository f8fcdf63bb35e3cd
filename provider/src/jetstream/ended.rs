//! Lets go what an ended subscription had: what waits for a retry, requests to redrive, and attempts.
//!
//! Deliberately left: its dead letters. They are shown as orphaned until they expire, or an operator takes them away.

use fanout_plan::Round;
use fanout_plan::subscription::Registered;

use super::redrive_leases::redrive_leases_consumer_name;
use super::refusal::there;
use super::{Store, StoreError};

impl Store {
    /// Lets go what an ended subscription had. What a failure leaves behind is given to nobody, and expires.
    pub(super) async fn let_go(&self, ended: &Registered) -> Result<(), StoreError> {
        let (id, round) = (ended.id(), Round::of(ended));
        self.forget_retries(&id.name, round).await?;
        let letters = self.letters().await?;
        for subjects in [self.names.redrive_filter(&id), self.names.redrive_leases(&id)] {
            letters
                .purge()
                .filter(subjects)
                .await
                .map_err(StoreError::when(format!("end the redrives of subscription {id}")))?;
        }
        let leases = letters.delete_consumer(&redrive_leases_consumer_name(&id)).await;
        there(leases, format!("end the redrives of subscription {id}"))?;
        let bucket = self.names.attempts();
        let attempts = self.stream(format!("KV_{bucket}")).await?;
        // Those of earlier rounds, and of earlier logs, were for events that came again, or are gone: they expire.
        let rounds = [format!("{}={round}", id.name), format!("{id}=redrive")];
        let mut kept = vec![format!("{}.gap", ended.round())];
        for partition in self.layout.partitions.values().filter(|p| !p.log.is_unsaid()) {
            kept.extend(rounds.iter().map(|round| format!("{round}={}", partition.log)));
        }
        kept.extend(rounds);
        for kept_under in kept {
            attempts
                .purge()
                .filter(format!("$KV.{bucket}.{kept_under}.>"))
                .await
                .map_err(StoreError::when(format!("forget the attempts of subscription {id}")))?;
        }
        Ok(())
    }
}
