//! Where a bus listens beside its lattice, brought to what is configured while it runs.

use fanout_plan::listen::{Listening, TlsFiles};
use fanout_plan::{Code, Problem};
use fanout_transport::{
    Drained, Endpoint, Error, ListenOptions, Listener, Pem, Renewal, ServerTls, Service, Serving, causes,
};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::bus::DRAIN;

/// The listeners of one bus.
#[derive(Default)]
pub(crate) struct Listeners {
    open: Vec<Open>,
    /// They take no more calls, and end once those under way are answered.
    leaving: JoinSet<Drained>,
}

/// Why it can't listen.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CantListen(pub(crate) Problem);

/// One listener, by the URL that was configured.
struct Open {
    url: String,
    serving: Serving,
}

impl Listeners {
    /// Listens at the configured URLs, and nowhere else any more. A listener that stays reads its certificates again and
    /// goes on with its connections, but for those whose callers it would not let in any more; one that is to go answers
    /// what is under way.
    ///
    /// # Errors
    /// If something can't be had. Then nothing changes.
    pub(crate) async fn listen(&mut self, listening: &Listening, service: &Service) -> Result<(), CantListen> {
        let (mut renewals, mut new) = (Vec::new(), Vec::new());
        for url in &listening.endpoints {
            let endpoint: Endpoint = url
                .parse()
                .map_err(|e| cant_listen(url, Code::InvalidEndpoint, &causes(&e)))?;
            let options = options(listening, &endpoint);
            let failed = |e: Error| cant_listen(url, Code::ListenFailed, &why(listening, &endpoint, &e));
            match self.open.iter().find(|open| open.url == *url) {
                Some(open) => renewals.push(open.serving.read_again(&options).map_err(failed)?),
                None => new.push((url, Listener::bind(&endpoint, options).await.map_err(failed)?)),
            }
        }
        renewals.into_iter().for_each(Renewal::apply);
        for Open { serving, .. } in self
            .open
            .extract_if(.., |open| !listening.endpoints.contains(&open.url))
        {
            info!(endpoint = %serving.local_endpoint(), "listening no more");
            self.leaving.spawn(serving.drain(DRAIN));
        }
        for (url, listener) in new {
            let (url, serving) = (url.clone(), listener.serve(service));
            info!(endpoint = %serving.local_endpoint(), "listening");
            self.open.push(Open { url, serving });
        }
        Ok(())
    }

    /// With the ports that the system chose.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        let endpoints = self.open.iter().map(|open| open.serving.local_endpoint().clone());
        endpoints.collect()
    }

    /// Takes no more calls, and returns when those under way are answered.
    pub(crate) async fn drain(mut self) {
        for Open { serving, .. } in self.open {
            self.leaving.spawn(serving.drain(DRAIN));
        }
        let drained = self.leaving.join_all().await;
        let abandoned: usize = drained.iter().map(|d| d.abandoned).sum();
        if abandoned > 0 {
            warn!(calls = abandoned, "calls were cut off; their callers were notified");
        }
    }
}

fn options(listening: &Listening, endpoint: &Endpoint) -> ListenOptions {
    ListenOptions {
        tls: listening.tls.as_ref().filter(|_| endpoint.has_tls()).map(tls),
        // A Unix socket is of this machine.
        allow_unauthenticated_network_peers: listening.allow_unauthenticated_network_peers
            && endpoint.authority().is_some(),
        ..ListenOptions::default()
    }
}

fn tls(files: &TlsFiles) -> ServerTls {
    let file = |path: &str| Pem::File(path.into());
    ServerTls {
        certificate: file(&files.certificate),
        key: file(&files.key),
        client_ca: files.client_ca.as_deref().map(file),
        client_crl: files.client_crl.as_deref().map(file),
    }
}

/// Why an endpoint can't be listened on, with what to change as it is written.
fn why(listening: &Listening, endpoint: &Endpoint, error: &Error) -> String {
    let written = |setting: &str| listening.written(setting);
    match error {
        Error::Unprotected { .. } => format!(
            "it takes peers of the network that nobody authenticates: use tls, quic or webtransport with {}, or https with \
             tokens, listen on the loopback or a Unix socket, or set {}",
            written("tls.client-ca"),
            written("listen-allow-unauthenticated-network-peers")
        ),
        Error::Misused { .. } if endpoint.has_tls() && listening.tls.is_none() => format!(
            "it needs a certificate and its key: set {} and {}",
            written("tls.certificate"),
            written("tls.key")
        ),
        Error::Misused { .. } if matches!(endpoint, Endpoint::Nats { .. }) => {
            "a lattice is served by a provider on a wasmCloud host: leave it out".to_owned()
        }
        Error::Listen { source, .. } => source.to_string(),
        Error::Tls { what, .. } => match listening.tls.as_ref().and_then(|files| setting_of(files, what)) {
            Some(setting) => format!("{}: see {}", causes(error), written(setting)),
            None => causes(error),
        },
        _ => causes(error),
    }
}

/// The setting of the file that a text ends with.
fn setting_of(files: &TlsFiles, text: &str) -> Option<&'static str> {
    let files = [
        ("tls.certificate", Some(&files.certificate)),
        ("tls.key", Some(&files.key)),
        ("tls.client-ca", files.client_ca.as_ref()),
        ("tls.client-crl", files.client_crl.as_ref()),
    ];
    let found = files
        .into_iter()
        .find(|(_, file)| file.is_some_and(|file| text.ends_with(file.as_str())));
    found.map(|(setting, _)| setting)
}

fn cant_listen(url: &str, code: Code, why: &str) -> CantListen {
    CantListen(Problem {
        setting: Some("listen".to_owned()),
        ..Problem::new(code, format!("it can't listen on {url}: {why}"))
    })
}
