//! What a component finds around it: configuration, secrets, a key-value store, a log.
//!
//! These are the interfaces of a wasmCloud 1.x host, by its own bindings, so that a component which runs there is
//! linked here without a change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use fanout_forward::{Lazy, Upstream};
use tokio::sync::mpsc;
use wasmcloud_core::CallTargetInterface;
use wasmcloud_runtime::capability::logging::logging::{self, Level};
use wasmcloud_runtime::capability::secrets::store::{HostSecret, Secret, SecretValue, SecretsError};
use wasmcloud_runtime::capability::secrets::{reveal, store as secrets};
use wasmcloud_runtime::capability::{bus2_0_1::lattice, config::store as config};
use wasmtime::component::Resource;

use crate::guest::Guest;
use crate::hosted::Order;
use crate::keyvalue::Buckets;

/// What all instances of a component share.
#[derive(Debug)]
pub struct Surroundings {
    /// The component's name, for the log.
    pub name: String,
    /// `wasi:config/store`.
    pub config: BTreeMap<String, String>,
    /// `wasmcloud:secrets`.
    pub secrets: Secrets,
    /// `wasi:keyvalue`.
    pub buckets: Buckets,
    /// `fanout:bus`.
    pub bus: Upstream<Lazy>,
    /// Where the component's own subscriptions are ordered.
    pub orders: mpsc::Sender<Order>,
}

/// Secrets by name. `Debug` shows only the names.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl config::Host for Guest {
    async fn get(&mut self, key: String) -> Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.surroundings.config.get(&key).cloned()))
    }

    async fn get_all(&mut self) -> Result<Result<Vec<(String, String)>, config::Error>> {
        let all = self.surroundings.config.iter();
        Ok(Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

impl logging::Host for Guest {
    async fn log(&mut self, level: Level, context: String, message: String) -> Result<()> {
        let component = &self.surroundings.name;
        // Escaped, so that what a component was sent can't write lines of its own.
        let message = message.escape_debug();
        match level {
            Level::Trace => tracing::trace!(component, context, "{message}"),
            Level::Debug => tracing::debug!(component, context, "{message}"),
            Level::Info => tracing::info!(component, context, "{message}"),
            Level::Warn => tracing::warn!(component, context, "{message}"),
            Level::Error | Level::Critical => tracing::error!(component, context, "{message}"),
        }
        Ok(())
    }
}

impl secrets::Host for Guest {
    async fn get(&mut self, key: String) -> Result<Result<Resource<Secret>, SecretsError>> {
        if !self.surroundings.secrets.0.contains_key(&key) {
            return Ok(Err(SecretsError::NotFound));
        }
        let secret = self.table.push(Arc::new(key)).context("no room for a secret")?;
        Ok(Ok(secret))
    }
}

impl HostSecret for Guest {
    async fn drop(&mut self, secret: Resource<Secret>) -> Result<()> {
        self.table.delete(secret).context("no such secret")?;
        Ok(())
    }
}

impl reveal::Host for Guest {
    async fn reveal(&mut self, secret: Resource<Secret>) -> Result<SecretValue> {
        let key = self.table.get(&secret).context("no such secret")?;
        let value = self.surroundings.secrets.0.get(key.as_str());
        Ok(SecretValue::String(value.context("no such secret")?.clone()))
    }
}

/// There is one bus and one of everything else: a link's name chooses nothing here.
impl lattice::Host for Guest {
    async fn set_link_name(
        &mut self,
        _: String,
        interfaces: Vec<Resource<Arc<CallTargetInterface>>>,
    ) -> Result<Result<(), String>> {
        for interface in interfaces {
            self.table.delete(interface).context("no such interface")?;
        }
        Ok(Ok(()))
    }
}

impl lattice::HostCallTargetInterface for Guest {
    async fn new(
        &mut self,
        namespace: String,
        package: String,
        interface: String,
    ) -> Result<Resource<Arc<CallTargetInterface>>> {
        let named = CallTargetInterface {
            namespace,
            package,
            interface,
        };
        self.table.push(Arc::new(named)).context("no room for an interface")
    }

    async fn drop(&mut self, interface: Resource<Arc<CallTargetInterface>>) -> Result<()> {
        self.table.delete(interface).context("no such interface")?;
        Ok(())
    }
}
