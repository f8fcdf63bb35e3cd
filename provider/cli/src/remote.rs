//! From the command line's words to a bus.

use std::time::Duration;

use anyhow::{Result, bail};
use fanout_client::{Bus, ClientIdentity, ClientTls, Options, Pem};

use crate::args;

pub(crate) async fn connect(to: &args::To) -> Result<Bus> {
    let identity = match (&to.tls_certificate, &to.tls_key) {
        (Some(certificate), Some(key)) => Some(ClientIdentity {
            certificate: Pem::File(certificate.clone()),
            key: Pem::File(key.clone()),
        }),
        (None, None) => None,
        _ => bail!("--tls-certificate and --tls-key go together: give both or none"),
    };
    let tls = match (&to.tls_ca, identity) {
        (Some(ca), identity) => Some(ClientTls {
            server_ca: Pem::File(ca.clone()),
            identity,
            server_name: to.tls_server_name.clone(),
        }),
        (None, Some(_)) => bail!("--tls-certificate says who calls, and --tls-ca whom to trust: give both"),
        (None, None) => None,
    };
    let mut options = Options::default();
    options.tls = tls;
    if to.to.expose().starts_with("nats:") {
        options.nats = to.nats.access()?;
    }
    options.deadline = Duration::from_secs(to.timeout);
    if let Some(component) = &to.component {
        options.component.clone_from(component);
    }
    options.link.clone_from(&to.link);
    Ok(fanout_client::connect_with(to.to.expose(), options).await?)
}
