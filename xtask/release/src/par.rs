//! A provider's archive (`.par`), as a wasmCloud v1 host reads it: a tar with `claims.jwt` and a binary for each platform.

use anyhow::Result;

use crate::archive::{Archive, Effort};
use crate::claims::Signer;
use crate::workspace::Part;

/// Packs a provider's binary for the platform it was built for.
///
/// # Errors
///
/// If its claims can't be signed.
pub fn pack(part: &Part, binary: &[u8], arch: &str, signer: &Signer, seconds: u64, effort: Effort) -> Result<Vec<u8>> {
    let platform = format!("{arch}-linux");
    // Readers take the entries in any order.
    let mut archive = Archive::new(seconds);
    archive.file("claims.jwt", 0o644, signer.provider(part, &platform, binary)?);
    archive.file(format!("{platform}.bin"), 0o755, binary);
    archive.tar_gz(effort)
}
