//! Where the components of a run answer over HTTP, on whichever host: [`crate::addresses`] says at which addresses.

use anyhow::Result;

/// One endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    name: &'static str,
    component: &'static str,
    /// A path that answers, and without a server error, when the component and its store work.
    pub(crate) works: &'static str,
    authority: String,
}

impl Endpoint {
    /// What a person calls it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The component behind it, as the manifest calls it.
    pub(crate) fn component(&self) -> &'static str {
        self.component
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
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
    /// Each where its component has its `host:port`.
    pub(crate) fn at(mut authority: impl FnMut(&'static str) -> Result<String>) -> Result<Self> {
        let mut endpoint = |name, component, works| {
            anyhow::Ok(Endpoint {
                name,
                component,
                works,
                authority: authority(component)?,
            })
        };
        Ok(Self {
            ingress: endpoint("ingress", "webhook-ingress", "/")?,
            entitlements: endpoint("entitlements", "entitlements", "/audit")?,
            invoicing: endpoint("invoicing", "invoicing", "/invoices")?,
            analytics: endpoint("analytics", "analytics", "/subscriptions")?,
        })
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Endpoint> {
        [&self.ingress, &self.entitlements, &self.invoicing, &self.analytics].into_iter()
    }
}
