//! The secret that the instances of a bus share: tokens, and requests of one to another, are sealed with it, and it is written
//! with it who published an event. An edge's instances share one in the same way.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_nats::jetstream::kv;
use bytes::Bytes;

use super::publisher::Key;
use super::{Store, StoreError};

/// The entry that holds it. With a dot, it is no subscription's name.
pub(crate) const SECRET: &str = "inbox.secret";
/// Its bytes.
pub(crate) const SECRET_BYTES: usize = 32;
/// How often it is tried to keep it, if others change it meanwhile.
const RACES: u32 = 5;

/// As it was read last, with the key that is made of it; clones share it.
#[derive(Clone, Default)]
pub(super) struct SharedSecret(Arc<RwLock<Option<Arc<Known>>>>);

pub(super) struct Known {
    secret: Bytes,
    /// By which it is written who published an event.
    pub(super) key: Key,
}

impl SharedSecret {
    pub(super) fn get(&self) -> Option<Arc<Known>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, secret: Bytes) -> Arc<Known> {
        let key = Key::of(&secret);
        let known = Arc::new(Known { secret, key });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&known));
        known
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret([redacted])")
    }
}

impl Store {
    /// The secret, as it was read last.
    pub(crate) fn secret(&self) -> Option<Bytes> {
        Some(self.secret.get()?.secret.clone())
    }

    /// Reads the secret. The first instance makes it, of `fresh`. Where it was deleted, whoever knows it puts it back; one that
    /// another has put there is taken over.
    ///
    /// # Errors
    /// When the registry can't be read, or what is missing there can't be written.
    pub(crate) async fn read_secret(&self, fresh: &[u8]) -> Result<(), StoreError> {
        let secret = match self.kept_secret().await? {
            Some(secret) => secret,
            None => {
                let ours = self.secret().unwrap_or_else(|| Bytes::copy_from_slice(fresh));
                shared_secret(&self.bucket(&self.names.registry()).await?, ours).await?
            }
        };
        if self.secret().as_ref() != Some(&secret) {
            self.secret.set(secret);
        }
        Ok(())
    }

    /// The secret that the registry keeps, where there is one.
    pub(super) async fn kept_secret(&self) -> Result<Option<Bytes>, StoreError> {
        let registry = self.names.registry();
        let subject = format!("$KV.{registry}.{SECRET}");
        let found = self.last_message(format!("KV_{registry}"), &subject).await?;
        Ok(found.map(|message| message.payload).filter(|secret| is_secret(secret)))
    }
}

/// Whether these bytes can be the secret: what somebody else wrote there is none.
fn is_secret(bytes: &[u8]) -> bool {
    bytes.len() == SECRET_BYTES
}

/// The secret that the sharers of a bucket have: the one that is there, or `ours`, which is put there where there is none, or
/// what is there is none.
pub(crate) async fn shared_secret(bucket: &kv::Store, ours: Bytes) -> Result<Bytes, StoreError> {
    for _ in 0..RACES {
        let found = bucket
            .entry(SECRET)
            .await
            .map_err(StoreError::when("read the secret that instances share"))?;
        let revision = match found {
            Some(entry) if is_secret(&entry.value) => return Ok(entry.value),
            Some(entry) => entry.revision,
            None => 0,
        };
        match bucket.update(SECRET, ours.clone(), revision).await {
            Ok(_) => return Ok(ours),
            Err(e) if e.kind() == kv::UpdateErrorKind::WrongLastRevision => {}
            Err(e) => return Err(StoreError::when("keep the secret that instances share")(e)),
        }
    }
    Err(StoreError::when("keep the secret that instances share")(
        "others change it all the time",
    ))
}
