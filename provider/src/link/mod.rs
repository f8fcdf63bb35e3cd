//! Links as the host gives them, and how they change.

mod listen;

use std::collections::BTreeMap;

use fanout_plan::Settings;
pub(crate) use fanout_plan::link::Role;
use wasmcloud_core::InterfaceLinkDefinition;

pub(crate) use listen::listen;

/// What tells two links apart: a component may have several, under different names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkKey {
    pub(crate) component: String,
    pub(crate) name: String,
    pub(crate) role: Role,
}

impl LinkKey {
    /// For messages.
    pub(crate) fn describe(&self) -> String {
        format!("link {} of component {}", self.name, self.component)
    }
}

/// A link as the host gives it. The settings are those of the bus's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// `fanout:bus` unless the manifest is wrong.
    pub(crate) package: String,
    pub(crate) interfaces: Vec<String>,
    pub(crate) settings: Settings,
}

/// Every link of the provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links(BTreeMap<LinkKey, Link>);

impl Links {
    /// Adds or changes a link. Returns whether that changed anything.
    pub(crate) fn put(&mut self, key: LinkKey, link: Link) -> bool {
        self.0.insert(key, link.clone()).as_ref() != Some(&link)
    }

    /// Removes a link. Returns whether there was one.
    pub(crate) fn delete(&mut self, key: &LinkKey) -> bool {
        self.0.remove(key).is_some()
    }

    pub(crate) fn get(&self, key: &LinkKey) -> Option<&Link> {
        self.0.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&LinkKey, &Link)> {
        self.0.iter()
    }
}

/// Where links and their changes go.
pub(crate) trait LinkSink: Clone + Send + 'static {
    fn put_link(&self, key: LinkKey, link: Link);
    fn delete_link(&self, key: &LinkKey);
}

/// Reads the host's form; `None` for a link that is not the provider's.
pub(crate) fn from_definition(provider: &str, definition: InterfaceLinkDefinition) -> Option<(LinkKey, Link)> {
    let (component, role, settings) = if definition.source_id == provider {
        (definition.target, Role::Subscriber, definition.source_config)
    } else if definition.target == provider {
        (definition.source_id, Role::Caller, definition.target_config)
    } else {
        return None;
    };
    let key = LinkKey {
        component,
        name: definition.name,
        role,
    };
    let link = Link {
        package: format!("{}:{}", definition.wit_namespace, definition.wit_package),
        interfaces: definition.interfaces,
        settings: settings.into_iter().collect(),
    };
    Some((key, link))
}
