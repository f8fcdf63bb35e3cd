//! `errors`: why events are refused: dead letters, and what waits for a retry, by their reasons.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::{Position, SubscriptionName, TenantId, Timestamp};
use fanout_provider::jetstream::{LetterNote, MOST_LOOKED_AT};
use serde_json::json;

use crate::args::{Store, span};
use crate::terminal::{error_line, json_lines, printable, say, table};
use crate::{bus, policy};

#[derive(Debug, clap::Args)]
pub(crate) struct Errors {
    #[command(flatten)]
    pub(crate) store: Store,
    /// Of this subscription only
    pub(crate) subscription: Option<SubscriptionName>,
    /// Of this tenant only
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Refused in this time only, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = span)]
    pub(crate) since: Option<Duration>,
}

/// Events of one subscription that were refused for one reason.
#[derive(Default)]
struct Refusals {
    letters: usize,
    waiting: usize,
    /// When the first and the last of them were refused.
    first: Timestamp,
    last: Timestamp,
    /// The first of them that is a dead letter.
    letter: Option<u64>,
    /// Where the first of them stands.
    event: Option<Position>,
}

/// Refusals by subscription and reason.
#[derive(Default)]
struct Reasons {
    of: BTreeMap<(String, String), Refusals>,
    /// What was refused last before this is left out.
    since: Timestamp,
}

impl Reasons {
    /// Counts an event by its last attempt, unless that was too long ago.
    fn add(&mut self, name: &SubscriptionName, last: &FailedAttempt, position: Position) -> Option<&mut Refusals> {
        let at = last.at.parse().unwrap_or_default();
        if at < self.since {
            return None;
        }
        let of = self.of.entry((name.to_string(), last.reason.clone())).or_default();
        of.first = if of.event.is_some() { of.first.min(at) } else { at };
        of.last = of.last.max(at);
        of.event.get_or_insert(position);
        Some(of)
    }
}

pub(crate) async fn errors(args: &Errors, json: bool) -> Result<()> {
    let store = bus::store(&args.store).await?;
    let (name, tenant) = (args.subscription.as_ref(), args.tenant.as_ref());
    let mut reasons = Reasons {
        since: args.since.map_or(Timestamp::EPOCH, |since| policy::now() - since),
        ..Reasons::default()
    };
    let mut is_of_none = true;
    let see = |letter: LetterNote| {
        is_of_none = false;
        if let Some(last) = letter.attempts.last()
            && let Some(of) = reasons.add(&letter.id.of.name, last, letter.id.position)
        {
            of.letters += 1;
            of.letter.get_or_insert(letter.number);
        }
    };
    store.look_at_letters(name, tenant, see).await?;
    let waiting = store.waiting_events(name).await?;
    // One that has ended may have left letters.
    if let Some(name) = name.filter(|_| is_of_none && waiting.is_empty()) {
        bus::known(&store, name).await?;
    }
    if waiting.len() == MOST_LOOKED_AT {
        error_line(format_args!(
            "more than {MOST_LOOKED_AT} events wait for a retry, and only so many were looked at: name a subscription"
        ));
    }
    for event in &waiting {
        if tenant.is_none_or(|tenant| tenant.as_str() == event.tenant)
            && let Some(last) = event.attempts.last()
            && let Some(of) = reasons.add(&event.subscription, last, event.position)
        {
            of.waiting += 1;
        }
    }
    if store.policy().places.is_some() {
        let observed = store.observe().await?;
        for (of, letters) in store.letters_elsewhere(observed.registry.values()).await {
            for (place, letters) in letters.into_iter().filter(|_| name.is_none_or(|name| *name == of.name)) {
                error_line(format_args!(
                    "{letters} dead letters of subscription {} stayed at place {place}, where it was before: `fanout errors --place {place}` shows them",
                    of.name
                ));
            }
        }
    }
    let mut reasons: Vec<_> = reasons.of.into_iter().collect();
    reasons.sort_by_key(|(_, of)| std::cmp::Reverse(of.letters + of.waiting));
    if json {
        let shown = reasons.iter().map(|((subscription, reason), of)| {
            json!({
                "subscription": subscription, "reason": reason, "dead_letters": of.letters,
                "waiting_for_retry": of.waiting, "first": of.first.to_string(),
                "last": of.last.to_string(), "example": of.letter,
                "event": of.event.map(|position| position.to_string()),
            })
        });
        return say!("{}", json_lines(&json!({ "errors": shown.collect::<Vec<_>>() })));
    }
    if reasons.is_empty() {
        return say!("no dead letters, and no retries");
    }
    let header = [
        "dead letters",
        "retries",
        "subscription",
        "first",
        "last",
        "letter",
        "event",
        "reason",
    ];
    let rows = reasons.into_iter().map(|((subscription, reason), of)| {
        [
            of.letters.to_string(),
            of.waiting.to_string(),
            subscription,
            of.first.to_string(),
            of.last.to_string(),
            of.letter.map_or_else(|| "-".to_owned(), |number| number.to_string()),
            of.event.map_or_else(|| "-".to_owned(), |position| position.to_string()),
            printable(&reason).into_owned(),
        ]
    });
    say!("{}", table(header, 0..2, rows))
}
