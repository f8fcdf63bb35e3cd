//! `role = edge`: an instance that keeps no bus of its own, and stands for one that is elsewhere.

use std::time::Duration;

use crate::policy::Delivery;
use crate::setting::{self, Reader, Settings};
use crate::{Code, Policy, Problem};

/// What an edge is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The bus, as a URL.
    pub upstream: String,
    /// Who signed the bus's certificate, a file of PEM.
    pub server_ca: Option<String>,
    /// The name in the bus's certificate, where it is not the URL's host.
    pub server_name: Option<String>,
    /// The edge's own certificate and key, files of PEM: as whom the bus knows it.
    pub identity: Option<(String, String)>,
    /// A file with the token that the edge shows, over HTTP.
    pub token_file: Option<String>,
    /// What subscriptions take that say nothing else: of a policy, only the deliveries' settings mean anything here.
    pub defaults: Policy,
}

/// Whether these are the settings of an edge.
pub fn is_edge(settings: &Settings) -> bool {
    settings.get("role").is_some_and(|role| role.trim() == "edge")
}

impl Edge {
    /// Reads the settings of an edge.
    ///
    /// # Errors
    /// Every problem of every setting.
    pub fn from_settings(owner: &str, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut r = Reader::new(owner, settings);
        let role = r.required("role", "say `edge`", setting::word(&[("edge", ())]));
        let upstream = r.required(
            "upstream",
            "say where the bus is, such as `quic://bus.example.org:7762`",
            text,
        );
        let server_ca = r.optional("tls.server-ca", text);
        let server_name = r.optional("tls.server-name", text);
        let certificate = r.optional("tls.certificate", text);
        let key = r.optional("tls.key", text);
        let token_file = r.optional("token-file", text);
        let sizes = setting::number(1, crate::policy::MAX_IN_FLIGHT);
        let batch_size = r.optional("delivery.batch-size", &sizes);
        let concurrency = r.optional("delivery.concurrency", &sizes);
        let deadline = setting::duration(Duration::from_millis(50), Duration::from_secs(3600));
        let deadline = r.optional("delivery.deadline", deadline);
        // Of every instance on a lattice: see `Listening`.
        r.optional(crate::listen::INBOX_PREFIXES, text);
        if certificate.is_some() != key.is_some() {
            r.conflict("`tls.certificate` and `tls.key` go together: set both or none");
        }
        if certificate.is_some() && server_ca.is_none() {
            r.conflict("`tls.certificate` says who the edge is, and `tls.server-ca` whom it trusts: set both");
        }
        let problems = r.finish();
        let defaults = [("bus", "edge"), ("subject", "edge.{tenant}.{event-type}")];
        let defaults: Settings = defaults.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let defaults = Policy::from_settings(owner, &defaults)?;
        match (role, upstream) {
            (Some(()), Some(upstream)) if problems.is_empty() => Ok(Self {
                upstream,
                server_ca,
                server_name,
                identity: certificate.zip(key),
                token_file,
                defaults: Policy {
                    delivery: Delivery {
                        batch_size: batch_size.map_or(defaults.delivery.batch_size, |n| n as u32),
                        concurrency: concurrency.map_or(defaults.delivery.concurrency, |n| n as u32),
                        deadline: deadline.unwrap_or(defaults.delivery.deadline),
                        ..defaults.delivery
                    },
                    ..defaults
                },
            }),
            _ => Err(problems),
        }
    }
}

fn text(s: &str) -> Result<String, Problem> {
    if s.is_empty() {
        return Err(Problem::new(Code::InvalidSetting, "it is empty"));
    }
    Ok(s.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_edge_needs_a_bus_and_has_no_policy() {
        let given = settings(&[
            ("role", "edge"),
            ("upstream", "tcp://127.0.0.1:1"),
            ("delivery.deadline", "2s"),
        ]);
        assert!(is_edge(&given) && !is_edge(&settings(&[("bus", "payments")])));
        let edge = Edge::from_settings("provider", &given).unwrap();
        assert_eq!(edge.upstream, "tcp://127.0.0.1:1");
        assert_eq!(edge.defaults.delivery.deadline, Duration::from_secs(2));
        let bad = settings(&[("role", "edge"), ("bus", "payments"), ("tls.certificate", "c.pem")]);
        let codes: Vec<_> = Edge::from_settings("provider", &bad)
            .unwrap_err()
            .iter()
            .map(|p| p.code)
            .collect();
        assert_eq!(
            codes,
            [
                Code::MissingSetting,
                Code::ConflictingSettings,
                Code::ConflictingSettings,
                Code::UnknownSetting
            ]
        );
    }
}
