//! What the provider says about itself on its status subject.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use fanout_plan::link::Role;
use fanout_plan::status::{BusStatus, Outcome, OutcomeState, State};

use crate::host::LATTICE;
use crate::links::Link;

/// The provider's id in the manifests that are used here.
pub(crate) const PROVIDER: &str = "bus";

/// Where the provider is asked how it is doing.
pub(crate) fn status_subject() -> String {
    format!("fanout.{LATTICE}.{PROVIDER}.status")
}

/// Asks a bus or a provider for its status. An error means that it did not answer.
pub(crate) async fn status(client: &async_nats::Client, subject: String) -> Result<BusStatus> {
    let reply = client
        .request(subject, Bytes::new())
        .await
        .context("the provider did not answer on its status subject")?;
    serde_json::from_slice(&reply.payload).context("the provider's status makes no sense")
}

/// What was refused, if anything.
pub(crate) fn refusal(status: &BusStatus) -> Option<String> {
    let why = |outcome: &Outcome| {
        let problems: Vec<_> = outcome.problems.iter().map(ToString::to_string).collect();
        (outcome.state == OutcomeState::Refused).then(|| problems.join("; "))
    };
    let policy = status.policy.as_ref().and_then(why);
    let mut links = status.links.iter().filter_map(|link| {
        let why = why(&link.outcome)?;
        Some(format!(
            "the link {} of {} was refused: {why}",
            link.name, link.component
        ))
    });
    policy
        .map(|why| format!("the policy was refused: {why}"))
        .or_else(|| links.next())
}

/// True when the provider was given this link.
pub(crate) fn has(status: &BusStatus, link: &Link) -> bool {
    let (component, role) = if link.target == PROVIDER {
        (&link.source, Role::Caller)
    } else {
        (&link.target, Role::Subscriber)
    };
    let mut given = status.links.iter();
    given.any(|given| given.component == *component && given.name == link.name && given.role == role)
}

/// What the provider still waits for, if anything.
pub(crate) fn waiting(status: &BusStatus) -> Option<String> {
    // The policy is the bus's; an edge has none.
    if status.policy.as_ref().is_some_and(|p| p.state != OutcomeState::Applied) {
        return Some("the provider's policy is not in force".to_owned());
    }
    let mut all = status.subscriptions.iter();
    let waiting = all.find(|s| s.state == State::Waiting)?;
    let why = waiting.problem.as_ref().map(ToString::to_string).unwrap_or_default();
    Some(format!("subscription {} waits: {why}", waiting.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = r#"{"provider":"bus","bus":"payments","policy":{"state":"applied","problems":[]},
        "links":[{"component":"ingress","name":"default","role":"caller","subscription":null,"state":"applied","problems":[]}],
        "subscriptions":[{"name":"invoicing","need":"durable","component":"invoicing","made_by":"link","state":"active",
            "problem":null,"pending":3,"in_flight":2,"waiting_for_retry":0,"dead_letters":1}]}"#;

    fn read(text: &str) -> BusStatus {
        serde_json::from_str(text).expect("a status")
    }

    #[test]
    fn it_waits_for_its_policy_and_its_subscribers() {
        let ready = read(READY);
        assert_eq!((waiting(&ready), refusal(&ready)), (None, None));
        let pending = read(&READY.replacen("\"applied\"", "\"pending\"", 1));
        assert_eq!(
            waiting(&pending).as_deref(),
            Some("the provider's policy is not in force")
        );
        assert_eq!(refusal(&pending), None);
        let waits = READY.replace("\"active\"", "\"waiting\"").replace(
            "\"problem\":null",
            "\"problem\":{\"code\":\"unreachable\",\"message\":\"no answer\"}",
        );
        let why = waiting(&read(&waits));
        assert_eq!(
            why.as_deref(),
            Some("subscription invoicing waits: no answer [unreachable]")
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
        let ready = read(READY);
        assert!(has(&ready, &link("ingress", "bus", "default")));
        assert!(!has(&ready, &link("ingress", "bus", "other")));
        assert!(!has(&ready, &link("bus", "ingress", "default")));
    }

    #[test]
    fn a_refusal_says_what_and_why() {
        let refused = READY.replace(
            r#""subscription":null,"state":"applied","problems":[]"#,
            r#""subscription":null,"state":"refused","problems":[{"code":"unknown-key","message":"tenant is not a key"}]"#,
        );
        assert_eq!(
            refusal(&read(&refused)).as_deref(),
            Some("the link default of ingress was refused: tenant is not a key [unknown-key]")
        );
    }
}
