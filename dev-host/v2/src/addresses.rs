//! Where endpoints are on a v2 host: all at one port, by the names of their manifests.

use anyhow::Result;
use fanout_v2::Application;

use crate::endpoints::{Endpoint, Endpoints};

/// Those of an application whose host listens at `port`.
pub(crate) fn of(application: &Application, port: u16) -> Result<Endpoints> {
    Endpoints::at(|component| Ok(format!("{}:{port}", application.host(component)?)))
}

/// How a person asks one: the name is no name of DNS here.
pub(crate) fn try_it(endpoint: &Endpoint) -> String {
    let (host, port) = endpoint.authority().split_once(':').unwrap_or_default();
    format!("curl -H 'host: {host}' http://127.0.0.1:{port}{}", endpoint.works)
}
