//! The TLS settings of a listener and of a caller: TLS 1.3, and nothing before it.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

use crate::stream::pem::Pem;

/// The protocols that a listener names to a TLS peer. One that names another is refused: it meant something else.
pub(crate) const ALPNS: [&[u8]; 2] = [ALPN_SESSION, ALPN_STOCK];
/// The protocol of `https`. HTTP/2 is not spoken: see docs/adr/0031.
pub(crate) const ALPN_HTTP: &[u8] = b"http/1.1";
/// What a caller of sessions names.
pub(crate) const ALPN_SESSION: &[u8] = b"fanout";
/// What a caller that speaks as stock wRPC names.
const ALPN_STOCK: &[u8] = b"wrpc";

/// What a listener shows, and whom it takes.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The chain, the listener's own certificate first.
    pub certificate: Pem,
    /// The key of the first.
    pub key: Pem,
    /// The authorities of callers. With it a caller without a certificate of theirs is refused, and each call has
    /// the names of its certificate. Without it anyone may call, over an encrypted connection.
    pub client_ca: Option<Pem>,
    /// What those authorities have revoked: a list of each of them, as PEM or (in a file) DER. A caller whose
    /// authority has no list in it is refused.
    pub client_crl: Option<Pem>,
}

/// Whom a caller trusts, and what it shows.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The authorities of servers.
    pub server_ca: Pem,
    /// What this caller shows, if the server requests it.
    pub identity: Option<ClientIdentity>,
    /// The name that the server's certificate must have, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

/// A caller's certificate.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The chain, the caller's own certificate first.
    pub certificate: Pem,
    /// The key of the first.
    pub key: Pem,
}

/// The cryptography of both ends.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
