//! The functions of `wrpc:keyvalue@0.2.0-draft` as a wasmCloud v1 host calls them. Their WIT is upstream's and not
//! repeated here: parameters and results are tuples of the same encoding.

use bytes::{BufMut as _, Bytes, BytesMut};
use fanout_transport::Service;
use tokio_util::codec::Encoder;
use wrpc_transport::{Deferred, DeferredFn, Encode, Sink};

use crate::store::{Buckets, Error};

const STORE: &str = "wrpc:keyvalue/store@0.2.0-draft";
const ATOMICS: &str = "wrpc:keyvalue/atomics@0.2.0-draft";
const BATCH: &str = "wrpc:keyvalue/batch@0.2.0-draft";

/// Encodes the variant `error { no-such-store, access-denied, other(string) }`.
#[derive(Debug, Default)]
pub(crate) struct ErrorEncoder;

impl Encoder<Error> for ErrorEncoder {
    type Error = std::io::Error;

    fn encode(&mut self, error: Error, buffer: &mut BytesMut) -> std::io::Result<()> {
        match error {
            Error::NoSuchStore => buffer.put_u8(0),
            Error::Other(text) => {
                buffer.put_u8(2);
                <String as Encode>::Encoder::default().encode(text, buffer)?;
            }
        }
        Ok(())
    }
}

impl<W> Deferred<W> for ErrorEncoder {
    fn take_deferred(&mut self) -> Option<DeferredFn<W>> {
        None
    }
}

impl<W: Sink> Encode<W> for Error {
    type Encoder = ErrorEncoder;
}

/// All of them. The first parameter of each is the bucket.
pub(crate) fn service(buckets: &Buckets) -> Service {
    let mut service = Service::new();
    /// Parameters after the bucket, and how they are used.
    macro_rules! functions {
        ($($instance:ident $name:literal |$bucket:ident $(, $param:ident: $type:ty)*| $call:expr;)*) => {$({
            let buckets = buckets.clone();
            service = service.direct($instance, $name, move |_, (bucket, $($param),*): (String, $($type),*)| {
                let buckets = buckets.clone();
                async move {
                    let result = match buckets.open(&bucket).await {
                        Ok($bucket) => $call.await,
                        Err(error) => Err(error),
                    };
                    Ok(result)
                }
            });
        })*};
    }
    functions! {
        STORE "get" |bucket, key: String| bucket.get(&key);
        STORE "set" |bucket, key: String, value: Bytes| bucket.set(&key, value);
        STORE "delete" |bucket, key: String| bucket.delete(&key);
        STORE "exists" |bucket, key: String| bucket.exists(&key);
        STORE "list-keys" |bucket, cursor: Option<u64>| bucket.list_keys(cursor);
        ATOMICS "increment" |bucket, key: String, delta: u64| bucket.increment(&key, delta);
        BATCH "get-many" |bucket, keys: Vec<String>| bucket.get_many(keys);
        BATCH "set-many" |bucket, entries: Vec<(String, Bytes)>| bucket.set_many(entries);
        BATCH "delete-many" |bucket, keys: Vec<String>| bucket.delete_many(keys);
    }
    service
}
