//! Where a bus listens beside its lattice, brought to what is said while it runs.

use std::time::Duration;

use fanout_plan::listen::{Listening, TlsFiles};
use fanout_plan::{Code, Problem};
use fanout_transport::{Drained, Endpoint, Error, ListenOptions, Listener, Pem, ServerTls, Service, Serving};
use futures::future::join_all;
use ring::digest::{Context, Digest, SHA256};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::running_bus::DRAIN;

/// How long an address that was left may stay taken, and how often it is tried.
const GIVEN_BACK_IN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The listeners of one bus.
#[derive(Default)]
pub(crate) struct Listeners {
    places: Vec<Place>,
    /// They take no more calls, and end once those under way are answered.
    leaving: JoinSet<Drained>,
}

/// Why it can't listen.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CantListen(pub(crate) Problem);

/// One listener.
struct Place {
    url: String,
    config: ListenerConfig,
    serving: Serving,
}

/// The configuration of a listener besides its URL.
#[derive(Clone, PartialEq, Eq)]
struct ListenerConfig {
    tls: Option<TlsFiles>,
    /// Of what is in the files.
    certificates: Option<Vec<u8>>,
    allow_unauthenticated_network_peers: bool,
}

/// Where a URL leads, and the configuration of its listener.
struct Wanted {
    url: String,
    endpoint: Endpoint,
    config: ListenerConfig,
}

impl Listeners {
    /// Listens there, and nowhere else any more. A listener whose configuration stays goes on with its connections; one that
    /// is to go answers what is under way. An address whose certificates or rules change is left before it is taken anew,
    /// and not before it is known that its configuration can be had.
    ///
    /// # Errors
    /// If something can't be had. Then nothing changes, unless somebody else took an address in the moment between.
    pub(crate) async fn listen(&mut self, listening: &Listening, service: &Service) -> Result<(), CantListen> {
        let wanted: Vec<_> = listening
            .endpoints
            .iter()
            .map(|url| read(url, listening))
            .collect::<Result<_, _>>()?;
        let mut new = Vec::new();
        for Wanted { url, endpoint, config } in &wanted {
            match self.places.iter().find(|p| p.url == *url) {
                Some(place) if place.config == *config => {}
                Some(place) => {
                    let anywhere = place.serving.local_endpoint().with_port(0);
                    drop(bind(url, &anywhere, config).await?);
                }
                None => new.push((url, bind(url, endpoint, config).await?, config)),
            }
        }
        let (mut left, mut again) = (Vec::new(), Vec::new());
        for place in std::mem::take(&mut self.places) {
            let at = place.serving.local_endpoint().clone();
            match wanted.iter().find(|w| w.url == place.url) {
                Some(Wanted { config, .. }) if *config == place.config => self.places.push(place),
                Some(Wanted { config, .. }) => {
                    left.push(place.serving.drain(DRAIN));
                    again.push((place.url, at, config.clone()));
                }
                None => {
                    info!(endpoint = %at, "listening no more");
                    self.leaving.spawn(place.serving.drain(DRAIN));
                }
            }
        }
        for (url, listener, config) in new {
            self.serve(url.clone(), listener, config.clone(), service);
        }
        warn_of(&join_all(left).await);
        let mut all = Ok(());
        for (url, at, config) in again {
            match bind_again(&url, &at, &config).await {
                Ok(listener) => self.serve(url, listener, config, service),
                Err(cant) => all = Err(cant),
            }
        }
        all
    }

    fn serve(&mut self, url: String, listener: Listener, config: ListenerConfig, service: &Service) {
        let serving = listener.serve(service);
        info!(endpoint = %serving.local_endpoint(), "listening");
        self.places.push(Place { url, config, serving });
    }

    /// With the ports that the system chose.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.places.iter().map(|p| p.serving.local_endpoint().clone()).collect()
    }

    /// Takes no more calls, and returns when those under way are answered.
    pub(crate) async fn drain(mut self) {
        for place in self.places {
            self.leaving.spawn(place.serving.drain(DRAIN));
        }
        warn_of(&self.leaving.join_all().await);
    }
}

fn read(url: &str, listening: &Listening) -> Result<Wanted, CantListen> {
    let endpoint: Endpoint = url.parse().map_err(|e| refused(url, Code::InvalidEndpoint, &e))?;
    let tls = listening.tls.clone().filter(|_| endpoint.has_tls());
    let config = ListenerConfig {
        certificates: tls.as_ref().map(fingerprint),
        tls,
        // A Unix socket is of this machine.
        allow_unauthenticated_network_peers: listening.allow_unauthenticated_network_peers
            && endpoint.authority().is_some(),
    };
    Ok(Wanted {
        url: url.to_owned(),
        endpoint,
        config,
    })
}

async fn bind(url: &str, at: &Endpoint, config: &ListenerConfig) -> Result<Listener, CantListen> {
    let options = ListenOptions {
        tls: config.tls.as_ref().map(tls),
        allow_unauthenticated_network_peers: config.allow_unauthenticated_network_peers,
        ..ListenOptions::default()
    };
    let bound: Result<_, Error> = Listener::bind(at, options).await;
    bound.map_err(|e| refused(url, Code::ListenFailed, &e))
}

/// The system gives an address back a moment after its last connection has ended.
async fn bind_again(url: &str, at: &Endpoint, config: &ListenerConfig) -> Result<Listener, CantListen> {
    let until = Instant::now() + GIVEN_BACK_IN;
    loop {
        match bind(url, at, config).await {
            Err(_) if Instant::now() < until => sleep(LOOK_EVERY).await,
            bound => return bound,
        }
    }
}

fn refused(url: &str, code: Code, error: &dyn std::error::Error) -> CantListen {
    let why = error.source().map(|s| format!(" ({s})")).unwrap_or_default();
    CantListen(Problem {
        setting: Some("listen".to_owned()),
        ..Problem::new(code, format!("it can't listen on {url}: {error}{why}"))
    })
}

/// Of all files' contents: a renewed certificate stands where the old one stood. A file that can't be read is found
/// when a listener is bound with it.
fn fingerprint(files: &TlsFiles) -> Vec<u8> {
    let mut whole = Context::new(&SHA256);
    let (ca, crl) = (files.client_ca.as_ref(), files.client_crl.as_ref());
    for path in [Some(&files.certificate), Some(&files.key), ca, crl] {
        let content = path.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        whole.update(&(content.len() as u64).to_be_bytes());
        whole.update(&content);
    }
    let digest: Digest = whole.finish();
    digest.as_ref().to_vec()
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

fn warn_of(drained: &[Drained]) {
    let abandoned: usize = drained.iter().map(|d| d.abandoned).sum();
    if abandoned > 0 {
        warn!(calls = abandoned, "calls were cut off; their callers were told");
    }
}
