//! Pushing to a registry. A version is published once: a tag that has other bytes is refused.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::{Value, json};

use super::{Artifact, canonical};
use crate::workspace::Part;

/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);

/// The variables that hold who pushes.
const USER_VARIABLE: &str = "FANOUT_REGISTRY_USER";
const PASSWORD_VARIABLE: &str = "FANOUT_REGISTRY_PASSWORD";

/// A place in a registry, `HOST/PATH`.
pub struct Registry {
    client: Client,
    host: String,
    /// Ends with a slash, unless it is empty.
    path: String,
    auth: RegistryAuth,
    replace: bool,
}

impl Registry {
    /// A place; who pushes is in `FANOUT_REGISTRY_USER` and `FANOUT_REGISTRY_PASSWORD`, or nobody.
    ///
    /// # Errors
    ///
    /// If it names no host, or its path is none.
    pub fn new(place: &str, insecure: bool, replace: bool) -> Result<Self> {
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        ensure!(
            !host.is_empty() && !host.ends_with(':'),
            "--registry {place} names no host: it is HOST/PATH, without https://"
        );
        let protocol = if insecure {
            ClientProtocol::HttpsExcept(vec![host.to_owned()])
        } else {
            ClientProtocol::Https
        };
        let config = ClientConfig {
            protocol,
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT),
            ..ClientConfig::default()
        };
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let auth = match (variable(USER_VARIABLE), variable(PASSWORD_VARIABLE)) {
            (Some(user), Some(password)) => RegistryAuth::Basic(user, password),
            (None, None) => RegistryAuth::Anonymous,
            _ => bail!("set {USER_VARIABLE} and {PASSWORD_VARIABLE}, or neither"),
        };
        let path = path.trim_matches('/');
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte);
        ensure!(
            path.bytes().all(is_name),
            "--registry {place}: a path has small letters, digits and . _ - / in it"
        );
        Ok(Self {
            client: Client::try_from(config).context("can't make a client for registries")?,
            host: host.to_owned(),
            path: if path.is_empty() {
                String::new()
            } else {
                format!("{path}/")
            },
            auth,
            replace,
        })
    }

    /// What the images' names begin with.
    #[must_use]
    pub fn prefix(&self) -> String {
        let path = self.path.trim_end_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        format!("{}{slash}{path}", self.host)
    }

    /// Signs in, before anything is compiled for a registry that does not answer.
    ///
    /// # Errors
    ///
    /// If the registry can't be reached, or refuses who pushes.
    pub async fn check(&self, part: &Part) -> Result<()> {
        let repository = format!("{}{}", self.path, part.name);
        self.sign_in(&Reference::with_tag(self.host.clone(), repository, "latest".to_owned()))
            .await
    }

    async fn sign_in(&self, reference: &Reference) -> Result<()> {
        let signed_in = self.client.auth(reference, &self.auth, RegistryOperation::Push).await;
        signed_in.with_context(|| {
            format!("can't sign in to push {reference}: who pushes is in {USER_VARIABLE} and {PASSWORD_VARIABLE}")
        })?;
        Ok(())
    }

    fn repository(&self, artifact: &Artifact) -> String {
        format!("{}{}", self.path, artifact.repository)
    }

    /// Pushes an artifact and what refers to it. Returns its name with its digest.
    ///
    /// # Errors
    ///
    /// If the registry does not take it, or has other bytes under its tag already.
    pub async fn push(&self, artifact: &Artifact) -> Result<String> {
        let repository = self.repository(artifact);
        let tagged = Reference::with_tag(self.host.clone(), repository.clone(), artifact.tag.clone());
        let digest = artifact.digest();
        self.sign_in(&tagged).await?;
        match self.pushed(&tagged).await? {
            Some(other) if other != digest && !self.replace => bail!(
                "{tagged} is published with other bytes, {other}: raise the version, or replace it with --replace"
            ),
            Some(same) if same == digest => {}
            _ => self.put(artifact, &tagged).await?,
        }
        for referrer in &artifact.referrers {
            let by_digest = Reference::with_digest(self.host.clone(), repository.clone(), referrer.digest());
            self.put(referrer, &by_digest).await?;
        }
        self.put_referrers(artifact).await?;
        let pushed = self.pushed(&tagged).await?;
        ensure!(
            pushed.as_ref() == Some(&digest),
            "the registry has {pushed:?} under {tagged}, and {digest} was pushed"
        );
        Ok(format!("{}/{repository}:{}@{digest}", self.host, artifact.tag))
    }

    async fn pushed(&self, reference: &Reference) -> Result<Option<String>> {
        let asked = self.client.fetch_manifest_digest(reference, &self.auth).await;
        match asked {
            Ok(digest) => Ok(Some(digest)),
            Err(OciDistributionError::ImageManifestNotFoundError(_)) => Ok(None),
            Err(OciDistributionError::ServerError { code: 404, .. }) => Ok(None),
            Err(OciDistributionError::RegistryError { envelope, .. })
                if envelope.errors.iter().any(|error| {
                    matches!(
                        error.code,
                        OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
                    )
                }) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("can't ask the registry for {reference}")),
        }
    }

    async fn put(&self, artifact: &Artifact, reference: &Reference) -> Result<()> {
        for blob in &artifact.blobs {
            self.client
                .push_blob(reference, &blob.bytes, &blob.digest())
                .await
                .with_context(|| format!("the registry does not take a blob of {reference}"))?;
        }
        self.put_manifest(reference, artifact.manifest.clone(), &artifact.media_type)
            .await
    }

    async fn put_manifest(&self, reference: &Reference, bytes: Vec<u8>, media_type: &str) -> Result<()> {
        let media_type = media_type.parse().context("a media type is a header's value")?;
        self.client
            .push_manifest_raw(reference, bytes, media_type)
            .await
            .with_context(|| format!("the registry does not take the manifest of {reference}"))?;
        Ok(())
    }

    /// Lists what refers to an artifact under a tag that is made of its digest: where readers look in a registry that has no list
    /// of its own (distribution specification 1.1, "referrers tag schema").
    async fn put_referrers(&self, artifact: &Artifact) -> Result<()> {
        let listed: Vec<_> = artifact.referrers.iter().map(entry).collect::<Result<_>>()?;
        if listed.is_empty() {
            return Ok(());
        }
        let index = canonical(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE,
            "manifests": listed,
        }))?;
        let tag = artifact.digest().replacen(':', "-", 1);
        let reference = Reference::with_tag(self.host.clone(), self.repository(artifact), tag);
        self.put_manifest(&reference, index, OCI_IMAGE_INDEX_MEDIA_TYPE).await
    }
}

fn entry(referrer: &Artifact) -> Result<Value> {
    let manifest: Value = serde_json::from_slice(&referrer.manifest).context("a manifest is JSON")?;
    Ok(json!({
        "mediaType": referrer.media_type,
        "artifactType": manifest["artifactType"],
        "digest": referrer.digest(),
        "size": referrer.manifest.len(),
        "annotations": manifest["annotations"],
    }))
}
