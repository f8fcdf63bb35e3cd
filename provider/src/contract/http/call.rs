//! A request as an operation sees it: its path, its query and its body, and one call of the contract on behalf of whoever
//! sent it.

use axum::body::Bytes;
use axum::extract::{Extension, FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use fanout_plan::{Code, Problem};
use fanout_transport::{Caller, Calls, Error, decode, encode};
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};
use wrpc_transport::{Decode, Encode, Packer};

use super::objects::Object;
use super::parameters::Parameters;
use super::problem::Refused;

/// Of what a body holds and is no value of.
const MAX_SHOWN_CHARS: usize = 256;

/// A request without its body.
pub(super) struct Call {
    calls: Calls,
    path: Vec<(String, String)>,
    query: String,
}

impl Call {
    /// Whoever sent it, as its connection proves.
    pub(super) fn caller(&self) -> &Caller {
        self.calls.caller()
    }

    /// A parameter of its path, if the path has it.
    pub(super) fn path(&self, name: &str) -> Option<&str> {
        let found = self.path.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Its query, of an operation that takes these parameters.
    ///
    /// # Errors
    /// Names a parameter that the operation does not take.
    pub(super) fn parameters(&self, known: &[&str]) -> Result<Parameters, Refused> {
        Parameters::read(&self.query, known)
    }

    /// Calls a function of the contract. `P` is the tuple of its parameters, `R` its result.
    ///
    /// # Errors
    /// When there is no result. What the function itself refuses is in `R`.
    pub(super) async fn invoke<P, R>(&self, instance: &str, func: &str, parameters: P) -> Result<R, Refused>
    where
        P: Encode<Packer>,
        <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
        R: Decode,
        <R::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
    {
        let failed = |e: Error| Refused::of_transport(&e);
        let parameters = encode(parameters).map_err(failed)?;
        let answer = self.calls.invoke(instance, func, parameters).await;
        decode(answer.map_err(failed)?).map_err(failed)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = RawPathParams::from_request_parts(parts, state).await.map_err(|_| {
            Refused::invalid_request("a part of the path is no UTF-8: percent-encode the bytes of UTF-8")
        })?;
        let path = path.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let calls = Extension::<Calls>::from_request_parts(parts, state).await;
        // Each listener says who calls.
        let Extension(calls) = calls.map_err(|_| Refused::of_transport(&Error::Protocol("nobody calls")))?;
        Ok(Self {
            calls,
            path,
            query: parts.uri.query().unwrap_or_default().to_owned(),
        })
    }
}

/// The body of a request.
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let mut encodings = request.headers().get_all(header::CONTENT_ENCODING).iter();
        // An event that is stored compressed is no longer what its content type says.
        if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "the body has a `content-encoding`, and none is read here: send it as it is",
            )
            .into());
        }
        let read = Bytes::from_request(request, state).await;
        read.map(Self)
            .map_err(|e| Refused::invalid_request(format!("the body can't be read: {e}")))
    }
}

/// A body of JSON.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "the body is not said to be JSON: send it with `content-type: application/json`",
            )
            .into());
        }
        let Body(body) = Body::from_request(request, state).await?;
        json(&body).map(Self)
    }
}

/// What a body of JSON says, which is an object.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map(|Object(value)| value)
        .map_err(|e| Refused::invalid_request(format!("the body is not what this operation takes: {}", beginning(&e))))
}

/// What a decoder says, which may hold a whole member of the body.
fn beginning(error: &impl ToString) -> String {
    error.to_string().chars().take(MAX_SHOWN_CHARS).collect()
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (types.next(), types.next()) else {
        return false;
    };
    let media_type = one.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}
