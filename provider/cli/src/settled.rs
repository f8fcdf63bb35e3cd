//! A settlement that the bus has answered, and the report of one that it did not take.

use fanout_client::Error;

use crate::terminal::complain;

/// A settlement that the bus has answered.
pub(crate) struct Settled {
    /// The delivery, as a message names it.
    pub(crate) what: String,
    pub(crate) answer: Result<(), Error>,
}

impl Settled {
    /// Reports a settlement that the bus did not take. The delivery comes again, so the command goes on.
    pub(crate) fn report(self, json: bool) {
        if let Err(error) = self.answer {
            complain(json, &format!("{} is not settled, and comes again: {error}", self.what));
        }
    }
}
