//! The schemes whose one header holds the time of signing and several HMAC-SHA256 of that time and the body: Stripe,
//! `Stripe-Signature: t=TIME,v1=HEX[,v1=HEX…][,v0=…]`, and Paddle, `Paddle-Signature: ts=TIME;h1=HEX[;h1=HEX…]`.
//!
//! Several signatures come while a secret is being rotated. Those of another version are passed over, as Stripe's
//! documentation demands: to accept its `v0` would allow a downgrade. The whole secret is the key, Stripe's `whsec_`
//! included. The time is signed as it is written in the header.

use std::time::Duration;

use crate::{
    Coverage, Keys, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, body, encoding,
    header, key, mac::Tags, scheme::Rules, signing, time,
};

/// <https://docs.stripe.com/webhooks#verify-manually>
struct Stripe;

impl Timed for Stripe {
    const FORM: Form = Form {
        scheme: Scheme::Stripe,
        header: "stripe-signature",
        separator: ',',
        time: "t",
        version: "v1",
        between: ".",
    };
}

/// <https://developer.paddle.com/webhooks/signature-verification>
struct Paddle;

impl Timed for Paddle {
    const FORM: Form = Form {
        scheme: Scheme::Paddle,
        header: "paddle-signature",
        separator: ';',
        time: "ts",
        version: "h1",
        between: ":",
    };
}

pub(crate) const STRIPE: Rules = rules::<Stripe>("stripe", 300);

/// Five seconds are what Paddle's own libraries allow; give more with a clock that is not kept by NTP.
pub(crate) const PADDLE: Rules = rules::<Paddle>("paddle", 5);

/// How such a scheme writes its header.
trait Timed {
    const FORM: Form;
    const HEADERS: &'static [&'static str] = &[Self::FORM.header];
}

const fn rules<S: Timed>(name: &'static str, tolerance_s: u64) -> Rules {
    Rules {
        name,
        tolerance: Some(Duration::from_secs(tolerance_s)),
        covers_id: false,
        covers_url: false,
        coverage: Coverage::Body,
        headers: S::HEADERS,
        parameters: &[],
        keys: key::texts,
        signing_key: signing::text,
        verify: |keys, request, _| S::FORM.verify(keys, request),
        sign: |key, webhook| S::FORM.sign(key, webhook),
    }
}

#[derive(Clone, Copy)]
struct Form {
    scheme: Scheme,
    header: &'static str,
    /// What stands between two elements.
    separator: char,
    /// The name of the time's element.
    time: &'static str,
    /// The name of a signature's element.
    version: &'static str,
    /// What is signed between the time and the body.
    between: &'static str,
}

impl Form {
    fn verify<'a>(self, keys: &Keys, request: &Request<'a>) -> Result<Verified<'a>, Refusal> {
        let (written, timestamp, tags) = self.parse(header::only(request, self.header)?)?;
        let parts = [written.as_bytes(), self.between.as_bytes(), request.body];
        let verified = body::proven(self.scheme, keys, request, &tags, &parts)?;
        Ok(Verified {
            timestamp: Some(timestamp),
            ..verified
        })
    }

    fn sign<'a>(self, key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
        let time = time::write(webhook.timestamp)?;
        let tag = key.mac().tag(&[time.as_bytes(), self.between.as_bytes(), webhook.body]);
        let (separator, tag) = (self.separator, hex::encode(tag));
        let value = format!("{}={time}{separator}{}={tag}", self.time, self.version);
        Ok(Signed::headers(vec![(self.header, value)], webhook))
    }

    /// The time as it is written and as it is meant, and the signatures of the version that counts.
    fn parse(self, text: &str) -> Result<(&str, i64, Tags), Refusal> {
        let (mut written, mut tags) = (None, Tags::default());
        for element in text.split(self.separator) {
            let (name, value) = element.split_once('=').ok_or(self.malformed("an element has no `=`"))?;
            if name == self.time {
                if written.replace(value).is_some() {
                    return Err(self.malformed("it holds two times"));
                }
            } else if name == self.version {
                let tag = encoding::hex(value)
                    .ok_or(self.malformed("a signature is not 64 lower-case hexadecimal digits"))?;
                if !tags.push(tag) {
                    return Err(self.malformed("it holds too many signatures"));
                }
            }
        }
        let written = written.ok_or(self.malformed("it holds no time"))?;
        let timestamp = time::parse(written).ok_or(self.malformed("its time is not in seconds since 1970"))?;
        if tags.is_empty() {
            return Err(Refusal::NoSupportedSignature {
                header: self.header,
                version: self.version,
            });
        }
        Ok((written, timestamp, tags))
    }

    fn malformed(self, problem: &'static str) -> Refusal {
        Refusal::MalformedHeader {
            header: self.header,
            problem,
        }
    }
}

#[cfg(test)]
mod tests;
