//! Packs a provider's binary as the archive (.par) that a host loads.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use provider_archive::ProviderArchive;
use tokio::process::Command;
use wascap::prelude::KeyPair;

/// Packs the binary at `binary`, for this machine only, under a key that is forgotten: nothing checks it locally.
pub(crate) async fn pack(name: &str, binary: &Path, archive: &Path) -> Result<()> {
    let bytes = read_stripped(binary, &archive.with_extension("stripped")).await?;
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

/// The binary without its symbols, where there is a `strip`: half of a debug build, which is copied four times on its
/// way into the host.
async fn read_stripped(binary: &Path, stripped: &Path) -> Result<Vec<u8>> {
    let strip = Command::new("strip").arg("-o").arg(stripped).arg(binary).output().await;
    let found = match strip {
        Ok(output) if output.status.success() => stripped,
        _ => binary,
    };
    tokio::fs::read(found)
        .await
        .with_context(|| format!("can't read the provider {}", found.display()))
}
