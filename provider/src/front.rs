//! What every way of running a bus shares, whether a wasmCloud host started it or a person did: keeping the bus, one
//! service of the contract's functions on every listener, and an end that loses no call.

use std::time::Duration;

use fanout_plan::listen::{Listening, TlsFiles};
use fanout_plan::{Code, Problem};
use fanout_transport::{Drained, Endpoint, Error, ListenOptions, Listener, Pem, ServerTls, Service, Serving};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{info, warn};

use crate::bus::Bus;
use crate::wrpc;

/// How long calls and deliveries under way may take when the bus is asked to stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// A bus that is kept and served.
pub(crate) struct Front {
    pub(crate) bus: Bus,
    pub(crate) service: Service,
    kept: [JoinHandle<()>; 3],
    serving: Vec<Place>,
    /// Listeners that take no more calls, until those under way are answered.
    leaving: JoinSet<Drained>,
}

/// A listener, and what it was told.
struct Place {
    url: String,
    tls: Option<TlsFiles>,
    allow_unauthenticated_network_peers: bool,
    serving: Serving,
}

impl Place {
    /// Whether it is still what is wanted.
    fn is_in(&self, listening: &Listening) -> bool {
        listening.endpoints.contains(&self.url)
            && listening.tls == self.tls
            && listening.allow_unauthenticated_network_peers == self.allow_unauthenticated_network_peers
    }
}

/// Why it can't listen.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CantListen(pub(crate) Problem);

impl Front {
    /// Begins to keep the bus, and waits until it can answer.
    pub(crate) async fn start(bus: Bus) -> Result<Self, Error> {
        let kept = [
            tokio::spawn(bus.clone().keep()),
            tokio::spawn(bus.clone().watch_registry()),
            tokio::spawn(crate::gap::watch(bus.clone())),
        ];
        bus.settled().await;
        Ok(Self {
            service: wrpc::service(bus.clone()).await?,
            bus,
            kept,
            serving: Vec::new(),
            leaving: JoinSet::new(),
        })
    }

    /// Listens there, and nowhere else any more. A listener that is told nothing new goes on with its connections; one that
    /// is to go answers what is under way. An address whose certificates or rules change is left before it is taken anew.
    ///
    /// # Errors
    /// If one can't be had. What listened goes on then, but for an address that was left to be taken anew.
    pub(crate) async fn listen(&mut self, listening: &Listening) -> Result<(), CantListen> {
        let has = |serving: &[Place], url: &String| serving.iter().any(|p| p.url == *url);
        let urls = &listening.endpoints;
        let new = urls.iter().filter(|url| !has(&self.serving, url));
        let mut bound = self.bind(listening, new).await?;

        let (stay, go): (Vec<_>, Vec<_>) = self.serving.drain(..).partition(|p| p.is_in(listening));
        self.serving = stay;
        self.serving.append(&mut bound);
        let mut left = Vec::new();
        for Place { url, serving, .. } in go {
            info!(endpoint = %serving.local_endpoint(), "listening no more");
            if urls.contains(&url) {
                left.push(serving.drain(DRAIN));
            } else {
                self.leaving.spawn(serving.drain(DRAIN));
            }
        }
        warn_of(&futures::future::join_all(left).await);

        let again = urls.iter().filter(|url| !has(&self.serving, url));
        let mut bound = self.bind(listening, again).await?;
        self.serving.append(&mut bound);
        Ok(())
    }

    /// All of these or none: what was bound before a failure is let go.
    async fn bind(&self, listening: &Listening, urls: impl Iterator<Item = &String>) -> Result<Vec<Place>, CantListen> {
        let mut bound = Vec::new();
        for url in urls {
            let refused = |code, e: &dyn std::error::Error| {
                let why = e.source().map(|s| format!(" ({s})")).unwrap_or_default();
                CantListen(Problem {
                    setting: Some("listen".to_owned()),
                    ..Problem::new(code, format!("it can't listen on {url}: {e}{why}"))
                })
            };
            let endpoint: Endpoint = url.parse().map_err(|e| refused(Code::InvalidSetting, &e))?;
            let options = ListenOptions {
                tls: listening.tls.as_ref().map(tls),
                allow_unauthenticated_network_peers: listening.allow_unauthenticated_network_peers,
                ..ListenOptions::default()
            };
            let listener = Listener::bind(&endpoint, options)
                .await
                .map_err(|e| refused(Code::ListenFailed, &e))?;
            bound.push((url.clone(), listener));
        }
        let place = |(url, listener): (String, Listener)| {
            let serving = listener.serve(&self.service);
            info!(endpoint = %serving.local_endpoint(), "listening");
            Place {
                url,
                tls: listening.tls.clone(),
                allow_unauthenticated_network_peers: listening.allow_unauthenticated_network_peers,
                serving,
            }
        };
        Ok(bound.into_iter().map(place).collect())
    }

    /// Where it listens, with the ports that the system chose.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.serving
            .iter()
            .map(|p| p.serving.local_endpoint().clone())
            .collect()
    }

    /// Stops: calls and deliveries under way end, and their callers are answered.
    pub(crate) async fn stop(self) {
        for task in self.kept {
            task.abort();
        }
        let mut leaving = self.leaving;
        for place in self.serving {
            leaving.spawn(place.serving.drain(DRAIN));
        }
        let (drained, ()) = tokio::join!(leaving.join_all(), self.bus.stop());
        warn_of(&drained);
    }
}

fn warn_of(drained: &[Drained]) {
    let abandoned: usize = drained.iter().map(|d| d.abandoned).sum();
    if abandoned > 0 {
        warn!(calls = abandoned, "calls were cut off; their callers were told");
    }
}

fn tls(files: &TlsFiles) -> ServerTls {
    let file = |path: &str| Pem::File(path.into());
    ServerTls {
        certificate: file(&files.certificate),
        key: file(&files.key),
        client_ca: files.client_ca.as_deref().map(file),
    }
}

/// SIGTERM or Ctrl-C.
pub(crate) async fn told_to_end() {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
