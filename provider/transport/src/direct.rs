//! The direct path, for hot functions: decode, call, encode. No frames, no tasks beside that of the invocation.

use std::sync::Arc;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use wrpc_transport::{Decode, Deferred as _, Encode, Packer};

use crate::chunks::Chunks;
use crate::failure::Failure;
use crate::values::encode;
use crate::{Caller, Error, Service};

impl Service {
    /// Adds one function, served by a closure. `P` is the tuple of its parameters, `R` its one result.
    ///
    /// An `Err` of the closure is logged by the server and reaches a stock caller as "incomplete results": answer
    /// domain errors inside WIT results.
    #[must_use]
    pub fn direct<P, R, H, Fut>(mut self, instance: &str, func: &str, handler: H) -> Self
    where
        P: Decode + Send + 'static,
        R: Encode<Packer> + Send + 'static,
        H: Fn(Caller, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<R>> + Send + 'static,
        P::Decoder: Send,
        <P::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
        <R::Encoder as Encoder<R>>::Error: std::error::Error + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        self.insert(
            instance,
            func,
            Arc::new(move |caller, parameters, _| {
                let handler = Arc::clone(&handler);
                Box::pin(async move {
                    let params = decode(parameters).await?;
                    // Boxed where it is made: a handler's future can be kilobytes, and would be moved more than once.
                    let result = Box::pin(handler(caller, params))
                        .await
                        .map_err(|error| Failure::Failed(format!("{error:#}")))?;
                    Ok(encode(result)?)
                })
            }),
        );
        self
    }
}

/// The decoder knows when the parameters are complete, a size does not.
async fn decode<P>(mut parameters: Chunks) -> Result<P, Error>
where
    P: Decode,
    <P::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
{
    let mut decoder = P::Decoder::default();
    let mut buffer = BytesMut::new();
    loop {
        let decoded = decoder
            .decode(&mut buffer)
            .map_err(|error| Error::Decode(error.into()))?;
        match decoded {
            Some(_) if decoder.take_deferred().is_some() => {
                return Err(Error::Unsupported("WIT streams and futures"));
            }
            Some(_) if !buffer.is_empty() => {
                return Err(Error::Protocol("there is more than the parameters"));
            }
            Some(params) => return Ok(params),
            None => match parameters.next().await {
                Some(chunk) => buffer.extend_from_slice(&chunk?),
                None => return Err(Error::Protocol("the parameters are incomplete")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::budget::Permits;

    async fn check(bytes: &'static [u8]) -> Result<(String, u8), Error> {
        decode(Chunks::whole(Bytes::from_static(bytes), Permits::default())).await
    }

    #[tokio::test]
    async fn parameters_are_taken_whole_or_not_at_all() {
        assert_eq!(check(b"\x02hi\x07").await.expect("complete"), ("hi".into(), 7));
        assert!(matches!(check(b"\x02hi").await, Err(Error::Protocol(_))));
        assert!(matches!(check(b"\x02hi\x07\x00").await, Err(Error::Protocol(_))));
        assert!(matches!(check(b"\x02\xff\xff\x07").await, Err(Error::Decode(_))));
    }

    #[tokio::test]
    async fn a_function_may_have_no_parameters() {
        let none: () = decode(Chunks::whole(Bytes::new(), Permits::default()))
            .await
            .expect("nothing to decode");
        assert_eq!(encode(none).expect("nothing to encode"), Bytes::new());
    }
}
