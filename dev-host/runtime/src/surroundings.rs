//! What a component finds around it: configuration, secrets, a key-value store, a log.
//!
//! These are the interfaces of a wasmCloud 1.x host, so that a component which runs there is linked here without a change.

use std::collections::BTreeMap;
use std::fmt;

use fanout_client::Upstream;
use tokio::sync::mpsc;
use wasmtime::component::Resource;
use wasmtime::error::Context as _;

use crate::bindings::surroundings::wasi::config::store as config;
use crate::bindings::surroundings::wasi::logging::logging::{self, Level};
use crate::bindings::surroundings::wasmcloud::bus::lattice;
use crate::bindings::surroundings::wasmcloud::secrets::store::{HostSecret, SecretValue, SecretsError};
use crate::bindings::surroundings::wasmcloud::secrets::{reveal, store as secrets};
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
    pub bus: Upstream,
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

/// A secret that a component holds: the name of one.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
#[derive(Debug)]
pub struct Secret(String);

/// An interface that a component names to choose a link.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
#[derive(Debug)]
pub struct Interface;

impl config::Host for Guest {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.surroundings.config.get(&key).cloned()))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        let all = self.surroundings.config.iter();
        Ok(Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}

impl logging::Host for Guest {
    async fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
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
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Resource<Secret>, SecretsError>> {
        if !self.surroundings.secrets.0.contains_key(&key) {
            return Ok(Err(SecretsError::NotFound));
        }
        let secret = self.table.push(Secret(key)).context("too many secrets")?;
        Ok(Ok(secret))
    }
}

impl HostSecret for Guest {
    async fn drop(&mut self, secret: Resource<Secret>) -> wasmtime::Result<()> {
        self.table.delete(secret).context("no such secret")?;
        Ok(())
    }
}

impl reveal::Host for Guest {
    async fn reveal(&mut self, secret: Resource<Secret>) -> wasmtime::Result<SecretValue> {
        let key = self.table.get(&secret).context("no such secret")?;
        let value = self.surroundings.secrets.0.get(&key.0);
        Ok(SecretValue::String(value.context("no such secret")?.clone()))
    }
}

/// There is one bus and one of everything else: a link's name chooses nothing here.
impl lattice::Host for Guest {
    async fn set_link_name(
        &mut self,
        _: String,
        interfaces: Vec<Resource<Interface>>,
    ) -> wasmtime::Result<Result<(), String>> {
        for interface in interfaces {
            self.table.delete(interface).context("no such interface")?;
        }
        Ok(Ok(()))
    }
}

impl lattice::HostCallTargetInterface for Guest {
    async fn new(
        &mut self,
        _namespace: String,
        _package: String,
        _interface: String,
    ) -> wasmtime::Result<Resource<Interface>> {
        self.table.push(Interface).context("too many interfaces")
    }

    async fn drop(&mut self, interface: Resource<Interface>) -> wasmtime::Result<()> {
        self.table.delete(interface).context("no such interface")?;
        Ok(())
    }
}
