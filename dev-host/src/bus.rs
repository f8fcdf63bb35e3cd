//! What the provider says about itself on its status subject.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde::Deserialize;

use crate::host::LATTICE;
use crate::links::Link;

/// The provider's id in the manifests that are used here.
pub(crate) const PROVIDER: &str = "bus";

/// Where the provider is asked how it is doing.
pub(crate) fn status_subject() -> String {
    format!("fanout.{LATTICE}.{PROVIDER}.status")
}

/// The provider's status.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) policy: State,
    /// Of an edge: where its bus is.
    pub(crate) upstream: Option<String>,
    #[serde(default)]
    pub(crate) links: Vec<LinkStatus>,
    #[serde(default)]
    pub(crate) subscriptions: Vec<Subscription>,
}

/// Applied, refused with every reason, or pending.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct State {
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) problems: Vec<Problem>,
}

/// What went wrong.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Problem {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// A link and what came of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LinkStatus {
    pub(crate) component: String,
    pub(crate) name: String,
    pub(crate) role: String,
    #[serde(flatten)]
    pub(crate) state: State,
}

/// A subscription and how it stands.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Subscription {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) problem: Option<Problem>,
    /// Like the other counts, absent while the bus can't read it.
    pub(crate) pending: Option<u64>,
    pub(crate) in_flight: Option<u64>,
    pub(crate) waiting_for_retry: Option<u64>,
    pub(crate) dead_letters: Option<u64>,
}

impl Subscription {
    /// Stored for it and not settled, if that is known.
    pub(crate) fn backlog(&self) -> Option<u64> {
        Some(self.pending? + self.in_flight? + self.waiting_for_retry?)
    }
}

impl State {
    fn refusal(&self) -> Option<String> {
        let problems = self.problems.iter().map(Problem::to_string);
        (self.state == "refused").then(|| format!("{}: {}", self.state, problems.collect::<Vec<_>>().join("; ")))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.message, self.code)
    }
}

impl Status {
    /// Asks the provider. An error means that it did not answer.
    pub(crate) async fn ask(client: &async_nats::Client) -> Result<Self> {
        Self::ask_at(client, status_subject()).await
    }

    /// The same on another subject.
    pub(crate) async fn ask_at(client: &async_nats::Client, subject: String) -> Result<Self> {
        let reply = client
            .request(subject, Bytes::new())
            .await
            .context("the provider did not answer on its status subject")?;
        serde_json::from_slice(&reply.payload).context("the provider's status makes no sense")
    }

    /// A subscription by name.
    pub(crate) fn subscription(&self, name: &str) -> Option<&Subscription> {
        self.subscriptions.iter().find(|subscription| subscription.name == name)
    }

    /// What the provider refused, if anything.
    pub(crate) fn refusal(&self) -> Option<String> {
        let policy = self.policy.refusal().map(|why| format!("the policy was {why}"));
        let mut links = self.links.iter().filter_map(|link| {
            let why = link.state.refusal()?;
            Some(format!("the link {} of {} was {why}", link.name, link.component))
        });
        policy.or_else(|| links.next())
    }

    /// True when it was given this link.
    pub(crate) fn has(&self, link: &Link) -> bool {
        let (component, role) = if link.target == PROVIDER {
            (&link.source, "caller")
        } else {
            (&link.target, "subscriber")
        };
        self.links
            .iter()
            .any(|given| given.component == *component && given.name == link.name && given.role == role)
    }

    /// What it still waits for, if anything.
    pub(crate) fn waiting(&self) -> Option<String> {
        if self.policy.state != "applied" {
            return Some(format!("the provider's policy is {}", self.policy.state));
        }
        let waiting = self
            .subscriptions
            .iter()
            .find(|subscription| subscription.state == "waiting")?;
        let why = waiting.problem.as_ref().map(Problem::to_string).unwrap_or_default();
        Some(format!("subscription {} waits: {why}", waiting.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = r#"{"provider":"bus","bus":"payments","policy":{"state":"applied","problems":[]},
        "links":[{"component":"ingress","name":"default","role":"caller","subscription":null,"state":"applied","problems":[]}],
        "subscriptions":[{"name":"invoicing","need":"durable","component":"invoicing","made_by":"link","state":"active",
            "problem":null,"pending":3,"in_flight":2,"waiting_for_retry":0,"dead_letters":1}]}"#;

    fn status(text: &str) -> Status {
        serde_json::from_str(text).expect("a status")
    }

    #[test]
    fn a_count_that_is_not_known_is_no_backlog_of_nothing() {
        let known = status(READY);
        assert_eq!(known.subscriptions[0].backlog(), Some(5));
        let unknown = status(&READY.replace("\"pending\":3", "\"pending\":null"));
        assert_eq!(unknown.subscriptions[0].backlog(), None);
    }

    #[test]
    fn it_waits_for_its_policy_and_its_subscribers() {
        let ready = status(READY);
        assert_eq!(ready.waiting(), None);
        assert_eq!(ready.refusal(), None);
        assert_eq!(ready.subscription("invoicing").and_then(Subscription::backlog), Some(5));
        let pending = status(&READY.replacen("\"applied\"", "\"pending\"", 1));
        assert_eq!(pending.waiting().as_deref(), Some("the provider's policy is pending"));
        assert_eq!(pending.refusal(), None);
        let waiting = READY.replace("\"active\"", "\"waiting\"").replace(
            "\"problem\":null",
            "\"problem\":{\"code\":\"unreachable\",\"message\":\"no answer\"}",
        );
        let why = status(&waiting).waiting();
        assert_eq!(
            why.as_deref(),
            Some("subscription invoicing waits: no answer (unreachable)")
        );
    }

    #[test]
    fn a_link_is_known_by_its_component_name_and_role() {
        let link = |source: &str, target: &str, name: &str| Link {
            source: source.into(),
            target: target.into(),
            name: name.into(),
            namespace: "fanout".into(),
            package: "bus".into(),
        };
        let ready = status(READY);
        assert!(ready.has(&link("ingress", "bus", "default")));
        assert!(!ready.has(&link("ingress", "bus", "other")));
        assert!(!ready.has(&link("bus", "ingress", "default")));
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let refused = READY.replace(
            r#""subscription":null,"state":"applied","problems":[]"#,
            r#""subscription":null,"state":"refused","problems":[{"code":"unknown-key","message":"tenant is not a key"}]"#,
        );
        let why = status(&refused).refusal();
        assert_eq!(
            why.as_deref(),
            Some("the link default of ingress was refused: tenant is not a key (unknown-key)")
        );
    }
}
