//! What a server says about its streams and consumers: advisories, counted by kind.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use async_nats::Subscriber;
use futures::StreamExt as _;

use crate::server::Node;

const PREFIX: &str = "$JS.EVENT.ADVISORY.";
/// What the experiment itself did, and so expects to hear.
const OWN_DOING: [&str; 4] = ["API", "CREATED", "DELETED", "UPDATED"];

/// Advisories by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said(BTreeMap<String, u64>);

impl Said {
    fn hear(&mut self, subject: &str) {
        let words: Vec<_> = subject.strip_prefix(PREFIX).unwrap_or(subject).split('.').collect();
        // `CONSUMER.MAX_DELIVERIES.{stream}.{consumer}`, `API`.
        let kind = words.get(1).or(words.first()).copied().unwrap_or_default();
        if words.first() != Some(&OWN_DOING[0]) && !OWN_DOING.contains(&kind) {
            *self.0.entry(kind.to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        let kinds: Vec<_> = self.0.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        f.write_str(&kinds.join(", "))
    }
}

/// Someone who listens to a server, also after its restart.
pub(crate) struct Ears(Subscriber);

impl Ears {
    pub(crate) async fn open(node: &Node) -> Result<Self> {
        let client = node.client().await?;
        let ears = client.subscribe(format!("{PREFIX}>")).await?;
        client.flush().await?;
        Ok(Self(ears))
    }

    /// All that was said until it fell silent.
    pub(crate) async fn heard(mut self) -> Said {
        let mut said = Said::default();
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), self.0.next()).await {
            said.hear(&message.subject);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advisories_are_counted_by_kind_without_our_own_doing() {
        let mut said = Said::default();
        for subject in [
            "$JS.EVENT.ADVISORY.API",
            "$JS.EVENT.ADVISORY.CONSUMER.CREATED.work.invoicing",
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.work.invoicing",
            "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.work.invoicing",
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.work.invoicing",
        ] {
            said.hear(subject);
        }
        assert_eq!(said.to_string(), "2 MAX_DELIVERIES, 1 MSG_TERMINATED");
        assert_eq!(Said::default().to_string(), "nothing");
    }
}
