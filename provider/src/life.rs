//! An event's life: where it is stored, and what became of it at each subscription, as the store and the journal tell it. The
//! command line shows it, and HTTP answers with it.
//!
//! Deliberately absent: who may ask for an event, and how it is found.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_plan::fate::Fate;
use fanout_plan::journal::Missing;
use fanout_plan::policy::Journaled;
use fanout_plan::publisher::PublishedBy;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::subscription::Registered;
use fanout_plan::why::{Stop, why};
use fanout_plan::{EventType, Position, SubscriptionName, TenantId};
use serde::Serialize;

use crate::jetstream::{Delivered, Kept, LogEvent, Store, StoreError, explained};

/// Everything that is known of one event.
#[derive(Clone, Debug, Serialize)]
pub struct Life {
    /// Where it stands.
    #[serde(serialize_with = "as_text")]
    pub position: Position,
    /// When it was stored, RFC 3339.
    pub published_at: String,
    /// When the log lets it go, at the latest.
    pub expires_at: String,
    /// Where the store keeps it; absent where that can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Kept>,
    /// Who published it, and by which proof.
    pub publisher: PublishedBy,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Every attribute as it came, under its `ce-` name.
    pub attributes: BTreeMap<String, String>,
    /// Of its payload.
    pub bytes: usize,
    /// What became of it at each subscription of now that is told of.
    pub subscriptions: Vec<AtSubscription>,
    /// How much the journal could know.
    pub journal: JournalSays,
}

/// What became of an event at one subscription.
#[derive(Clone, Debug, Serialize)]
pub struct AtSubscription {
    /// Its name.
    pub name: SubscriptionName,
    /// The state.
    #[serde(flatten)]
    pub fate: Fate,
    /// What stops it on its way there, as the subscription is now; absent if it is for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops: Option<Stop>,
    /// The attempts that failed and are not over, or those of its dead letter.
    pub attempts: Vec<FailedAttempt>,
    /// When the next attempt is due, RFC 3339.
    pub next_attempt: Option<String>,
    /// Its dead letter is to be given to the subscription again, and was not yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_redriven: bool,
    /// When that was asked for, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redrive_requested_at: Option<String>,
    /// Its deliveries, as the journal has them; absent where nothing was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<Vec<Delivered>>,
}

/// How much the journal could know of an event.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JournalSays {
    /// Which deliveries the policy wants written down: `off`, `errors` or `all`.
    pub deliveries: &'static str,
    /// Since when it has everything that was written into it, RFC 3339; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins_at: Option<String>,
    /// It begins after the event was stored: some of it may be missing here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub begins_late: bool,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<String>,
    /// What instances did not write since the event was stored: some of it may be missing here.
    pub missing: Vec<Missing>,
    /// There is more than is told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Deliveries to subscriptions that have ended; only for whoever operates the bus.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Delivered>,
}

impl Life {
    /// Asks the store what became of an event: at each subscription for whoever operates the bus, at those of one component for its
    /// `owner`, who is told nothing of others', nor of any that has ended and whose it was nobody remembers. The journal is read for
    /// no longer than `journal_within`, and another place that took the event is asked for no longer: what they would have told is not
    /// known then.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn of(
        store: &Store,
        registry: &BTreeMap<SubscriptionName, Registered>,
        owner: Option<&str>,
        event: &LogEvent,
        journal_within: Duration,
    ) -> Result<Self, StoreError> {
        let policy = store.policy();
        let read = store
            .journal_of(event.position, Some(event.published_at), journal_within)
            .await;
        let (journaled, unread) = match read {
            Ok(journaled) => (journaled, None),
            Err(error) => (None, Some(explained(&error))),
        };
        let is_journaled = journaled.is_some();
        let journaled = journaled.unwrap_or_default();
        let mut by_subscription: BTreeMap<SubscriptionName, Vec<Delivered>> = BTreeMap::new();
        for delivered in journaled.deliveries {
            let of = by_subscription.entry(delivered.entry.subscription.clone());
            of.or_default().push(delivered);
        }
        let mut subscriptions = Vec::new();
        let is_told = |registered: &Registered| owner.is_none_or(|owner| registered.component == owner);
        for (name, registered) in registry.iter().filter(|(_, registered)| is_told(registered)) {
            let letter = store.letter_of(registered, event).await?;
            let number = letter.as_ref().map(|letter| letter.number);
            let here = store.event_at_subscription(registered, event, number).await?;
            let redrive = letter.as_ref().and_then(|letter| letter.redrive_requested_at);
            let (subscription, subscriber) = (&registered.subscription, &registered.component);
            let stops = event.event.as_ref();
            let mirrored_from = store.layout().mirrored_from(event.position.partition);
            subscriptions.push(AtSubscription {
                name: name.clone(),
                stops: stops.and_then(|it| why(policy, subscription, subscriber, mirrored_from, it, &event.payload)),
                attempts: letter.map_or(here.attempts, |letter| letter.attempts),
                next_attempt: here.due.map(|due| due.to_string()),
                fate: here.fate,
                is_redriven: redrive.is_some(),
                redrive_requested_at: redrive.map(|at| at.to_string()),
                deliveries: is_journaled.then(|| by_subscription.remove(name).unwrap_or_default()),
            });
        }
        Ok(Self {
            position: event.position,
            published_at: event.published_at.to_string(),
            expires_at: (event.published_at + policy.retention.max_age).to_string(),
            tenant: event.tenant.clone(),
            event_type: event.event_type.clone(),
            attributes: event.attributes.clone(),
            bytes: event.payload.len(),
            stored: store.kept(event.position.partition).await.ok(),
            publisher: store.publisher_of(event, journal_within).await,
            subscriptions,
            journal: JournalSays {
                deliveries: policy.journal.deliveries.as_str(),
                begins_at: journaled.begins.map(|at| at.to_string()),
                begins_late: journaled.begins.is_some_and(|at| at > event.published_at),
                unread,
                missing: journaled.missing,
                cut: journaled.cut,
                ended: match owner {
                    None => by_subscription.into_values().flatten().collect(),
                    Some(_) => Vec::new(),
                },
            },
        })
    }

    /// What a reader has to know of what is not told of its deliveries; `None` where all of them are.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        self.journal.caveat()
    }
}

impl JournalSays {
    fn caveat(&self) -> Option<String> {
        let mut said = Vec::new();
        if self.deliveries == Journaled::Off.as_str() {
            said.push(
                "when and by which instance it was delivered is not known: `journal.deliveries` is off".to_owned(),
            );
        } else if self.deliveries == Journaled::Errors.as_str() {
            said.push(
                "what was handled at its first attempt is not written down: `journal.deliveries` is errors".to_owned(),
            );
        }
        match (&self.unread, &self.begins_at) {
            (Some(why), _) => said.push(format!(
                "when and by which instance it was delivered is not known: the journal could not be read ({why}): try again"
            )),
            (None, Some(begins)) if self.begins_late => said.push(format!(
                "the journal begins at {begins}, after the event was stored: what was delivered before that is not known"
            )),
            (None, None) if self.deliveries != Journaled::Off.as_str() => said.push(
                "when and by which instance it was delivered is not known: the journal is not made yet".to_owned(),
            ),
            _ => {}
        }
        said.extend(self.missing.iter().map(|missing| {
            let Missing { instance, since, until, entries } = missing;
            format!("instance {instance} has not written down {entries} deliveries between {since} and {until}: some of this event may be among them")
        }));
        if self.cut {
            said.push("the journal has more of this event than is read".to_owned());
        }
        (!said.is_empty()).then(|| said.join("\n"))
    }
}

fn as_text<S: serde::Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}
