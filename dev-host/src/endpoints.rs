//! Where the components of a run answer over HTTP.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result};

/// One endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// What a person calls it.
    pub(crate) name: &'static str,
    /// The id of the component behind it.
    pub(crate) component: &'static str,
    /// Its placeholder in the manifest.
    pub(crate) placeholder: &'static str,
    /// A path that answers, and without a server error, when the component and its store work.
    works: &'static str,
    address: SocketAddr,
}

impl Endpoint {
    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
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
    /// On free ports of the loopback address. Nothing reserves them until the host listens there; the kernel hands out
    /// other ones meanwhile.
    pub(crate) fn free() -> Result<Self> {
        // Held until all four are chosen, so that they differ.
        let listen = || TcpListener::bind("127.0.0.1:0").context("no free loopback port");
        let held = [listen()?, listen()?, listen()?, listen()?];
        let endpoint = |listener: &TcpListener, name, component, placeholder, works| {
            let address = listener.local_addr().context("a listener has no address")?;
            anyhow::Ok(Endpoint {
                name,
                component,
                placeholder,
                works,
                address,
            })
        };
        let [first, second, third, fourth] = &held;
        Ok(Self {
            ingress: endpoint(first, "ingress", "webhook-ingress", "INGRESS_ADDRESS", "/")?,
            entitlements: endpoint(second, "entitlements", "entitlements", "ENTITLEMENTS_ADDRESS", "/audit")?,
            invoicing: endpoint(third, "invoicing", "invoicing", "INVOICING_ADDRESS", "/invoices")?,
            analytics: endpoint(fourth, "analytics", "analytics", "ANALYTICS_ADDRESS", "/subscriptions")?,
        })
    }

    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Endpoint> {
        [&self.ingress, &self.entitlements, &self.invoicing, &self.analytics].into_iter()
    }
}
