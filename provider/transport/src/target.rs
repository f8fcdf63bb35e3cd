//! What the calls of one client go to, and whether it takes bundles.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::lattice::Inner;
use crate::mailbox::{Event, Mailbox, Slot};
use crate::{Part, bundle, wire};

/// A target that took no bundles is asked again after so long: it may have been changed for one that does.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// One component or provider, as one caller knows it.
#[derive(Debug)]
pub(crate) struct Target {
    /// `{lattice}.{component or provider id}`.
    pub(crate) prefix: Box<str>,
    /// The caller's own id.
    pub(crate) source: Box<str>,
    /// Where it takes bundles, if it does.
    pub(crate) bundles: Subject,
    takes: Mutex<Takes>,
}

/// Whether bundles are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Unknown,
    /// The answer is awaited.
    Asked,
    Yes,
    No {
        asked: Instant,
    },
}

impl Target {
    pub(crate) fn new(prefix: &str, source: &str) -> Self {
        Self {
            prefix: prefix.into(),
            source: source.into(),
            bundles: wire::subject(prefix, bundle::INSTANCE, bundle::FUNC).into(),
            takes: Mutex::new(Takes::Unknown),
        }
    }

    fn takes(&self) -> MutexGuard<'_, Takes> {
        self.takes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn takes_bundles(&self) -> bool {
        *self.takes() == Takes::Yes
    }

    /// NATS says that nobody takes them any more.
    pub(crate) fn takes_none(&self) {
        *self.takes() = Takes::No { asked: Instant::now() };
    }

    /// Whether this is the time to ask, which is then up to who called this.
    fn is_to_be_asked(&self) -> bool {
        let mut takes = self.takes();
        let ask = match *takes {
            Takes::Unknown => true,
            Takes::No { asked } => asked.elapsed() >= ASK_AGAIN,
            Takes::Asked | Takes::Yes => false,
        };
        if ask {
            *takes = Takes::Asked;
        }
        ask
    }

    /// Asks whether it takes bundles, unless that is known or asked. Calls go by themselves meanwhile: a caller whom NATS
    /// does not let publish there hears nothing, and none of its calls is lost.
    pub(crate) fn ask(self: &Arc<Self>, inner: &Arc<Inner>) {
        if !self.is_to_be_asked() {
            return;
        }
        let (target, inner) = (Arc::clone(self), Arc::clone(inner));
        tokio::spawn(async move {
            let slot = Slot::open(&inner, Mailbox::new(Part::Result, 0, 0));
            let asked = async {
                let to = target.bundles.clone();
                inner.send(to, Some(slot.subject()), None, Bytes::new()).await?;
                slot.event().await
            };
            let answer = timeout(inner.options.call_deadline, asked).await;
            let yes = matches!(answer, Ok(Ok(Event::Result { direct: true, .. })));
            tracing::debug!(target = &*target.prefix, yes, "whether bundles of calls are taken");
            let no = Takes::No { asked: Instant::now() };
            *target.takes() = if yes { Takes::Yes } else { no };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_target_is_asked_once_and_again_after_a_while() {
        let target = Target::new("lat.bus", "me");
        assert!(!target.takes_bundles());
        assert!(target.is_to_be_asked());
        assert!(!target.is_to_be_asked(), "it is asked already");
        target.takes_none();
        assert!(!target.is_to_be_asked());
        tokio::time::advance(ASK_AGAIN).await;
        assert!(target.is_to_be_asked());
        assert_eq!(
            target.bundles.as_str(),
            "lat.bus.wrpc.0.0.1.fanout:transport/calls@0.1.0.bundle"
        );
    }
}
