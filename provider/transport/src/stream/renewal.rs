//! New credentials of a listener that goes on.

use std::sync::Arc;

use tokio::sync::watch;

use crate::stream::server_credentials::ServerCredentials;

/// Certificate, key, authorities and revocation lists that were read for a listener, and are not in force yet: see
/// [`crate::Serving::read_again`]. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "it changes nothing before it is applied"]
pub struct Renewal {
    /// `None` for a listener that shows no certificate.
    pub(crate) read: Option<(watch::Sender<Arc<ServerCredentials>>, ServerCredentials)>,
}

impl Renewal {
    /// Puts them in force. Handshakes from now on go by them; connections that are open go on, but for those whose
    /// callers would not be let in any more: what these have begun is answered, and they are notified to leave.
    pub fn apply(self) {
        if let Some((in_force, credentials)) = self.read {
            in_force.send_replace(Arc::new(credentials));
        }
    }
}
