//! From the command line's words to a bus.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fanout_client::{Bus, ClientIdentity, ClientTls, Options, Pem};

use crate::args;

pub(crate) async fn connect(to: &args::To) -> Result<Bus> {
    let files = [
        ("--tls-ca", &to.tls_ca),
        ("--tls-certificate", &to.tls_certificate),
        ("--tls-key", &to.tls_key),
    ];
    for (flag, file) in files
        .into_iter()
        .filter_map(|(flag, file)| Some((flag, file.as_ref()?)))
    {
        File::open(file).with_context(|| format!("{flag} {}: can't be read", file.display()))?;
    }
    let pem = |file: &Option<_>| file.clone().map(Pem::File);
    let identity = pem(&to.tls_certificate).zip(pem(&to.tls_key));
    let identity = identity.map(|(certificate, key)| ClientIdentity { certificate, key });
    let mut options = Options::default();
    options.tls = pem(&to.tls_ca).map(|server_ca| ClientTls {
        server_ca,
        identity,
        server_name: to.tls_server_name.clone(),
    });
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
