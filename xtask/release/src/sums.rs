//! `SHA256SUMS`, as `sha256sum --check` reads it.

use sha2::{Digest as _, Sha256};

/// The SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One line for each file, by name.
#[must_use]
pub fn sha256sums<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut lines: Vec<_> = files.into_iter().map(|(name, bytes)| (name, sha256(bytes))).collect();
    lines.sort_unstable();
    lines.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}
