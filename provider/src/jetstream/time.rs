//! The store's clock: what is said of the times of its messages is judged by it, and what instances say to each other of
//! times. No instance's own clock is compared with another's.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::response::Response;
use fanout_plan::Timestamp;
use fanout_plan::planner::Observed;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::debug;

use super::{Store, StoreError};
use crate::clock::{self, Moment};

/// How long reading the clock may take: a late answer says little.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// The store's clock as it was read last: when, and what it said.
#[derive(Debug, Default)]
pub(super) struct StoreTime(Mutex<Option<(Moment, Timestamp)>>);

/// What the server says of a stream, as far as it is of interest here (async-nats 0.51 leaves it out).
#[derive(Deserialize)]
struct StreamTime {
    #[serde(rename = "ts")]
    at: String,
}

impl Store {
    /// What time it is for the store, or was up to a second ago: what its clock said when
    /// it was read last, and what has passed since that answer came. Where there is no log yet, this instance's own clock stands in
    /// for it.
    pub(crate) fn now(&self) -> Timestamp {
        let read = *self.time.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, time)) = read else { return clock::now() };
        time + at.elapsed()
    }

    /// What time it is for the store that was just observed: a plan is made for that time, since other instances judge what it
    /// says. Where there is no log yet, this machine's clock stands in for the store's; where it can't be read now, it goes on from
    /// where it was.
    ///
    /// # Errors
    /// When it can't be read and never was.
    pub async fn read_time(&self, observed: &Observed) -> Result<Timestamp, StoreError> {
        let Some(newest) = observed.logs.keys().next_back() else {
            return Ok(self.now());
        };
        let time = match timeout(READ_WITHIN, self.time_of(*newest)).await {
            Ok(time) => time,
            Err(late) => Err(StoreError::when("read the clock")(late)),
        };
        let mut read = self.time.0.lock().unwrap_or_else(PoisonError::into_inner);
        match time {
            // As if it had been said just now, so that this clock is never ahead of the store's: what is due later is
            // published soon after its time, and not before, however long the answer took.
            Ok(time) => *read = Some((Moment::now(), time)),
            Err(error) if read.is_some() => debug!(%error, "the store's clock is not read now"),
            Err(error) => return Err(error),
        }
        drop(read);
        Ok(self.now())
    }

    /// What time it is for the server that stores a partition's events.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) async fn time_of(&self, partition: u32) -> Result<Timestamp, StoreError> {
        self.time_of_stream(&self.names.partition(partition)).await
    }

    /// The same of any stream.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(super) async fn time_of_stream(&self, stream: &str) -> Result<Timestamp, StoreError> {
        let asked = self.js.request(format!("STREAM.INFO.{stream}"), &()).await;
        let answer: StreamTime = match asked.map_err(StoreError::when("read the clock"))? {
            Response::Ok(answer) => answer,
            Response::Err { error } => return Err(StoreError::when("read the clock")(error)),
        };
        let no_time = |_| StoreError::when("read the clock")(format!("{:?} is no time", answer.at));
        answer.at.parse().map_err(no_time)
    }
}
