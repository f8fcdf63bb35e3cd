//! From the command line's words to a bus.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap::error::ErrorKind as UsageError;
use fanout_client::{Bus, ClientIdentity, ClientTls, Error, ErrorKind, Options, Pem, SecretFrom};
use fanout_transport::Endpoint;

use crate::args;

pub(crate) async fn connect(to: &args::To) -> Result<Bus> {
    if let Some(wanted) = unused(to) {
        args::Args::command().error(UsageError::ArgumentConflict, wanted).exit();
    }
    let files = [
        ("--tls-ca", &to.tls_ca),
        ("--tls-certificate", &to.tls_certificate),
        ("--tls-key", &to.tls_key),
        ("--token-file", &to.token_file),
    ];
    for (flag, file) in files
        .into_iter()
        .filter_map(|(flag, file)| Some((flag, file.as_ref()?)))
    {
        File::open(file).with_context(|| format!("{flag} {}: can't be read", file.display()))?;
    }
    let pem = |file: &Option<_>| file.clone().map(Pem::File);
    if to.tls_ca.is_none() && needs_an_authority(to.to.expose()) {
        let message = "the bus shows a certificate: say who signed it with `--tls-ca FILE`";
        return Err(refused("invalid-credentials", message.to_owned()).into());
    }
    let identity = pem(&to.tls_certificate).zip(pem(&to.tls_key));
    let identity = identity.map(|(certificate, key)| ClientIdentity { certificate, key });
    let mut options = Options::default();
    options.tls = pem(&to.tls_ca).map(|server_ca| ClientTls {
        server_ca,
        identity,
        server_name: to.tls_server_name.clone(),
    });
    options.token = token(to);
    if to.to.expose().starts_with("nats:") {
        options.nats = to.nats.access()?;
    }
    options.deadline = Duration::from_secs(to.timeout);
    options.waits_for_quota = true;
    if let Some(component) = &to.component {
        options.component.clone_from(component);
    }
    options.link.clone_from(&to.link);
    Ok(fanout_client::connect_with(to.to.expose(), options)
        .await
        .map_err(|e| with_flag(e, to))?)
}

/// What is given and would have no effect on a bus at this URL. What a variable may say for all commands is not looked at, nor is what
/// is no URL, which is told elsewhere.
fn unused(to: &args::To) -> Option<&'static str> {
    let endpoint: Endpoint = to.to.expose().parse().ok()?;
    if to.component.is_some() && !matches!(endpoint, Endpoint::Nats { .. }) {
        return Some("--component is for a bus on a lattice, nats://…: leave it out");
    }
    let is_unused = to.tls_ca.is_some() && !endpoint.has_tls();
    is_unused.then_some("--tls-ca is for a bus that shows a certificate, such as tls://…: leave it out")
}

fn refused(code: &str, message: String) -> Error {
    Error {
        kind: ErrorKind::Invalid,
        code: code.to_owned(),
        message,
    }
}

/// The variable that holds a token itself. No flag does: whoever lists processes reads flags.
const TOKEN: &str = "FANOUT_TOKEN";

/// The token to show. A variable that is set for all commands means nothing for a bus that takes no tokens; a flag does.
fn token(to: &args::To) -> Option<SecretFrom> {
    if let Some(file) = &to.token_file {
        return Some(SecretFrom::File(file.clone()));
    }
    let endpoint: Endpoint = to.to.expose().parse().ok()?;
    let token = std::env::var(TOKEN).ok().filter(|token| !token.is_empty())?;
    endpoint.is_http().then(|| SecretFrom::Value(token.into()))
}

/// Whether the bus at a URL shows a certificate. What is no URL is told elsewhere.
fn needs_an_authority(url: &str) -> bool {
    url.parse::<Endpoint>().is_ok_and(|endpoint| endpoint.has_tls())
}

/// Names the flag whose file or name can't be used.
fn with_flag(error: Error, to: &args::To) -> Error {
    if error.code != "invalid-credentials" {
        return error;
    }
    let shown = |file: &Option<PathBuf>| file.as_ref().map(|file| format!(" {} ", file.display()));
    let flags = [
        ("--tls-ca FILE", shown(&to.tls_ca)),
        ("--tls-certificate FILE", shown(&to.tls_certificate)),
        ("--tls-key FILE", shown(&to.tls_key)),
        ("--token-file FILE", shown(&to.token_file)),
        (
            "--tls-server-name NAME",
            to.tls_server_name.as_ref().map(|name| format!(" {name:?} ")),
        ),
    ];
    let said = |given: &Option<String>| given.as_ref().is_some_and(|given| error.message.contains(given));
    match flags.iter().find(|(_, given)| said(given)) {
        Some((flag, _)) => refused(&error.code, format!("{}: see `{flag}`", error.message)),
        None => error,
    }
}
