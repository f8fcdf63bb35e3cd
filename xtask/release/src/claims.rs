//! Claims: the signed description that a wasmCloud v1 host wants in a provider, and in a component that is given secrets.
//!
//! A host checks that the description is whole, and asks nobody whether its signer may be trusted. So that anyone can make the
//! same bytes, they are signed with a key that everybody has unless `--account-key` names another. What was released is proved
//! by the checksums and a signature of the image, not by these claims (docs/install.md).

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use nkeys::{KeyPair, KeyPairType};
use sha2::{Digest as _, Sha256};
use wascap::jwt::{CapabilityProvider, Claims, Component};
use wascap::wasm::extract_claims;

use crate::commit::Commit;
use crate::workspace::Part;

/// The name of the section that holds them.
const SECTION: &str = "wasmcloud_jwt";

/// Who says so in a provider's claims.
const VENDOR: &str = "fanout";

/// What describes and signs.
#[derive(Debug)]
pub struct Signer {
    account: KeyPair,
    version: semver::Version,
    seconds: u64,
}

impl Signer {
    /// One with the account's key in this file, or with the key that everybody has.
    ///
    /// # Errors
    ///
    /// If the file has no seed of an account in it.
    pub fn new(account_key: Option<&Path>, version: &semver::Version, commit: &Commit) -> Result<Self> {
        let account = match account_key {
            Some(file) => {
                let seed = std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
                // What is wrong with a seed is said without it.
                let key = KeyPair::from_seed(seed.trim()).map_err(|_| anyhow!("{} holds no seed", file.display()))?;
                if key.key_pair_type() != KeyPairType::Account {
                    bail!("{} holds a seed, and not an account's", file.display());
                }
                key
            }
            None => key(KeyPairType::Account, "everybody")?,
        };
        Ok(Self {
            account,
            version: version.clone(),
            seconds: commit.seconds,
        })
    }

    /// The claims of a provider whose binaries, by platform, have these bytes.
    ///
    /// # Errors
    ///
    /// If they can't be signed.
    pub fn provider(&self, part: &Part, platform: &str, binary: &[u8]) -> Result<String> {
        let subject = key(KeyPairType::Service, &part.name)?.public_key();
        let mut claims = Claims::<CapabilityProvider>::new(
            part.name.clone(),
            self.account.public_key(),
            subject,
            VENDOR.to_owned(),
            Some(1),
            Some(self.version.to_string()),
            HashMap::from([(platform.to_owned(), digest(binary))]),
        );
        claims.issued_at = self.seconds;
        claims.id = self.id(&part.name, binary);
        claims
            .encode(&self.account)
            .map_err(|e| anyhow!("can't sign {}: {e}", part.name))
    }

    /// A component with its claims in it.
    ///
    /// # Errors
    ///
    /// If it is none, or if the claims do not hold in it.
    pub fn component(&self, part: &Part, wasm: &[u8]) -> Result<Vec<u8>> {
        let subject = key(KeyPairType::Module, &part.name)?.public_key();
        let mut claims = Claims::<Component>::new(
            part.name.clone(),
            self.account.public_key(),
            subject,
            None,
            false,
            Some(1),
            Some(self.version.to_string()),
            None,
        );
        claims.issued_at = self.seconds;
        claims.id = self.id(&part.name, wasm);
        if let Some(metadata) = &mut claims.metadata {
            metadata.module_hash = digest(wasm);
        }
        let failed = |e| anyhow!("can't sign {}: {e}", part.name);
        let jwt = claims.encode(&self.account).map_err(failed)?;
        let mut signed = wasm.to_vec();
        signed.extend(custom_section(SECTION, jwt.as_bytes()));
        match extract_claims(&signed).map_err(failed)? {
            Some(token) if token.claims == claims => Ok(signed),
            _ => bail!("{} has claims already, or is no component", part.name),
        }
    }

    /// An id is to be unique to the claims, and the same for the same claims.
    fn id(&self, name: &str, bytes: &[u8]) -> String {
        let of = format!("{name} {} {}", self.version, digest(bytes));
        hex::encode(&Sha256::digest(of)[..16])
    }
}

/// A key that everybody has: what it signs proves nothing, and what is named by it is named the same in each release.
fn key(kind: KeyPairType, name: &str) -> Result<KeyPair> {
    let seed = Sha256::digest(format!("fanout, a key that everybody has: {name}"));
    KeyPair::new_from_raw(kind, seed.into()).map_err(|e| anyhow!("can't make a key: {e}"))
}

/// As wascap writes them: hexadecimal, in capitals.
fn digest(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

/// A custom section of WebAssembly: 0, the length, the name with its length, the contents.
fn custom_section(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut inner = leb128(name.len());
    inner.extend(name.as_bytes());
    inner.extend(contents);
    let mut section = vec![0];
    section.extend(leb128(inner.len()));
    section.extend(inner);
    section
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_as_few_bytes_as_they_need() {
        for (number, bytes) in [
            (0, vec![0]),
            (127, vec![0x7f]),
            (128, vec![0x80, 1]),
            (624_485, vec![0xe5, 0x8e, 0x26]),
        ] {
            assert_eq!(leb128(number), bytes, "{number}");
        }
    }
}
