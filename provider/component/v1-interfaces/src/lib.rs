//! What components of wasmCloud v1 import and a v2 host lacks: the drafts of `wasi:config` and `wasmcloud:secrets`.
//!
//! Beside such a component in its workload, it serves both from its own environment, where a manifest puts settings, config maps
//! and secrets (`config`, `configFrom`, `secretFrom`). A variable whose name begins with `secret.` is a secret, found by what
//! follows; every other is a setting, but for those of the bus's own components (`FANOUT_TOKEN` is one), which have the same
//! environment where all of them were composed to one. It gives no setting that is a secret, and no secret but by its name.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, missing_docs, reason = "the generated bindings cross the boundary")]

use exports::wasi::config::store as config;
use exports::wasmcloud::secrets::{reveal, store as secrets};

wit_bindgen::generate!({
    path: ["../../../example-components/common/wit", "wit-config", "wit"],
    world: "fanout:v1-interfaces/v1-interfaces",
    generate_all,
});

/// Before the name of a secret.
const SECRET: &str = "secret.";
/// Before the name of a variable of the bus's own components.
const OWN: &str = "FANOUT_";

struct Environment;

export!(Environment);

impl config::Guest for Environment {
    fn get(key: String) -> Result<Option<String>, config::Error> {
        match is_setting(&key) {
            true => Ok(std::env::var(key).ok()),
            false => Ok(None),
        }
    }

    fn get_all() -> Result<Vec<(String, String)>, config::Error> {
        Ok(std::env::vars().filter(|(key, _)| is_setting(key)).collect())
    }
}

fn is_setting(key: &str) -> bool {
    !key.starts_with(SECRET) && !key.starts_with(OWN)
}

/// A secret that is not shown yet.
struct Secret(String);

impl secrets::GuestSecret for Secret {}

impl secrets::Guest for Environment {
    type Secret = Secret;

    fn get(key: String) -> Result<secrets::Secret, secrets::SecretsError> {
        let value = std::env::var(format!("{SECRET}{key}")).map_err(|_| secrets::SecretsError::NotFound)?;
        Ok(secrets::Secret::new(Secret(value)))
    }
}

impl reveal::Guest for Environment {
    fn reveal(secret: secrets::SecretBorrow<'_>) -> secrets::SecretValue {
        secrets::SecretValue::String(secret.get::<Secret>().0.clone())
    }
}
