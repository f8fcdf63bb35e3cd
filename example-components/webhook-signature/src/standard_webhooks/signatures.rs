//! The signatures that a header holds, by version.

use ed25519_dalek::Signature;

use crate::{
    Keys, Refusal, encoding,
    key::Key,
    mac::{MAX_TAGS, Tags},
};

/// The signatures that a header holds, by version.
pub(super) struct Signatures {
    v1: Tags,
    v1a: Vec<Signature>,
}

impl Signatures {
    pub(super) fn parse(text: &str, header: &'static str) -> Result<Self, Refusal> {
        let malformed = |problem| Refusal::MalformedHeader { header, problem };
        let mut v1 = Tags::default();
        let mut v1a = Vec::new();
        for element in text.split(' ') {
            let (version, value) = element.split_once(',').ok_or(malformed("an element has no `,`"))?;
            let has_room = match version {
                "v1" => v1.push(encoding::base64(value).ok_or(malformed("a `v1` is not 32 bytes in base64"))?),
                "v1a" => {
                    let bytes = encoding::base64(value).ok_or(malformed("a `v1a` is not 64 bytes in base64"))?;
                    v1a.push(Signature::from_bytes(&bytes));
                    v1a.len() <= MAX_TAGS
                }
                _ => true,
            };
            if !has_room {
                return Err(malformed("it holds too many signatures"));
            }
        }
        if v1.is_empty() && v1a.is_empty() {
            return Err(Refusal::NoSupportedSignature { header, version: "v1" });
        }
        Ok(Self { v1, v1a })
    }

    /// The first key that made one of the signatures over the concatenated `parts`.
    pub(super) fn made_by(&self, keys: &Keys, parts: &[&[u8]]) -> Option<usize> {
        let symmetric = if self.v1.is_empty() {
            None
        } else {
            self.v1.made_by(keys, parts)
        };
        if symmetric.is_some() || self.v1a.is_empty() {
            return symmetric;
        }
        // Public keys and signatures are no secrets: nothing here needs to take the same time.
        let mut message = None;
        keys.iter().position(|key| {
            let Key::Ed25519(key) = key else { return false };
            let message = message.get_or_insert_with(|| parts.concat());
            // Strictly: else one signature would have several forms.
            self.v1a
                .iter()
                .any(|signature| key.verify_strict(message, signature).is_ok())
        })
    }
}
