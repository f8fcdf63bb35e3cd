//! Packs a provider's binary as the archive (.par) that a host loads.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use provider_archive::ProviderArchive;
use wascap::prelude::KeyPair;

/// Packs the binary at `binary`, for this machine only, under a key that is forgotten: nothing checks it locally.
pub(crate) async fn pack(name: &str, binary: &Path, archive: &Path) -> Result<()> {
    let bytes = tokio::fs::read(binary)
        .await
        .with_context(|| format!("can't read the provider {}", binary.display()))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut packed = ProviderArchive::new(name, "fanout", Some(1), Some(version));
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let failed = |error| anyhow!("can't pack {name}: {error}");
    packed.add_library(&target, &bytes).map_err(failed)?;
    // Without gzip: at its best setting it costs seconds, and the file is read once.
    packed
        .write(archive, &KeyPair::new_account(), &KeyPair::new_service(), false)
        .await
        .map_err(failed)
}
