//! Paddle: `Paddle-Signature: ts=TIME;h1=HEX[;h1=HEX…]`, HMAC-SHA256 over `TIME:BODY`.
//! <https://developer.paddle.com/webhooks/signature-verification>
//!
//! Several `h1` come while a secret is being rotated. Five seconds are what Paddle's own libraries allow; give more with
//! a clock that is not kept by NTP.

use std::time::Duration;

use crate::{
    Coverage, Keys, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, body, encoding,
    header, key, mac::Tags, scheme::Rules, signing, time,
};

const HEADER: &str = "paddle-signature";

pub(crate) const RULES: Rules = Rules {
    name: "paddle",
    tolerance: Some(Duration::from_secs(5)),
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Body,
    parameters: &[],
    keys: key::texts,
    signing_key: signing::text,
    verify,
    sign,
};

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let (time, time_text, tags) = parse(header::only(request, HEADER)?)?;
    let parts = [time_text.as_bytes(), b":", request.body];
    let verified = body::proven(Scheme::Paddle, keys, request, &tags, &parts)?;
    Ok(Verified {
        timestamp: Some(time),
        ..verified
    })
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let time = time::write(webhook.timestamp)?;
    let tag = key.mac().tag(&[time.as_bytes(), b":", webhook.body]);
    let value = format!("ts={time};h1={}", hex::encode(tag));
    Ok(Signed::headers(vec![(HEADER, value)], webhook))
}

fn parse(text: &str) -> Result<(i64, &str, Tags), Refusal> {
    let malformed = |problem| Refusal::MalformedHeader {
        header: HEADER,
        problem,
    };
    let mut time_text = None;
    let mut tags = Tags::default();
    for element in text.split(';') {
        let (name, value) = element.split_once('=').ok_or(malformed("an element has no `=`"))?;
        match name {
            "ts" if time_text.is_some() => return Err(malformed("it holds `ts` twice")),
            "ts" => time_text = Some(value),
            "h1" => {
                let tag = encoding::hex(value).ok_or(malformed("an `h1` is not 64 lower-case hexadecimal digits"))?;
                if !tags.push(tag) {
                    return Err(malformed("it holds too many `h1`"));
                }
            }
            _ => {}
        }
    }
    let time_text = time_text.ok_or(malformed("it holds no `ts`"))?;
    let time = time::parse(time_text).ok_or(malformed("`ts` is not a time in seconds"))?;
    if tags.is_empty() {
        return Err(Refusal::NoSupportedSignature {
            header: HEADER,
            version: "h1",
        });
    }
    Ok((time, time_text, tags))
}
