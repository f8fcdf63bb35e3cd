//! A registry of OCI images that can be read and nothing else, on the loopback: each `.wasm` of a folder is an image.
//!
//! What a host asks for (OCI distribution 1.1, "pull"): the manifest of `fanout/NAME:TAG`, and the blobs that it names. The layer
//! is the file as it is, so its digest is the file's.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A running registry; it ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    digests: BTreeMap<String, String>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Images {
    /// By name.
    manifests: BTreeMap<String, Bytes>,
    /// By digest.
    blobs: BTreeMap<String, Bytes>,
}

impl Registry {
    /// Serves components of a folder, by the names of their packages: `webhook-ingress` is `webhook_ingress.wasm`.
    ///
    /// # Errors
    /// When a file can't be read, or no port be had.
    pub async fn serve(folder: &Path, names: &[&str]) -> Result<Self> {
        let mut images = Images::default();
        let mut digests = BTreeMap::new();
        for name in names {
            let file = folder.join(format!("{}.wasm", name.replace('-', "_")));
            let layer = std::fs::read(&file).with_context(|| format!("can't read the component {}", file.display()))?;
            digests.insert((*name).to_owned(), images.add(name, layer.into())?);
        }
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("no free port for the registry")?;
        let address = listener.local_addr().context("the registry has no address")?;
        let task = tokio::spawn(run(listener, Arc::new(images)));
        Ok(Self { address, digests, task })
    }

    /// What an image's name begins with: `127.0.0.1:PORT/fanout`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("{}/fanout", self.address)
    }

    /// The digest of each component that is served: `sha256:…`.
    #[must_use]
    pub fn digests(&self) -> &BTreeMap<String, String> {
        &self.digests
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Images {
    /// Adds an image. Returns the digest of its layer.
    fn add(&mut self, name: &str, layer: Bytes) -> Result<String> {
        let layer_digest = digest(&layer);
        let config = serde_json::to_vec(&json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer_digest],
        }))
        .context("a config can't be written")?;
        let (config_digest, config_size) = (digest(&config), config.len());
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": config_digest, "size": config_size },
            "layers": [{ "mediaType": LAYER, "digest": layer_digest, "size": layer.len() }],
        }))
        .context("a manifest can't be written")?;
        self.blobs.insert(config_digest, config.into());
        self.blobs.insert(layer_digest.clone(), layer);
        self.manifests.insert(name.to_owned(), manifest.into());
        Ok(layer_digest)
    }

    /// The media type and the bytes of what a path names. Every tag is the one version that there is.
    fn find(&self, path: &str) -> Option<(&'static str, &Bytes)> {
        let path = path.strip_prefix("/v2/fanout/")?;
        let (name, rest) = path.split_once('/')?;
        let (kind, reference) = rest.split_once('/')?;
        match kind {
            "manifests" => {
                let manifest = self.manifests.get(name)?;
                let is_it = !reference.starts_with("sha256:") || reference == digest(manifest);
                is_it.then_some((MANIFEST, manifest))
            }
            "blobs" => self.blobs.get(reference).map(|blob| ("application/octet-stream", blob)),
            _ => None,
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let empty = |status| {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            response
        };
        if !matches!(*method, Method::GET | Method::HEAD) {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        if path == "/v2/" {
            return empty(StatusCode::OK);
        }
        let Some((media_type, bytes)) = self.find(path) else {
            return empty(StatusCode::NOT_FOUND);
        };
        // hyper leaves the body of an answer to HEAD out, and says its length.
        let mut response = Response::new(Full::new(bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let Ok(digest) = HeaderValue::try_from(digest(bytes)) {
            headers.insert(DIGEST, digest);
        }
        response
    }
}

async fn run(listener: TcpListener, images: Arc<Images>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // A connection that is gone before it is accepted is none.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let images = Arc::clone(&images);
        connections.spawn(async move {
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let response = images.answer(request.method(), request.uri().path());
                async { Ok::<_, Infallible>(response) }
            });
            // The host tries TLS first: that connection ends with an error, as it should.
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            served.await.unwrap_or_default();
        });
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_its_file_and_nothing_else_is_there() {
        let mut images = Images::default();
        let file = Bytes::from_static(b"\0asm");
        let layer = images.add("minimal", file.clone()).expect("added");
        let (media_type, manifest) = images.find("/v2/fanout/minimal/manifests/0.1.0").expect("a manifest");
        assert_eq!(media_type, MANIFEST);
        let read: serde_json::Value = serde_json::from_slice(manifest).expect("JSON");
        assert_eq!(read["layers"][0]["digest"], layer.as_str());
        let of = |path: String| images.find(&path).map(|(_, bytes)| bytes.clone());
        assert_eq!(of(format!("/v2/fanout/minimal/blobs/{layer}")), Some(file));
        assert_eq!(
            of(format!("/v2/fanout/minimal/manifests/{}", digest(manifest))).as_ref(),
            Some(manifest)
        );
        assert_eq!(
            of(format!("/v2/fanout/minimal/manifests/{layer}")),
            None,
            "a digest of something else"
        );
        for nothing in [
            "/v2/fanout/other/manifests/1",
            "/v2/fanout/minimal/tags/list",
            "/",
            "/v2/x/minimal/manifests/1",
        ] {
            assert_eq!(of(nothing.to_owned()), None, "{nothing}");
        }
    }
}
