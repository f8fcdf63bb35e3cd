//! What is decided of a call before anything is made of its parameters: whether its caller may make it at all, and how
//! many things may be in it.

use std::sync::Arc;

use bytes::Bytes;

use crate::failure::Failure;
use crate::shape::{Shape, TooMany, number};
use crate::shares::CallerKey;
use crate::{Caller, Identity};

/// Judges calls by who makes them and which they are. A call that is refused takes no permit of a handler, and nothing
/// of its parameters is kept or decoded.
pub trait Guard: Send + Sync + 'static {
    /// The caller, as handlers are to know it, or the answer to a call that is refused. `first` is what is here of the
    /// parameters, which may be nothing: see [`listed`].
    ///
    /// # Errors
    /// The refusal.
    fn admit(&self, caller: Caller, instance: &str, func: &str, first: &[u8]) -> Result<Caller, Refusal>;

    /// What a function's parameters look like; `None` leaves it to their decoder to bound them.
    fn shape(&self, instance: &str, func: &str) -> Option<&'static Shape>;

    /// Whether this is the SHA-256 of a token of somebody's: a call with another is refused, whatever its connection proves.
    /// Compares in constant time.
    fn knows_token(&self, sha256: &[u8; 32]) -> bool {
        // Nobody's, where nobody says so.
        _ = sha256;
        false
    }

    /// The answer to a call with more of something than [`Guard::shape`] allows.
    fn too_many(&self, caller: &Caller, instance: &str, func: &str, many: TooMany) -> Refusal;
}

/// How a call is refused.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// By a result of its function, encoded.
    Answer(Bytes),
    /// By a failure, for a function whose result has no word for one.
    Failure(String),
}

impl Refusal {
    pub(crate) fn into_answer(self) -> Result<Bytes, Failure> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Failure(reason) => Err(Failure::Failed(reason)),
        }
    }
}

/// How many elements the list has that parameters begin with, as far as that is here.
#[must_use]
pub fn listed(first: &[u8]) -> Option<u32> {
    let (count, _) = number(first).ok()??;
    u32::try_from(count).ok()
}

impl Caller {
    /// Whose share of everything its calls count against.
    pub(crate) fn key(&self) -> CallerKey {
        match (&self.identity, self.component.is_empty()) {
            (Identity::Lattice, _) | (_, false) => format!("c:{}", self.component).into(),
            // A process is not its user: all of a user's count together.
            (Identity::Unix { uid, .. }, true) => format!("u:{uid}").into(),
            (identity, true) => format!("i:{identity}").into(),
        }
    }
}

impl<G: Guard + ?Sized> Guard for Arc<G> {
    fn admit(&self, caller: Caller, instance: &str, func: &str, first: &[u8]) -> Result<Caller, Refusal> {
        (**self).admit(caller, instance, func, first)
    }

    fn shape(&self, instance: &str, func: &str) -> Option<&'static Shape> {
        (**self).shape(instance, func)
    }

    fn knows_token(&self, sha256: &[u8; 32]) -> bool {
        (**self).knows_token(sha256)
    }

    fn too_many(&self, caller: &Caller, instance: &str, func: &str, many: TooMany) -> Refusal {
        (**self).too_many(caller, instance, func, many)
    }
}
