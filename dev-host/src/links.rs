//! The links of the lattice, and what to do about one that got lost.
//!
//! Two races of the 1.x hosts lose links while an application starts (read in wasmcloud-host 0.27.1, and seen). Two
//! links of one source that are put at the same moment are each written into what the other had not yet written. And a
//! link that is put while its provider starts is neither in what the provider is given nor heard by it. wadm notices
//! the first at the provider's next health check, and the second never. The way out is the lattice's own: delete the
//! link, and wadm, which is told of it, puts it again.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::control;

/// A link, without its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The id of the component or provider that calls.
    #[serde(rename = "source_id")]
    pub(crate) source: String,
    /// The id of the one that is called.
    #[serde(skip_serializing)]
    pub(crate) target: String,
    #[serde(default = "default_name")]
    pub(crate) name: String,
    #[serde(rename = "wit_namespace")]
    pub(crate) namespace: String,
    #[serde(rename = "wit_package")]
    pub(crate) package: String,
}

/// The name of a link that has none.
pub(crate) fn default_name() -> String {
    "default".to_owned()
}

impl Link {
    /// True when a component or provider of this id is at one end.
    pub(crate) fn touches(&self, id: &str) -> bool {
        self.source == id || self.target == id
    }

    /// Deletes it. wadm puts it again.
    pub(crate) async fn renew(&self, client: &async_nats::Client) -> Result<()> {
        control::tell(client, "link.del", self).await
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            source,
            target,
            name,
            namespace,
            package,
        } = self;
        write!(formatter, "{source} -> {target} ({namespace}:{package}, name {name})")
    }
}

/// The links that the host knows.
pub(crate) async fn known(client: &async_nats::Client) -> Result<Vec<Link>> {
    control::ask(client, "link.get").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_whole_and_deleted_without_its_target() {
        let given = r#"{"source_id":"bus","target":"invoicing","wit_namespace":"fanout","wit_package":"bus",
            "interfaces":["batch-handler"],"source_config":["payments-x"],"target_config":[]}"#;
        let link: Link = serde_json::from_str(given).expect("a link");
        assert_eq!(link.to_string(), "bus -> invoicing (fanout:bus, name default)");
        assert!(link.touches("bus") && link.touches("invoicing") && !link.touches("http"));
        let deletion = serde_json::to_value(&link).expect("JSON");
        let expected = serde_json::json!({
            "source_id": "bus", "name": "default", "wit_namespace": "fanout", "wit_package": "bus",
        });
        assert_eq!(deletion, expected);
    }
}
