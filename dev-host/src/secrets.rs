//! A secrets backend on the lattice, for one machine: it hands out what one file holds.
//!
//! It speaks the host's protocol (wasmCloud secrets, v1alpha1), sealing included, so that a component gets a secret here
//! the way it gets one in production. It deliberately lacks a policy: whoever asks on this run's own server is answered.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::HeaderMap;
use bytes::Bytes;
use fanout_transport::{InboxPrefix, Inboxes};
use futures::StreamExt as _;
use nkeys::{KeyPair, XKey};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinHandle;
use tracing::warn;

/// What the host is told, and what its subjects begin with.
pub(crate) const TOPIC: &str = "wasmcloud.secrets";
/// The name by which a manifest's policy refers to it.
const BACKEND: &str = "fanout-dev";
const VERSION: &str = "v1alpha1";
const HOST_KEY: &str = "WasmCloud-Host-Xkey";
const RESPONSE_KEY: &str = "Server-Response-Xkey";

/// The secrets of a run, by key.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Reads a file: an object of texts. What is wrong with it is said without quoting it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("can't read the secrets {}", path.display()))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| anyhow!("{} holds no object of texts (line {})", path.display(), error.line()))
    }
}

/// The running backend. It ends when this is dropped.
pub(crate) struct SecretsBackend {
    task: JoinHandle<()>,
}

impl Drop for SecretsBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Deserialize)]
struct Request {
    key: String,
}

impl SecretsBackend {
    /// Starts it; it answers once this returns.
    pub(crate) async fn start(client: async_nats::Client, secrets: Secrets) -> Result<Self> {
        let subject = |what: &str| format!("{TOPIC}.{VERSION}.{BACKEND}.{what}");
        let listen = async |what: &str| client.subscribe(subject(what)).await.context("can't serve secrets");
        let mut keys = listen("server_xkey").await?;
        let mut requests = listen("get").await?;
        client.flush().await.context("can't serve secrets")?;
        let own = XKey::new();
        let inboxes = Inboxes::new([InboxPrefix::default()]);
        let task = tokio::spawn(async move {
            loop {
                let (message, answer, headers) = tokio::select! {
                    Some(message) = keys.next() => (message, Bytes::from(own.public_key()), HeaderMap::new()),
                    Some(message) = requests.next() => {
                        let (answer, headers) = answer(&own, &secrets, &message).unwrap_or_else(|error| {
                            warn!("a secret was not handed out: {error:#}");
                            let refused = json!({ "error": { "UpstreamError": format!("{error:#}") } });
                            (refused.to_string().into(), HeaderMap::new())
                        });
                        (message, answer, headers)
                    }
                    else => break,
                };
                if let Some(reply) = message.reply.filter(|reply| inboxes.allows(reply))
                    && let Err(error) = client.publish_with_headers(reply, headers, answer).await
                {
                    warn!("the secrets backend can't answer: {error}");
                }
            }
        });
        Ok(Self { task })
    }
}

/// Opens a request, and seals what it asks for so that only the host that asked can open it.
fn answer(own: &XKey, secrets: &Secrets, message: &async_nats::Message) -> Result<(Bytes, HeaderMap)> {
    let header = message.headers.as_ref().and_then(|headers| headers.get(HOST_KEY));
    let host = header.with_context(|| format!("a request has no header {HOST_KEY}"))?;
    let host = XKey::from_public_key(host.as_str()).map_err(|error| anyhow!("the host's key is none: {error}"))?;
    let opened = own
        .open(&message.payload, &host)
        .map_err(|error| anyhow!("a request can't be opened: {error}"))?;
    let request: Request = serde_json::from_slice(&opened).context("a request makes no sense")?;
    let Some(secret) = secrets.0.get(&request.key) else {
        bail!("there is no secret {}", request.key);
    };
    let response = json!({ "secret": { "version": "1", "string_secret": secret } });
    let sealer = XKey::new();
    let sealed = sealer
        .seal(response.to_string().as_bytes(), &host)
        .map_err(|error| anyhow!("a secret can't be sealed: {error}"))?;
    let mut headers = HeaderMap::new();
    headers.insert(RESPONSE_KEY, sealer.public_key().as_str());
    Ok((sealed.into(), headers))
}

/// A component with an identity embedded, under keys that are forgotten: hosts fetch secrets for no other.
pub(crate) fn sign(name: &str, component: &[u8]) -> Result<Vec<u8>> {
    // It also prints four words of its own to standard error; nothing can be done about it from here.
    wascap::wasm::sign_buffer_with_claims(
        name.to_owned(),
        component,
        &KeyPair::new_module(),
        &KeyPair::new_account(),
        None,
        None,
        Vec::new(),
        false,
        Some(1),
        Some(env!("CARGO_PKG_VERSION").to_owned()),
        None,
    )
    .map_err(|error| anyhow!("can't give the component {name} an identity: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(own: &XKey, host: &XKey, key: &str) -> async_nats::Message {
        let body = json!({ "key": key, "context": {} }).to_string();
        let mut headers = HeaderMap::new();
        headers.insert(HOST_KEY, host.public_key().as_str());
        async_nats::Message {
            subject: "s".into(),
            reply: None,
            payload: host.seal(body.as_bytes(), own).expect("sealed").into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn only_the_host_that_asked_can_open_a_secret() {
        let secrets: Secrets = serde_json::from_str(r#"{"stripe": "whsec_topsecret"}"#).expect("secrets");
        let (own, host) = (XKey::new(), XKey::new());
        let (sealed, headers) = answer(&own, &secrets, &request(&own, &host, "stripe")).expect("an answer");
        assert!(!String::from_utf8_lossy(&sealed).contains("topsecret"));
        let sealer = XKey::from_public_key(headers.get(RESPONSE_KEY).expect("a key").as_str()).expect("a key");
        let opened = host.open(&sealed, &sealer).expect("opened");
        let opened: serde_json::Value = serde_json::from_slice(&opened).expect("JSON");
        assert_eq!(opened["secret"]["string_secret"], "whsec_topsecret");
        assert!(XKey::new().open(&sealed, &sealer).is_err());
        let refused = answer(&own, &secrets, &request(&own, &host, "other")).expect_err("no such secret");
        assert_eq!(refused.to_string(), "there is no secret other");
    }

    #[test]
    fn a_file_that_is_none_is_not_quoted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets.json");
        std::fs::write(&path, r#"{"stripe": ["whsec_topsecret"]}"#).expect("written");
        let error = Secrets::read(&path).err().expect("refused");
        assert!(!format!("{error:#}").contains("topsecret"), "{error:#}");
    }
}
