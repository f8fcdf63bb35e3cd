//! What a signature proved.

use std::borrow::Cow;

use crate::Scheme;

/// What a signature proved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified<'a> {
    /// The scheme it was verified by.
    pub scheme: Scheme,
    /// Which key matched: its place in [`Keys`](crate::Keys), from 0. Of several items, the first one's.
    pub key: usize,
    /// The webhook's id, where the signature covers one that stands outside of the body.
    pub id: Option<&'a str>,
    /// When it was signed, in seconds since 1970, where the signature covers a time.
    pub timestamp: Option<i64>,
    /// What of the body is proven: nothing else in it is.
    pub proven: Proven<'a>,
}

/// What of a body is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proven<'a> {
    /// The body, byte for byte.
    Body(&'a [u8]),
    /// The body as far as a checksum goes: PayPal's, by CRC-32. Who can see one signed webhook can make another body with the
    /// same checksum at once, so that it is worth what the way it came by is worth, and nothing later on.
    Checksum(&'a [u8]),
    /// This payload, which the body held in an encoded form.
    Payload(Vec<u8>),
    /// These fields of these items, in the body's order and without exception.
    Items(Vec<Item<'a>>),
    /// Nothing: only the sender is known.
    Sender,
}

impl Proven<'_> {
    /// The proven bytes: the body's, as far as it is proven, or the payload's.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Proven::Body(bytes) | Proven::Checksum(bytes) => Some(bytes),
            Proven::Payload(bytes) => Some(bytes),
            Proven::Items(_) | Proven::Sender => None,
        }
    }

    /// The proven items; none where the webhook is one.
    pub fn items(&self) -> &[Item<'_>] {
        match self {
            Proven::Items(items) => items,
            _ => &[],
        }
    }
}

/// One of several items in a webhook that are signed one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item<'a> {
    /// Where it is in the body, as a JSON pointer.
    pub pointer: String,
    /// Which key matched: its place in [`Keys`](crate::Keys), from 0.
    pub key: usize,
    /// The fields that the signature covers, by their JSON pointers within the item. The item's other fields are not
    /// proven: anyone between the sender and here may have changed them.
    pub fields: Vec<(&'static str, Cow<'a, str>)>,
}

impl Item<'_> {
    /// The proven value of a field: `/pspReference`, `/amount/value`.
    pub fn get(&self, pointer: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(name, _)| *name == pointer)?;
        Some(&field.1)
    }
}

/// Which kind of [`Proven`] a scheme gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Coverage {
    /// [`Proven::Body`]
    Body,
    /// [`Proven::Checksum`]
    Checksum,
    /// [`Proven::Payload`]
    Payload,
    /// [`Proven::Items`]
    Items,
    /// [`Proven::Sender`]
    Sender,
}

impl Coverage {
    /// Whether the signature proves something of the webhook to whoever checks it again later, with nothing in hand but what
    /// was sent. A checksum does not: the same signature holds for any number of other bodies.
    pub fn proves_later(self) -> bool {
        match self {
            Coverage::Body | Coverage::Payload | Coverage::Items => true,
            Coverage::Checksum | Coverage::Sender => false,
        }
    }
}
