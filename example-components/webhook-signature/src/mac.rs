//! HMAC-SHA256 tags, and the comparison in constant time.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::{Keys, key::Key};

/// The length of a tag in bytes.
pub(crate) const TAG_LEN: usize = 32;

/// The most signatures that a webhook may hold: more than a sender has keys, few enough to bound the work.
pub(crate) const MAX_TAGS: usize = 16;

pub(crate) type Tag = [u8; TAG_LEN];

/// A key of HMAC-SHA256, with what depends on the key alone already computed.
#[derive(Clone)]
pub(crate) struct Mac {
    keyed: Hmac<Sha256>,
    strength: usize,
}

/// How many bytes of a key count: HMAC fills a key up with zero bytes, so that those at its end add nothing.
pub(crate) fn strength(key: &[u8]) -> usize {
    key.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

impl Mac {
    /// A key of any length is accepted: HMAC hashes a long one and pads a short one.
    pub(crate) fn new(key: &[u8]) -> Self {
        Self {
            keyed: Hmac::new_from_slice(key).expect("HMAC takes a key of any length"),
            strength: strength(key),
        }
    }

    /// How many bytes of the key count.
    pub(crate) fn strength(&self) -> usize {
        self.strength
    }

    /// The tag of the concatenated `parts`.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut mac = self.keyed.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The tags that a webhook holds.
#[derive(Default)]
pub(crate) struct Tags {
    tags: [Tag; MAX_TAGS],
    len: usize,
}

impl Tags {
    /// Adds a tag; false when there is no more room.
    #[must_use]
    pub(crate) fn push(&mut self, tag: Tag) -> bool {
        match self.tags.get_mut(self.len) {
            Some(place) => {
                *place = tag;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first key that made one of the tags over the concatenated `parts`.
    ///
    /// Every key is compared with every tag: the time taken depends on how many there are, not on which match.
    pub(crate) fn made_by(&self, keys: &Keys, parts: &[&[u8]]) -> Option<usize> {
        let mut found = Found::default();
        for (index, key) in (0_u32..).zip(keys.iter()) {
            let Key::Mac(mac) = key else { continue };
            let made = mac.tag(parts);
            let matches = self.tags[..self.len]
                .iter()
                .fold(Choice::from(0), |matches, tag| matches | made.ct_eq(tag));
            found.note(index, matches);
        }
        found.index()
    }
}

impl From<Tag> for Tags {
    fn from(tag: Tag) -> Self {
        let mut tags = Self::default();
        tags.tags[0] = tag;
        tags.len = 1;
        tags
    }
}

/// The first of several keys that matched, noted without a branch on whether it did.
pub(crate) struct Found {
    found: Choice,
    which: u32,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            found: Choice::from(0),
            which: 0,
        }
    }
}

impl Found {
    pub(crate) fn note(&mut self, index: u32, matches: Choice) {
        self.which.conditional_assign(&index, matches & !self.found);
        self.found |= matches;
    }

    pub(crate) fn index(self) -> Option<usize> {
        bool::from(self.found).then_some(self.which as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scheme, encoding};

    fn keys(secrets: &str) -> Keys {
        let secrets: Vec<_> = secrets.split(' ').collect();
        Keys::allowing_short(Scheme::Stripe, &secrets, &[]).unwrap()
    }

    /// RFC 4231, test case 2.
    #[test]
    fn a_tag_is_hmac_sha256() {
        let key = Mac::new(b"Jefe");
        let expected = encoding::hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843").unwrap();
        assert_eq!(key.tag(&[b"what do ya want for nothing?"]), expected);
        assert_eq!(key.tag(&[b"what do ya ", b"", b"want for nothing?"]), expected);
    }

    #[test]
    fn the_first_key_that_matches_is_named() {
        let made = Mac::new(b"two").tag(&[b"body"]);
        let mut tags = Tags::default();
        assert!(tags.push([7; TAG_LEN]));
        assert!(tags.push(made));
        assert_eq!(tags.made_by(&keys("one two three two"), &[b"body"]), Some(1));
        assert_eq!(tags.made_by(&keys("two"), &[b"body"]), Some(0));
        assert_eq!(tags.made_by(&keys("one three"), &[b"body"]), None);
        assert_eq!(tags.made_by(&keys("two"), &[b"Body"]), None);
        assert_eq!(Tags::default().made_by(&keys("two"), &[b"body"]), None);
        assert_eq!(Tags::from(made).made_by(&keys("two"), &[b"body"]), Some(0));
        assert_eq!(Tags::from(made).made_by(&keys("one"), &[b"body"]), None);
    }

    #[test]
    fn tags_are_limited() {
        let mut tags = Tags::default();
        for _ in 0..MAX_TAGS {
            assert!(tags.push([0; TAG_LEN]));
        }
        assert!(!tags.push([0; TAG_LEN]));
    }
}
