//! `listen`: a subscription's events, posted to a program on this machine, and settled by its answers.
//!
//! An event is acknowledged only after an answer of 2xx; a crash before it delivers the event again. What a refusal or
//! a silence leads to is the bus's policy: `listen` asks for a retry, and counts nothing itself.

mod args;
mod forward;
mod row;
mod saved;

use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fanout_client::{Bus, Deliveries, Delivery, Error, ErrorKind};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

pub(crate) use self::args::Listen;
use self::forward::{Answer, Forwarder};
use self::row::Outcome;
use self::saved::Folder;
use crate::ending::Ending;
use crate::remote;
use crate::settled::Settled;
use crate::subscribe::Need;
use crate::subscribe::{LAST_WORDS, report_that_it_lasts, subscription};
use crate::terminal::{complain, error_line, printable};
use crate::webhook::{NotAccepted, Unreachable};

/// How long posts that are under way may take after a signal; then their events are released.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &Listen, json: bool) -> Result<()> {
    let forwarder = Forwarder::new(&args.forward)?;
    if let Some(file) = &args.replay {
        let event = saved::event(file)?;
        forwarder.check(&event)?;
        let answer = forwarder.post(&event).await;
        if answer.status.is_none() {
            return Err(Unreachable(answer.text).into());
        }
        row::header(json)?;
        row::print(&event, None, Some(&answer), Outcome::Replayed, json)?;
        return if answer.is_accepted() {
            Ok(())
        } else {
            Err(NotAccepted.into())
        };
    }
    let which = &args.which;
    let name = which.name.clone().unwrap_or_else(own_name);
    let subscription = subscription(which.need, &name, &which.events)?.prefetch(which.max_in_flight);
    let folder = args.save.as_deref().map(Folder::open).transpose()?;
    let mut ending = Ending::new()?;
    let bus = remote::connect(&args.to).await?;
    // A subscription that is being made at the signal may be there all the same.
    let listened = tokio::select! {
        biased;
        () = ending.signalled() => Ok(()),
        made = bus.subscribe(subscription) => match made {
            Ok(deliveries) => {
                let mut listening = Listening {
                    forwarder: &forwarder,
                    folder,
                    posting: FuturesUnordered::new(),
                    settling: FuturesUnordered::new(),
                    hurry: watch::Sender::new(false),
                    json,
                };
                if std::io::stderr().is_terminal() {
                    error_line(format_args!("listening as subscription {}", printable(&name)));
                }
                let listened = listening.run(deliveries, &mut ending).await;
                listened.with_context(|| format!("subscription {name}"))
            }
            Err(error) => return Err(not_made(error, &args.which, &name)),
        },
    };
    let ended = match (&args.which.name, args.which.need) {
        (None, _) => end(&bus, &name).await,
        (Some(_), Need::Declared) => Ok(()),
        (Some(name), _) => {
            report_that_it_lasts(name);
            Ok(())
        }
    };
    listened.and(ended)
}

/// Why there is no subscription. Where nobody knows, nobody would end it.
fn not_made(error: Error, which: &args::Which, name: &str) -> anyhow::Error {
    let may_be_there = which.name.is_none() && error.kind == ErrorKind::OutcomeUnknown;
    let hint = if may_be_there {
        format!(", which may be made all the same: `fanout unsubscribe --name {name}` ends it")
    } else {
        String::new()
    };
    anyhow::Error::new(error).context(format!("subscription {name}{hint}"))
}

/// Ends the command's own subscription.
async fn end(bus: &Bus, name: &str) -> Result<()> {
    let ended = match bus.unsubscribe(name).await {
        // The signal came before the subscription was made, or somebody else ended it.
        Err(error) if error.kind == ErrorKind::UnknownSubscription => Ok(()),
        ended => ended,
    };
    ended.with_context(|| {
        format!("subscription {name} may last, and its events wait for it: `fanout unsubscribe --name {name}` ends it")
    })
}

/// The name of a subscription of the command's own: another for each command, because two of one name share the events.
fn own_name() -> String {
    format!("listen-{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// What is under way: posts, and settlements after them. Both are bounded by what the subscription has in flight.
struct Listening<'a> {
    forwarder: &'a Forwarder,
    folder: Option<Folder>,
    posting: FuturesUnordered<BoxFuture<'a, (Delivery, Option<Answer>)>>,
    settling: FuturesUnordered<BoxFuture<'static, Settled>>,
    /// `true` once posts are waited for no longer.
    hurry: watch::Sender<bool>,
    json: bool,
}

impl Listening<'_> {
    /// Posts and settles each delivery, until there are no more or a signal comes.
    async fn run(&mut self, mut deliveries: Deliveries, ending: &mut Ending) -> Result<()> {
        let mut listened = row::header(self.json);
        let mut are_over = false;
        while listened.is_ok() && !(are_over && self.posting.is_empty() && self.settling.is_empty()) {
            listened = tokio::select! {
                biased;
                () = ending.signalled() => break,
                Some(settled) = self.settling.next() => {
                    settled.report(self.json);
                    Ok(())
                }
                Some((delivery, answer)) = self.posting.next() => self.settle(delivery, answer),
                next = deliveries.recv(), if !are_over => match next {
                    Some(Ok(delivery)) => self.post(delivery),
                    Some(Err(error)) => Err(error.into()),
                    None => {
                        are_over = true;
                        Ok(())
                    }
                },
            };
        }
        // Stopped at once: the bus would deliver here again what is released.
        let within = LAST_ANSWERS + LAST_WORDS;
        let ((), settled) = tokio::join!(
            deliveries.stop(within),
            tokio::time::timeout(within, self.finish(ending))
        );
        match settled {
            Ok(finished) => listened.and(finished),
            Err(_) => {
                let secs = within.as_secs();
                complain(
                    self.json,
                    &format!("the bus did not answer within {secs} s: what it does not have as settled comes again"),
                );
                listened
            }
        }
    }

    /// Waits for what is under way, and releases what takes too long, or everything at a second signal.
    async fn finish(&mut self, ending: &mut Ending) -> Result<()> {
        let mut finished = Ok(());
        let mut patience = std::pin::pin!(tokio::time::sleep(LAST_ANSWERS));
        while !(self.posting.is_empty() && self.settling.is_empty()) {
            let hurries = *self.hurry.borrow();
            tokio::select! {
                biased;
                Some(settled) = self.settling.next() => settled.report(self.json),
                Some((delivery, answer)) = self.posting.next() => {
                    // Each is settled, whether or not somebody still reads what is printed.
                    finished = finished.and(self.settle(delivery, answer));
                }
                () = ending.signalled(), if !hurries => drop(self.hurry.send_replace(true)),
                () = &mut patience, if !hurries => drop(self.hurry.send_replace(true)),
            }
        }
        finished
    }

    fn post(&mut self, delivery: Delivery) -> Result<()> {
        let kept = self.folder.as_ref().map_or(Ok(()), |folder| folder.keep(&delivery));
        if kept.is_err() {
            // Nobody has tried it.
            self.settling.push(settled(delivery, |d| d.release().boxed()));
            return kept;
        }
        let (forwarder, mut hurry) = (self.forwarder, self.hurry.subscribe());
        let posting = async move {
            let answer = tokio::select! {
                biased;
                answer = forwarder.post(delivery.event()) => Some(answer),
                _ = hurry.wait_for(|hurries| *hurries) => None,
            };
            (delivery, answer)
        };
        self.posting.push(posting.boxed());
        Ok(())
    }

    /// Settles a delivery by the answer to its post, and prints it.
    fn settle(&mut self, delivery: Delivery, answer: Option<Answer>) -> Result<()> {
        let outcome = match &answer {
            Some(answer) if answer.is_accepted() => Outcome::Acknowledged,
            Some(_) => Outcome::Retry,
            None => Outcome::Released,
        };
        let reason = answer.as_ref().map(|answer| self.forwarder.reason(answer));
        let retry_after = answer.as_ref().and_then(|answer| answer.retry_after);
        let (event, attempt) = (delivery.event().clone(), delivery.attempt());
        self.settling
            .push(settled(delivery, |delivery| match (outcome, reason) {
                (Outcome::Acknowledged, _) => delivery.ack().boxed(),
                (Outcome::Retry, Some(reason)) => match retry_after {
                    Some(wait) => delivery.retry_after(wait, reason).boxed(),
                    None => delivery.retry(reason).boxed(),
                },
                _ => delivery.release().boxed(),
            }));
        row::print(&event, Some(attempt), answer.as_ref(), outcome, self.json)
    }
}

/// A settlement of a delivery, with the event that it settles.
fn settled(
    delivery: Delivery,
    how: impl FnOnce(Delivery) -> BoxFuture<'static, Result<(), Error>>,
) -> BoxFuture<'static, Settled> {
    let event = delivery.event();
    let what = format!("event {} of tenant {}", event.id, event.tenant);
    let settling = how(delivery);
    async move {
        Settled {
            what,
            answer: settling.await,
        }
    }
    .boxed()
}
