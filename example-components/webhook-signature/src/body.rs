//! What several schemes have in common: one header, and in it one HMAC-SHA256 over the body.

use crate::{
    Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned, Verified, encoding, header,
    mac::{Tag, Tags},
};

/// How a tag is written.
#[derive(Clone, Copy)]
pub(crate) enum Encoding {
    Hex,
    Base64,
}

/// Where a scheme has the signature of the body, and in which form.
#[derive(Clone, Copy)]
pub(crate) struct BodySignature {
    pub(crate) scheme: Scheme,
    /// What its header is called; where it has several names, a webhook has one of them, and what is signed here the first.
    pub(crate) headers: &'static [&'static str],
    pub(crate) prefix: &'static str,
    pub(crate) encoding: Encoding,
    /// What a header is not that is malformed.
    pub(crate) malformed: &'static str,
}

impl BodySignature {
    /// One in lower-case hexadecimal, and nothing else in the header.
    pub(crate) const fn hex(scheme: Scheme, headers: &'static [&'static str]) -> Self {
        Self {
            scheme,
            headers,
            prefix: "",
            encoding: Encoding::Hex,
            malformed: "it is not 64 lower-case hexadecimal digits",
        }
    }

    /// One in base64, and nothing else in the header.
    pub(crate) const fn base64(scheme: Scheme, headers: &'static [&'static str]) -> Self {
        Self {
            scheme,
            headers,
            prefix: "",
            encoding: Encoding::Base64,
            malformed: "it is not 32 bytes in base64",
        }
    }

    /// Verifies the concatenation of `before` and the body.
    pub(crate) fn verify<'a>(self, keys: &Keys, request: &Request<'a>, before: &[u8]) -> Result<Verified<'a>, Refusal> {
        let header = header::one_of(request, self.headers)?;
        let tag = self.read(header, header::only(request, header)?)?;
        proven(self.scheme, keys, request, &Tags::from(tag), &[before, request.body])
    }

    /// Signs the concatenation of `before` and the body.
    pub(crate) fn sign<'a>(
        self,
        key: &SigningKey,
        webhook: &Unsigned<'a>,
        before: &[u8],
    ) -> Result<Signed<'a>, Unsignable> {
        let tag = key.mac().tag(&[before, webhook.body]);
        let text = match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => encoding::to_base64(&tag),
        };
        let headers = vec![(self.headers[0], format!("{}{text}", self.prefix))];
        Ok(Signed::headers(headers, webhook))
    }

    /// Reads the tag that a header holds.
    pub(crate) fn read(self, header: &'static str, text: &str) -> Result<Tag, Refusal> {
        text.strip_prefix(self.prefix)
            .and_then(|text| match self.encoding {
                Encoding::Hex => encoding::hex(text),
                Encoding::Base64 => encoding::base64(text),
            })
            .ok_or(Refusal::MalformedHeader {
                header,
                problem: self.malformed,
            })
    }
}

/// The body is proven if one of `keys` made one of `tags` over `parts`, which contain it.
pub(crate) fn proven<'a>(
    scheme: Scheme,
    keys: &Keys,
    request: &Request<'a>,
    tags: &Tags,
    parts: &[&[u8]],
) -> Result<Verified<'a>, Refusal> {
    let key = tags.made_by(keys, parts).ok_or(Refusal::SignatureMismatch)?;
    Ok(Verified {
        scheme,
        key,
        id: None,
        timestamp: None,
        proven: Proven::Body(request.body),
    })
}
