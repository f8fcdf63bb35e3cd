//! Where the components of a run answer over HTTP: at one port, by the names of their manifests.

use anyhow::Result;
use fanout_v2::{Application, INGRESS};

/// One endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    name: String,
    base: String,
    /// A path that answers, and without a server error, when the component and its store work.
    works: &'static str,
}

impl Endpoint {
    /// The workload behind it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// How a person asks it: the name is no name of DNS here.
    pub(crate) fn try_it(&self) -> String {
        let (host, port) = self
            .base
            .trim_start_matches("http://")
            .split_once(':')
            .unwrap_or_default();
        format!("curl -H 'host: {host}' http://127.0.0.1:{port}{}", self.works)
    }

    /// The URL that answers when it works.
    pub(crate) fn probe(&self) -> String {
        self.url(self.works)
    }
}

/// All of them.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub(crate) ingress: Endpoint,
    pub(crate) entitlements: Endpoint,
    pub(crate) invoicing: Endpoint,
    pub(crate) analytics: Endpoint,
}

impl Endpoints {
    /// Those of an application whose host listens at `port`.
    pub(crate) fn of(application: &Application, port: u16) -> Result<Self> {
        let endpoint = |name: &str, works| {
            anyhow::Ok(Endpoint {
                base: format!("http://{}:{port}", application.host(name)?),
                name: name.to_owned(),
                works,
            })
        };
        Ok(Self {
            ingress: endpoint(INGRESS, "/")?,
            entitlements: endpoint("entitlements", "/audit")?,
            invoicing: endpoint("invoicing", "/invoices")?,
            analytics: endpoint("analytics", "/subscriptions")?,
        })
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Endpoint> {
        [&self.ingress, &self.entitlements, &self.invoicing, &self.analytics].into_iter()
    }
}
