//! The names of a subscription's consumers in the store, and what they say.

use std::fmt;
use std::ops::Deref;

use crate::{SubscriptionId, SubscriptionName};

/// The name of a consumer of the log, such as `invoicing=i18d3a1b2c3d4e5f6=1=0=acme`: the subscription, its incarnation, the
/// number of its rewinds, the number of times that isolated tenants rejoined it, and the isolated tenant. Parts at the end
/// that are 0 or absent are left out.
///
/// A consumer that Fanout did not make can have any name; then no part is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerName(String);

impl ConsumerName {
    /// The subscription that it serves, or served.
    pub fn subscription(&self) -> Option<SubscriptionName> {
        SubscriptionId::split(&self.0).map(|(of, _)| of.name)
    }

    /// The isolated tenant, as a part of a name; `None` for the consumer of all others.
    pub fn tenant(&self) -> Option<&str> {
        SubscriptionId::split(&self.0)?.1?.split('=').nth(2)
    }

    /// Whether it is, or was, a consumer of this subscription, and of none that had its name before or after.
    pub fn is_of(&self, subscription: &SubscriptionId) -> bool {
        SubscriptionId::split(&self.0).is_some_and(|(of, _)| of == *subscription)
    }

    /// As people are shown it: the incarnation can't be known before the subscription is made.
    pub fn without_incarnation(&self) -> String {
        match SubscriptionId::split(&self.0) {
            Some((of, Some(rest))) => format!("{}={rest}", of.name),
            Some((of, None)) => of.name.to_string(),
            None => self.0.clone(),
        }
    }
}

impl From<String> for ConsumerName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl From<&str> for ConsumerName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl From<ConsumerName> for String {
    fn from(name: ConsumerName) -> Self {
        name.0
    }
}

impl Deref for ConsumerName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ConsumerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<&str> for ConsumerName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_it_is() {
        for (name, subscription, tenant, shown) in [
            ("invoicing", "invoicing", None, "invoicing"),
            ("invoicing=i2a", "invoicing", None, "invoicing"),
            ("invoicing=i2a=3", "invoicing", None, "invoicing=3"),
            ("invoicing=3=1=acme", "invoicing", Some("acme"), "invoicing=3=1=acme"),
            (
                "invoicing=i2a=3=1=acme",
                "invoicing",
                Some("acme"),
                "invoicing=3=1=acme",
            ),
        ] {
            let name = ConsumerName::from(name);
            let expected = (Some(subscription.parse().unwrap()), tenant, shown.to_owned());
            assert_eq!(
                (name.subscription(), name.tenant(), name.without_incarnation()),
                expected
            );
        }
        let (of, _) = SubscriptionId::split("invoicing=i2a").unwrap();
        assert!(ConsumerName::from("invoicing=i2a=3").is_of(&of));
        assert!(!ConsumerName::from("invoicing=i2b=3").is_of(&of));
        assert_eq!(ConsumerName::from("no name").subscription(), None);
    }
}
