//! Square: `x-square-hmacsha256-signature: BASE64` over the notification URL and the body, with nothing between them.
//! <https://developer.squareup.com/docs/webhooks/step3validate>
//!
//! The URL is the one the subscription was made with, to the letter. Behind a proxy it is not the one the request shows:
//! give it as `notification-url`. The URL is not the forger's to choose where it is a parameter; where it is the
//! request's, it must match as signed.

use crate::{
    Coverage, Keys, Parameter, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified,
    body::{BodySignature, Encoding},
    key,
    scheme::Rules,
    signing,
};

const NOTIFICATION_URL: &str = "notification-url";

const SIGNATURE: BodySignature = BodySignature {
    scheme: Scheme::Square,
    header: "x-square-hmacsha256-signature",
    prefix: "",
    encoding: Encoding::Base64,
    malformed: "it is not 32 bytes in base64",
};

pub(crate) const RULES: Rules = Rules {
    name: "square",
    tolerance: None,
    covers_id: false,
    covers_url: true,
    coverage: Coverage::Body,
    parameters: &[Parameter::optional(
        NOTIFICATION_URL,
        "the notification URL as the subscription at Square has it; by default the request's own",
    )],
    keys: key::texts,
    signing_key: signing::text,
    verify,
    sign,
};

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let url = keys.parameter(NOTIFICATION_URL).or(request.url).ok_or(Refusal::NoUrl)?;
    SIGNATURE.verify(keys, request, url.as_bytes())
}

fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let url = key
        .parameters
        .get(NOTIFICATION_URL)
        .or(webhook.url)
        .ok_or(Unsignable::NoUrl)?;
    SIGNATURE.sign(key, webhook, url.as_bytes())
}
