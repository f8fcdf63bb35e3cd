//! One attempt at verifying: all that it depends on, each part to be changed for another attempt.

use std::borrow::Cow;
use std::time::Duration;

use webhook_signature::{InvalidKeys, Keys, Refusal, RefusalKind, Request, Scheme, verify};

/// What a webhook is verified with, and the webhook.
#[derive(Clone, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) scheme: Scheme,
    /// As it stands in its file.
    pub(super) secret: Cow<'a, str>,
    pub(super) parameters: Vec<(&'a str, Cow<'a, str>)>,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
    pub(super) url: Option<Cow<'a, str>>,
    pub(super) body: Cow<'a, [u8]>,
    pub(super) now: i64,
    pub(super) tolerance: Duration,
    pub(super) allow_short_secret: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn keys(&self) -> Result<Keys, InvalidKeys> {
        let parameters: Vec<_> = self.parameters.iter().map(|(name, value)| (*name, &**value)).collect();
        let read = if self.allow_short_secret {
            Keys::allowing_short
        } else {
            Keys::of
        };
        read(self.scheme, &[&self.secret], &parameters)
    }

    pub(super) fn request(&self) -> Request<'_> {
        let mut request = Request::new(&self.headers, &self.body);
        request.url = self.url.as_deref();
        request
    }

    /// Whether one of the keys made the signature, at whatever time.
    pub(super) fn is_signed(&self) -> bool {
        self.keys().is_ok_and(|keys| self.is_signed_by(&keys))
    }

    /// The same, with keys that were read before.
    pub(super) fn is_signed_by(&self, keys: &Keys) -> bool {
        match verify(keys, &self.request(), self.now, self.tolerance) {
            Ok(_) => true,
            Err(refusal) => is_out_of_time(&refusal),
        }
    }

    pub(super) fn with_body(&self, body: impl Into<Cow<'a, [u8]>>) -> Self {
        let body = body.into();
        Self { body, ..self.clone() }
    }

    pub(super) fn with_secret(&self, secret: impl Into<Cow<'a, str>>) -> Self {
        let secret = secret.into();
        Self { secret, ..self.clone() }
    }
}

/// A signature that a key made is found out of time only afterwards.
pub(super) fn is_out_of_time(refusal: &Refusal) -> bool {
    refusal.kind() == RefusalKind::OutOfTime
}
