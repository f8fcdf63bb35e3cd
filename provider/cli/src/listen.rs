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
use fanout_client::{Bus, Deliveries, Delivery, Error, ErrorKind, Subscription};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use serde_json::json;
use tokio::sync::watch;

pub(crate) use self::args::Listen;
use self::forward::{Answer, Forwarder};
use self::row::Outcome;
use self::saved::Folder;
use crate::args::Need;
use crate::ending::Ending;
use crate::remote;
use crate::subscribe::{LAST_WORDS, begins, tell_that_it_lasts};
use crate::terminal::{error_line, json_line, printable};
use crate::webhook::{NotAccepted, Unreachable};

/// How long posts that are under way may take once the command is told to end; then their events are given back.
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
    let folder = args.save.as_deref().map(Folder::open).transpose()?;
    let mut ending = Ending::new()?;
    let bus = remote::connect(&args.to).await?;
    let subscription = subscription(&args.which);
    let name = subscription.name().to_owned();
    // Told to end while it is being made, it may be there all the same.
    let listened = tokio::select! {
        biased;
        () = ending.told() => Ok(()),
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
            tell_that_it_lasts(name);
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
        // The command was told to end before it was made, or somebody else ended it.
        Err(error) if error.kind == ErrorKind::UnknownSubscription => Ok(()),
        ended => ended,
    };
    ended.with_context(|| {
        format!("subscription {name} may last, and its events wait for it: `fanout unsubscribe --name {name}` ends it")
    })
}

fn subscription(which: &args::Which) -> Subscription {
    let name = which.name.clone().unwrap_or_else(|| {
        // Another name for each command: of one name, two would share the events.
        format!("listen-{:016x}", RandomState::new().hash_one(std::process::id()))
    });
    let subscription = match which.need {
        Need::Queue => Subscription::queue(name),
        Need::Durable => Subscription::durable(name),
        Need::Backfill => Subscription::backfill(name, begins(which.from)),
        Need::Declared => Subscription::declared(name),
    };
    let subscription = subscription
        .tenants(&which.tenant)
        .event_types(&which.event_type)
        .prefetch(which.max_in_flight);
    match which.count {
        Some(count) => subscription.at_most(count),
        None => subscription,
    }
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

/// A settlement that the bus has answered.
struct Settled {
    tenant: String,
    id: String,
    answer: Result<(), Error>,
}

impl Listening<'_> {
    /// Posts what comes, until there is no more or the command is told to end, and settles all of it.
    async fn run(&mut self, mut deliveries: Deliveries, ending: &mut Ending) -> Result<()> {
        let mut listened = row::header(self.json);
        let mut are_over = false;
        while listened.is_ok() && !(are_over && self.posting.is_empty() && self.settling.is_empty()) {
            listened = tokio::select! {
                biased;
                () = ending.told() => break,
                Some(settled) = self.settling.next() => {
                    self.tell(settled);
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
        // Stopped at once: the bus would deliver here again what is given back.
        let within = LAST_ANSWERS + LAST_WORDS;
        let ((), settled) = tokio::join!(
            deliveries.stop(within),
            tokio::time::timeout(within, self.finish(ending))
        );
        match settled {
            Ok(finished) => listened.and(finished),
            Err(_) => {
                let secs = within.as_secs();
                self.complain(&format!(
                    "the bus did not answer within {secs} s: what it does not have as settled comes again"
                ));
                listened
            }
        }
    }

    /// Waits for what is under way, and gives back what takes too long, or at a second signal.
    async fn finish(&mut self, ending: &mut Ending) -> Result<()> {
        let mut finished = Ok(());
        let mut patience = std::pin::pin!(tokio::time::sleep(LAST_ANSWERS));
        while !(self.posting.is_empty() && self.settling.is_empty()) {
            let hurries = *self.hurry.borrow();
            tokio::select! {
                biased;
                Some(settled) = self.settling.next() => self.tell(settled),
                Some((delivery, answer)) = self.posting.next() => {
                    // Each is settled, whether or not somebody still reads what is printed.
                    finished = finished.and(self.settle(delivery, answer));
                }
                () = ending.told(), if !hurries => drop(self.hurry.send_replace(true)),
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
            None => Outcome::GivenBack,
        };
        let reason = answer.as_ref().map(|answer| self.forwarder.reason(answer));
        let (event, attempt) = (delivery.event().clone(), delivery.attempt());
        self.settling
            .push(settled(delivery, |delivery| match (outcome, reason) {
                (Outcome::Acknowledged, _) => delivery.ack().boxed(),
                (Outcome::Retry, Some(reason)) => delivery.retry(reason).boxed(),
                _ => delivery.release().boxed(),
            }));
        row::print(&event, Some(attempt), answer.as_ref(), outcome, self.json)
    }

    /// What the bus did not take comes again: that ends nothing.
    fn tell(&self, settled: Settled) {
        if let Err(error) = settled.answer {
            self.complain(&format!(
                "event {} of tenant {} is not settled, and comes again: {error}",
                settled.id, settled.tenant
            ));
        }
    }

    fn complain(&self, problem: &str) {
        match self.json {
            true => error_line(format_args!("{}", json_line(&json!({ "error": problem })))),
            false => error_line(format_args!("error: {}", printable(problem))),
        }
    }
}

/// A settlement, with whose it is.
fn settled(
    delivery: Delivery,
    how: impl FnOnce(Delivery) -> BoxFuture<'static, Result<(), Error>>,
) -> BoxFuture<'static, Settled> {
    let (tenant, id) = (delivery.event().tenant.clone(), delivery.event().id.clone());
    let settling = how(delivery);
    async move {
        let answer = settling.await;
        Settled { tenant, id, answer }
    }
    .boxed()
}
