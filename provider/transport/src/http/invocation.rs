//! An invocation by HTTP, as this crate's callers write it and as stock wRPC does.
//!
//! Stock wRPC (wrpc-http 0.1) puts the names of an invocation and its frames into the body of a request to any path that its
//! user chooses; `/` is taken here. Its caller ends that body only after it has the response, so the handler runs as soon as
//! the parameters are whole.

use std::io;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::io::StreamReader;

use crate::failure::Failure;
use crate::frames;
use crate::functions::Answer;
use crate::http::calls::Calls;
use crate::http::request_body::RequestBody;
use crate::stream::byte_stream::BoxRead;
use crate::stream::{stock, stock_reader};
use crate::{Body, Error};

/// A call whose parameters are the body.
pub(crate) async fn of_function(
    calls: &Calls,
    (instance, func): (&str, &str),
    mut body: RequestBody,
) -> Result<Answer, Error> {
    let first = body.chunk().await?.unwrap_or_default();
    let admitted = calls.admit(instance, func, &first)?;
    let params = match admitted.is_refused() {
        // What is refused is read to its end, and not kept.
        true => {
            drop(calls.take_reserved());
            body.skip().await?;
            Bytes::new()
        }
        false => body.rest(first).await?,
    };
    calls
        .run(admitted, params, calls.take_reserved(), calls.deadline())
        .await
}

/// A call as stock wRPC writes it.
pub(crate) async fn of_stock(calls: &Calls, body: Incoming) -> Result<Answer, Error> {
    let mut reader: BoxRead = Box::new(StreamReader::new(body.map_err(io::Error::other).into_data_stream()));
    let mut buffer = BytesMut::new();
    let first_deadline = Instant::now() + calls.listener().options.first_call_deadline;
    let header = timeout_at(first_deadline, stock_reader::read_header(&mut reader, &mut buffer)).await;
    let header = header.map_err(|_| Error::Protocol("a header that does not end"))??;
    let deadline = calls.deadline();
    let call = stock::call(
        calls.listener(),
        calls.peer(),
        calls.caller().clone(),
        &header,
        &mut reader,
        buffer,
        deadline,
    );
    let result = tokio::select! {
        biased;
        result = call => result,
        () = sleep_until(deadline) => Err(Failure::Failed("the deadline passed".into())),
    };
    let answer = result.map_err(|failure| {
        let tally = &calls.listener().tallies.calls;
        let who = &calls.caller().identity;
        tally.count(|| format!("{}.{}, called by {who}: {failure}", header.instance, header.func));
        Error::from(failure)
    })?;
    let framed = match answer.body.is_empty() {
        true => Bytes::new(),
        false => frames::encode(&answer.body, Body::Result)?.freeze(),
    };
    Ok(Answer { body: framed, ..answer })
}
