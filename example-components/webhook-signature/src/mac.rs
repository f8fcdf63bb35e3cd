//! HMAC-SHA256 tags, and the comparison in constant time.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::{Key, Keys};

/// The length of a tag in bytes.
pub(crate) const TAG_LEN: usize = 32;

/// The most signatures that a header may hold: more than a sender has keys, few enough to bound the work.
pub(crate) const MAX_TAGS: usize = 16;

pub(crate) type Tag = [u8; TAG_LEN];

/// The tags that a header holds.
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
        let mut found = Choice::from(0);
        let mut which = 0_u32;
        for (index, key) in (0_u32..).zip(keys.iter()) {
            let made = tag(key, parts);
            let matches = self.tags[..self.len]
                .iter()
                .fold(Choice::from(0), |matches, tag| matches | made.ct_eq(tag));
            which.conditional_assign(&index, matches & !found);
            found |= matches;
        }
        bool::from(found).then_some(which as usize)
    }
}

/// The tag of the concatenated `parts`.
pub(crate) fn tag(key: &Key, parts: &[&[u8]]) -> Tag {
    // A key of any length is accepted: HMAC hashes a long one and pads a short one.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Reads a tag in lower-case hexadecimal.
pub(crate) fn from_hex(text: &str) -> Option<Tag> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut tag = Tag::default();
    hex::decode_to_slice(text, &mut tag).ok()?;
    Some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;

    fn keys(secrets: &str) -> Keys {
        Keys::parse(Scheme::Stripe, secrets).unwrap()
    }

    /// RFC 4231, test case 2.
    #[test]
    fn a_tag_is_hmac_sha256() {
        let key = Key::new(Scheme::Stripe, "Jefe").unwrap();
        let expected = from_hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843").unwrap();
        assert_eq!(tag(&key, &[b"what do ya want for nothing?"]), expected);
        assert_eq!(tag(&key, &[b"what do ya ", b"", b"want for nothing?"]), expected);
    }

    #[test]
    fn the_first_key_that_matches_is_named() {
        let made = tag(&Key::new(Scheme::Stripe, "two").unwrap(), &[b"body"]);
        let mut tags = Tags::default();
        assert!(tags.push([7; TAG_LEN]));
        assert!(tags.push(made));
        assert_eq!(tags.made_by(&keys("one two three two"), &[b"body"]), Some(1));
        assert_eq!(tags.made_by(&keys("two"), &[b"body"]), Some(0));
        assert_eq!(tags.made_by(&keys("one three"), &[b"body"]), None);
        assert_eq!(tags.made_by(&keys("two"), &[b"Body"]), None);
        assert_eq!(Tags::default().made_by(&keys("two"), &[b"body"]), None);
    }

    #[test]
    fn tags_are_limited() {
        let mut tags = Tags::default();
        for _ in 0..MAX_TAGS {
            assert!(tags.push([0; TAG_LEN]));
        }
        assert!(!tags.push([0; TAG_LEN]));
    }

    #[test]
    fn hex_is_lower_case_and_of_full_length() {
        let text = "ab".repeat(TAG_LEN);
        assert_eq!(from_hex(&text), Some([0xab; TAG_LEN]));
        assert_eq!(from_hex(&text.to_uppercase()), None);
        assert_eq!(from_hex(&text[2..]), None);
        assert_eq!(from_hex(&format!("{text}ab")), None);
        assert_eq!(from_hex(&text.replace('a', "g")), None);
        assert_eq!(from_hex(""), None);
    }
}
