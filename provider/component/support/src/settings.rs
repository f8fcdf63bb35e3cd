//! What the operator says to one of these components: variables of its environment.
//!
//! The environment is what every host gives and what an operator's secrets reach (`secretFrom` in a manifest of wasmCloud v2).
//! `wasmcloud:secrets` of a v2 host takes `async func` only, which a component that is called synchronously can't call.

use std::fmt;
use std::time::Duration;

use crate::answer::Failure;

/// For a whole call, tries and waits included.
const DEADLINE: Duration = Duration::from_secs(8);
/// The longest that can be asked for.
const LONGEST_DEADLINE: Duration = Duration::from_secs(60);

/// Where the bus is, and who calls it.
#[derive(Clone)]
pub struct Settings {
    /// `FANOUT_URL` is `https`.
    pub is_tls: bool,
    /// Its host and port.
    pub authority: String,
    /// `FANOUT_TOKEN`.
    pub token: Option<String>,
    /// `FANOUT_DEADLINE_MS`.
    pub deadline: Duration,
}

impl Settings {
    /// Reads them from the environment.
    ///
    /// # Errors
    /// Which variable is missing or wrong, and what it has to be.
    pub fn from_environment() -> Result<Self, Failure> {
        Self::read(variable)
    }

    /// Reads them.
    ///
    /// # Errors
    /// As [`Settings::from_environment`].
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let invalid = |message: &str| Failure::not_started("invalid-endpoint", message).for_good();
        let url = variable("FANOUT_URL")
            .ok_or_else(|| invalid("FANOUT_URL is not set: it is the bus's http or https URL"))?;
        let (is_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(invalid("FANOUT_URL begins with neither http:// nor https://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest).to_owned();
        if authority.is_empty() || authority.contains(['/', '@', '?', '#', ' ']) {
            return Err(invalid("FANOUT_URL is not a scheme, a host and a port alone"));
        }
        let token = variable("FANOUT_TOKEN")
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        if token
            .as_deref()
            .is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Failure::not_started("invalid-credentials", "FANOUT_TOKEN is no token").for_good());
        }
        if token.is_some() && !is_tls && !is_this_machine(&authority) {
            return Err(invalid(
                "FANOUT_TOKEN may not be shown over plain http, which anyone on the way could read: use https",
            ));
        }
        let deadline = match variable("FANOUT_DEADLINE_MS").map(|text| text.parse().map(Duration::from_millis)) {
            None => DEADLINE,
            Some(Ok(deadline)) if !deadline.is_zero() && deadline <= LONGEST_DEADLINE => deadline,
            Some(_) => {
                let message = "FANOUT_DEADLINE_MS is not a number of milliseconds from 1 to 60000";
                return Err(Failure::not_started("invalid-limit", message).for_good());
            }
        };
        Ok(Self {
            is_tls,
            authority,
            token,
            deadline,
        })
    }
}

/// A variable of the environment.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What is sent there stays on this machine. A name that a resolver is asked for can be anything.
fn is_this_machine(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let is_loopback = |host: &str| {
        host.parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
    };
    host == "localhost" || is_loopback(host.trim_matches(['[', ']']))
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("is_tls", &self.is_tls)
            .field("authority", &self.authority)
            .field("token", &self.token.as_ref().map(|_| "redacted"))
            .field("deadline", &self.deadline)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Failure> {
        Settings::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_bus_is_a_url_and_a_token() {
        let settings = read(&[("FANOUT_URL", "https://bus.example:7780/"), ("FANOUT_TOKEN", "abc\n")]).expect("legal");
        assert_eq!(
            (settings.is_tls, settings.authority.as_str()),
            (true, "bus.example:7780")
        );
        assert_eq!(settings.token.as_deref(), Some("abc"));
        assert!(!format!("{settings:?}").contains("abc"));
        let settings = read(&[("FANOUT_URL", "http://127.0.0.1:80"), ("FANOUT_DEADLINE_MS", "250")]).expect("legal");
        assert_eq!((settings.token, settings.deadline), (None, Duration::from_millis(250)));
    }

    #[test]
    fn a_token_goes_over_plain_http_on_this_machine_alone() {
        for here in ["127.0.0.1:1", "localhost:1", "[::1]:1"] {
            let url = format!("http://{here}");
            assert!(read(&[("FANOUT_URL", &url), ("FANOUT_TOKEN", "abc")]).is_ok(), "{here}");
        }
        for there in ["bus:1", "127.0.0.1.example:1", "10.0.0.1", "host.wasmcloud.internal:1"] {
            let url = format!("http://{there}");
            let failure = read(&[("FANOUT_URL", &url), ("FANOUT_TOKEN", "abc")]).expect_err(there);
            assert_eq!(failure.problem.code, "invalid-endpoint");
            assert!(!failure.can_be_repeated && !failure.may_have_run);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variables, named) in [
            (&[][..], "FANOUT_URL is not set"),
            (&[("FANOUT_URL", "tcp://bus:1")][..], "neither http"),
            (&[("FANOUT_URL", "http://bus:1/path")][..], "alone"),
            (
                &[("FANOUT_URL", "https://bus"), ("FANOUT_TOKEN", "a b")][..],
                "FANOUT_TOKEN",
            ),
            (
                &[("FANOUT_URL", "https://bus"), ("FANOUT_DEADLINE_MS", "0")][..],
                "FANOUT_DEADLINE_MS",
            ),
        ] {
            let failure = read(variables).expect_err(named);
            assert!(failure.problem.message.contains(named), "{failure:?}");
        }
    }
}
