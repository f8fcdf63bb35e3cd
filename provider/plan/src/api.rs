//! Which JetStream holds a bus: that of the server itself, or one that is named.

use std::fmt;

use crate::{Code, Problem};

/// How requests to JetStream are addressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JetStreamApi {
    /// The JetStream of the server or cluster that is connected to.
    #[default]
    Local,
    /// That of a domain, which a leaf node reaches through its hub.
    Domain(String),
    /// That behind a prefix, as another account exports it.
    Prefix(String),
}

impl JetStreamApi {
    /// Of a domain.
    ///
    /// # Errors
    /// When it is not one token of a subject.
    pub fn domain(name: &str) -> Result<Self, Problem> {
        if name.contains('.') || !is_subject(name) {
            return Err(invalid(
                "a JetStream domain is one word, such as `hub`: no dots, blanks or wildcards",
            ));
        }
        Ok(Self::Domain(name.to_owned()))
    }

    /// The domain that a prefix of requests is of; `None` where it is none's.
    pub fn domain_of(prefix: &str) -> Option<String> {
        let name = prefix.strip_prefix("$JS.")?.strip_suffix(".API")?;
        matches!(Self::domain(name), Ok(Self::Domain(_))).then(|| name.to_owned())
    }

    /// Behind a prefix; a dot at its end is left out.
    ///
    /// # Errors
    /// When it is no subject.
    pub fn prefix(prefix: &str) -> Result<Self, Problem> {
        let prefix = prefix.strip_suffix('.').unwrap_or(prefix);
        if !is_subject(prefix) {
            return Err(invalid(
                "an API prefix is a subject without wildcards, such as `$JS.hub.API`",
            ));
        }
        Ok(Self::Prefix(prefix.to_owned()))
    }

    /// What stands before each request's name.
    pub fn subject(&self) -> String {
        match self {
            Self::Local => "$JS.API".to_owned(),
            Self::Domain(name) => format!("$JS.{name}.API"),
            Self::Prefix(prefix) => prefix.clone(),
        }
    }

    /// What is to be said when nobody answers there.
    pub fn unanswered(&self) -> Problem {
        let message = match self {
            Self::Local => {
                "NATS answers, JetStream does not: start the server with `-js`, or a `jetstream` block in its configuration, and enable it for this account; where JetStream is another server's, as on a leaf node, name its domain in `jetstream.domain` (`--jetstream-domain`)".to_owned()
            }
            Self::Domain(name) => format!(
                "NATS answers, and no JetStream of domain `{name}` does: check whether a server with `jetstream {{ domain: {name} }}` is connected and has it enabled for this account, or name another in `jetstream.domain` (`--jetstream-domain`)"
            ),
            Self::Prefix(prefix) => format!(
                "NATS answers, and no JetStream behind `{prefix}` does: check `jetstream.api-prefix` (`--jetstream-api-prefix`), and whether this account imports it"
            ),
        };
        Problem::new(Code::JetStreamMissing, message)
    }
}

impl fmt::Display for JetStreamApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject())
    }
}

fn is_subject(text: &str) -> bool {
    text.split('.').all(|token| {
        let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>');
        !token.is_empty() && token.chars().all(legal)
    })
}

fn invalid(message: &str) -> Problem {
    Problem::new(Code::InvalidSetting, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_word_and_a_prefix_a_subject() {
        assert_eq!(JetStreamApi::domain("hub").unwrap().subject(), "$JS.hub.API");
        assert_eq!(JetStreamApi::prefix("$JS.hub.API.").unwrap().subject(), "$JS.hub.API");
        for bad in ["", "a.b", "a b", "*", ">", "a\r\n"] {
            assert!(JetStreamApi::domain(bad).is_err(), "{bad:?}");
        }
        assert_eq!(JetStreamApi::domain_of("$JS.hub.API").as_deref(), Some("hub"));
        assert!(JetStreamApi::domain_of("$JS.API").is_none() && JetStreamApi::domain_of("hub").is_none());
        for bad in ["", ".", "a..b", "$JS.*.API", "a >", "a.\n"] {
            assert!(JetStreamApi::prefix(bad).is_err(), "{bad:?}");
        }
        let said = JetStreamApi::Local.unanswered();
        assert!(said.message.contains("-js") && said.message.contains("jetstream.domain"));
    }
}
