//! The secrets that the manifest gives to a component.

#[allow(missing_docs, unsafe_code)]
mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "wasmcloud:secrets/secrets",
        generate_all,
    });
}

use bindings::wasmcloud::secrets::{
    reveal,
    store::{self, SecretValue, SecretsError},
};

/// A secret as text; nothing if the component was given none of this name. The error holds none of it.
pub fn read(name: &str) -> Result<Option<String>, String> {
    let secret = match store::get(name) {
        Ok(secret) => secret,
        Err(SecretsError::NotFound) => return Ok(None),
        Err(SecretsError::Upstream(reason) | SecretsError::Io(reason)) => return Err(reason),
    };
    match reveal::reveal(&secret) {
        SecretValue::String(text) => Ok(Some(text)),
        SecretValue::Bytes(bytes) => String::from_utf8(bytes)
            .map(Some)
            // The error would hold the bytes.
            .map_err(|_| "it is not in UTF-8".to_owned()),
    }
}
