//! `subscribe --manual`: deliveries are printed with a token, and settled by lines of standard input, so that any
//! program is a subscriber by two pipes.
//!
//! A bad line changes nothing. The end of the input releases what is in flight, without an attempt.

mod lines;
mod settlement;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use fanout_client::{Deliveries, Delivery};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::FuturesUnordered;
use serde_json::json;

use self::lines::Line;
use self::settlement::{Settlement, Verdict};
use crate::ending::Ending;
use crate::settled::Settled;
use crate::subscribe::{LAST_WORDS, as_json};
use crate::terminal::{complain, error_line, json_line, printable, say};

/// The reason that the bus keeps of a delivery that is to come again.
const RETRY: &str = "the subscriber asked for a retry";
/// The most tokens that a message names.
const MOST_NAMED: usize = 8;

/// Reports on standard error that the subscription `name` is made; prints deliveries until they end and all are settled, until standard input ends, or until a signal comes; then
/// releases what is in flight.
///
/// # Errors
/// What ended the deliveries, or that nobody reads what is printed.
pub(crate) async fn run(name: &str, mut deliveries: Deliveries, json: bool) -> Result<()> {
    report_that_it_is_made(name, json);
    let mut ending = Ending::new()?;
    let mut lines = lines::of_standard_input();
    let mut manual = Manual::new(json);
    let mut are_over = false;
    let done = loop {
        if are_over && manual.in_flight.is_empty() {
            break Ok(());
        }
        let printed = tokio::select! {
            biased;
            () = ending.signalled() => break Ok(()),
            Some(settled) = manual.settling.next() => {
                settled.report(json);
                continue;
            }
            line = lines.recv() => match line {
                Some(line) => {
                    manual.take(line);
                    continue;
                }
                None => break Ok(()),
            },
            next = deliveries.recv(), if !are_over => match next {
                Some(Ok(delivery)) => manual.print(delivery),
                Some(Err(error)) => Err(error.into()),
                None => {
                    are_over = true;
                    continue;
                }
            },
        };
        if printed.is_err() {
            break printed;
        }
    };
    manual.end(deliveries).await;
    done
}

/// Tells the program that what is published from now on comes.
fn report_that_it_is_made(name: &str, json: bool) {
    match json {
        true => error_line(format_args!(
            "{}",
            json_line(&json!({ "subscription": name, "state": "made" }))
        )),
        false => error_line(format_args!("subscription {} is made", printable(name))),
    }
}

/// The deliveries in flight, and what is on its way to the bus.
struct Manual {
    /// By token. A delivery leaves with the line that settles it.
    in_flight: BTreeMap<u64, Delivery>,
    /// The token of the latest delivery, from 1.
    latest: u64,
    settling: FuturesUnordered<BoxFuture<'static, Settled>>,
    json: bool,
}

impl Manual {
    fn new(json: bool) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            latest: 0,
            settling: FuturesUnordered::new(),
            json,
        }
    }

    fn print(&mut self, delivery: Delivery) -> Result<()> {
        let mut shown = as_json(&delivery);
        self.latest += 1;
        shown["token"] = self.latest.into();
        // In flight first: what can't be printed is released with the others.
        self.in_flight.insert(self.latest, delivery);
        say!("{}", json_line(&shown))
    }

    /// Settles what a line says, or says why not.
    fn take(&mut self, (number, line): Line) {
        let settlement = line.as_deref().map_err(Clone::clone).and_then(str::parse);
        let chosen = settlement.and_then(|Settlement { token, verdict }| Ok((self.chosen(token)?, verdict)));
        match chosen {
            Ok((token, verdict)) => self.settle(token, verdict),
            Err(problem) => {
                let line = line.unwrap_or_default();
                let quoted = if line.is_empty() {
                    String::new()
                } else {
                    format!(" ({line:?})")
                };
                complain(
                    self.json,
                    &format!("line {number}{quoted}: {problem}. Nothing was settled by it"),
                );
            }
        }
    }

    /// The token that is meant.
    fn chosen(&self, token: Option<u64>) -> Result<u64, String> {
        let mut tokens = self.in_flight.keys();
        match (token, tokens.next(), tokens.next()) {
            (Some(token), ..) if self.in_flight.contains_key(&token) => Ok(token),
            (None, Some(only), None) => Ok(*only),
            (Some(token), ..) => Err(format!(
                "no delivery with the token {token} is in flight: {}",
                self.named()
            )),
            (None, None, _) => Err("no delivery is in flight: wait until one is printed".to_owned()),
            (None, ..) => Err(format!(
                "{} deliveries are in flight: say which with its token; {}",
                self.in_flight.len(),
                self.named()
            )),
        }
    }

    /// The tokens in flight, for a message.
    fn named(&self) -> String {
        let tokens: Vec<_> = self.in_flight.keys().take(MOST_NAMED).map(u64::to_string).collect();
        match (tokens.is_empty(), self.in_flight.len() - tokens.len()) {
            (true, _) => "there is none".to_owned(),
            (_, 0) => format!("there is {}", tokens.join(", ")),
            (_, more) => format!("there is {} and {more} more", tokens.join(", ")),
        }
    }

    fn settle(&mut self, token: u64, verdict: Verdict) {
        let Some(delivery) = self.in_flight.remove(&token) else {
            return;
        };
        let event = delivery.event();
        let what = format!("delivery {token} (tenant {}, event {})", event.tenant, event.id);
        let settling = async move {
            let answer = match verdict {
                Verdict::Ack => delivery.ack().await,
                Verdict::Retry(None) => delivery.retry(RETRY).await,
                Verdict::Retry(Some(Duration::ZERO)) => delivery.retry_now(RETRY).await,
                Verdict::Retry(Some(after)) => delivery.retry_after(after, RETRY).await,
                Verdict::DeadLetter(reason) => delivery.dead_letter(reason).await,
            };
            Settled { what, answer }
        };
        self.settling.push(settling.boxed());
    }

    /// Waits until the bus has what was settled, and releases the rest.
    async fn end(mut self, deliveries: Deliveries) {
        let released = std::mem::take(&mut self.in_flight).into_values().map(Delivery::release);
        let last_words = async {
            // What fails here comes again when its lease is over.
            drop(join_all(released).await);
            while let Some(settled) = self.settling.next().await {
                settled.report(self.json);
            }
        };
        // Stopped at once: the bus would deliver here again what is released.
        let ((), heard) = tokio::join!(
            deliveries.stop(LAST_WORDS),
            tokio::time::timeout(LAST_WORDS, last_words)
        );
        if heard.is_err() {
            let secs = LAST_WORDS.as_secs();
            complain(
                self.json,
                &format!("the bus did not answer within {secs} s: what it does not have as settled comes again"),
            );
        }
    }
}
