//! Sessions on everything that is listened on.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use fanout_transport::testing::{RawStream, TestAuthority, raw_stream};
use fanout_transport::{
    CertificateNames, ConnectOptions, Endpoint, Error, Identity, ListenOptions, Listener, Options, Remote, Service,
    raise_open_files,
};
use tempfile::TempDir;

use crate::suite::{Served, Wire};
use crate::support::PATIENCE;

const CALLER: &str = "orders.example";

pub(crate) struct Listening {
    endpoint: Mutex<Endpoint>,
    authority: TestAuthority,
    _directory: TempDir,
}

impl Listening {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            endpoint: Mutex::new(url.parse().expect("an endpoint")),
            authority: TestAuthority::new(),
            _directory: tempfile::tempdir().expect("a directory"),
        }
    }

    pub(crate) fn unix() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            endpoint: Mutex::new(Endpoint::Unix(directory.path().join("bus.sock"))),
            authority: TestAuthority::new(),
            _directory: directory,
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint.lock().expect("no test panics with it").clone()
    }

    pub(crate) fn options(&self, limits: Options) -> ConnectOptions {
        ConnectOptions {
            limits,
            tls: Some(self.authority.client(CALLER)),
            ..ConnectOptions::default()
        }
    }

    pub(crate) fn authority(&self) -> &TestAuthority {
        &self.authority
    }

    /// A stream that speaks no protocol yet.
    pub(crate) async fn raw(&self) -> RawStream {
        raw_stream(&self.endpoint(), &self.options(Options::default()))
            .await
            .expect("a stream")
    }

    /// The same, of a caller with a certificate of this name.
    pub(crate) async fn raw_as(&self, name: &str) -> RawStream {
        let options = ConnectOptions {
            tls: Some(self.authority.client(name)),
            ..self.options(Options::default())
        };
        raw_stream(&self.endpoint(), &options).await.expect("a stream")
    }

    pub(crate) async fn start(&self, service: &Service, options: ListenOptions) -> fanout_transport::Serving {
        // Both ends of all connections are files of this process.
        raise_open_files();
        let options = ListenOptions {
            tls: Some(self.authority.server()),
            ..options
        };
        // The port of a server before this one may be taken for a moment yet.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match Listener::bind(&self.endpoint(), options.clone()).await {
                Ok(listener) => {
                    *self.endpoint.lock().expect("no test panics with it") = listener.local_endpoint().clone();
                    return listener.serve(service);
                }
                Err(error @ Error::Listen { .. }) if tokio::time::Instant::now() < deadline => {
                    tracing::debug!(%error, "not yet");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Wire for Listening {
    async fn serve(&self, service: &Service, options: ListenOptions) -> Box<dyn Served> {
        Box::new(self.start(service, options).await)
    }

    async fn call(&self, limits: Options) -> Result<Remote, Error> {
        Remote::connect(&self.endpoint(), self.options(limits)).await
    }

    fn identity(&self) -> Identity {
        match self.endpoint() {
            Endpoint::Unix(_) => {
                let own = std::fs::metadata("/proc/self").expect("this process");
                Identity::Unix {
                    uid: own.uid(),
                    gid: own.gid(),
                    pid: i32::try_from(std::process::id()).ok(),
                }
            }
            Endpoint::Tcp(_) | Endpoint::Http(_) => Identity::Loopback,
            _ => Identity::Certificate(Arc::new(CertificateNames {
                uris: Vec::new(),
                dns: vec![CALLER.to_owned(), "localhost".to_owned()],
                common_names: vec![CALLER.to_owned()],
            })),
        }
    }
}
