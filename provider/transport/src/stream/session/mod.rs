//! Sessions: many calls at a time on one byte stream. [`codec`] has the frames, [`queue`] the sending side of both ends,
//! [`serve`] and [`client`] one end each.

pub(crate) mod client;
pub(crate) mod codec;
pub(crate) mod queue;
pub(crate) mod serve;
