//! What every way of running a bus shares, whether a wasmCloud host started it or a person did: keeping the bus, one
//! service of the contract's functions on every listener, and an end that loses no call.

use std::time::Duration;

use fanout_plan::listen::{Listening, TlsFiles};
use fanout_plan::{Code, Problem};
use fanout_transport::{Endpoint, Error, ListenOptions, Listener, Pem, ServerTls, Service, Serving};
use tokio::task::JoinHandle;
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
    serving: Vec<Serving>,
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
        })
    }

    /// Listens. All or nothing: what was bound before a failure is let go.
    pub(crate) async fn listen(&mut self, listening: &Listening) -> Result<(), CantListen> {
        let mut bound = Vec::new();
        for url in &listening.endpoints {
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
            bound.push(listener);
        }
        for listener in bound {
            let serving = listener.serve(&self.service);
            info!(endpoint = %serving.local_endpoint(), "listening");
            self.serving.push(serving);
        }
        Ok(())
    }

    /// Where it listens, with the ports that the system chose.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.serving.iter().map(|s| s.local_endpoint().clone()).collect()
    }

    /// Stops: calls and deliveries under way end, and their callers are answered.
    pub(crate) async fn stop(self) {
        for task in self.kept {
            task.abort();
        }
        let drains = futures::future::join_all(self.serving.into_iter().map(|s| s.drain(DRAIN)));
        let (drained, ()) = tokio::join!(drains, self.bus.stop());
        let abandoned: usize = drained.iter().map(|d| d.abandoned).sum();
        if abandoned > 0 {
            warn!(calls = abandoned, "calls were cut off; their callers were told");
        }
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
