//! Where a bus listens or is reached, parsed once from a URL.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

/// Longest URL that is taken.
const MAX_URL_BYTES: usize = 2048;
/// What DNS takes (RFC 1035, 2.3.4), as it is written in ASCII: names of other letters become longer.
const MAX_HOST_BYTES: usize = 253;
/// Longest path that is taken, as it is escaped.
const MAX_PATH_BYTES: usize = 1024;
/// Of a text that is no endpoint.
const MAX_SHOWN_CHARS: usize = 256;
/// What `sockaddr_un` takes, its terminator left out.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Where to listen, or whom to call.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `tcp://host:port`: neither encrypted nor authenticated.
    Tcp(Authority),
    /// `tls://host:port`, also written `tcp+tls://`: TCP with TLS 1.3.
    Tls(Authority),
    /// `unix:/path/of/socket`: this machine only, with the peer's user from the kernel.
    Unix(PathBuf),
    /// `quic://host:port`.
    Quic(Authority),
    /// `webtransport://host:port/path`: QUIC that passes where only HTTP/3 does.
    WebTransport(Authority, UrlPath),
    /// `http://host:port`: HTTP/1.1, neither encrypted nor authenticated but by tokens on this machine.
    Http(Authority),
    /// `https://host:port`: HTTP/1.1 with TLS 1.3.
    Https(Authority),
    /// `nats://host:port?target={lattice}.{component or provider id}`: a target on a lattice, for callers only.
    Nats {
        /// One server, or several of a cluster with commas between them.
        servers: String,
        /// What is called.
        target: String,
    },
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    host: String,
    port: u16,
}

/// The path of an HTTP request; `/` unless the URL names one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlPath(String);

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is no endpoint: {why}")]
pub struct EndpointError {
    url: String,
    why: &'static str,
}

impl EndpointError {
    /// The stable code of this error; see `docs/errors/`.
    pub const CODE: &'static str = "invalid-endpoint";
}

impl Authority {
    /// A host, by name or address (an IPv6 address without brackets), and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// The host's name or address, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the system choose one to listen on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// True if it names this machine and nothing else.
    pub(crate) fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

impl UrlPath {
    /// The path, from its `/` on.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Endpoint {
    /// The scheme that it is written with.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Tls(_) => "tls",
            Self::Unix(_) => "unix",
            Self::Quic(_) => "quic",
            Self::WebTransport(..) => "webtransport",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Nats { .. } => "nats",
        }
    }

    /// Host and port, unless it is a Unix socket or a lattice.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Tcp(authority)
            | Self::Tls(authority)
            | Self::Quic(authority)
            | Self::WebTransport(authority, _)
            | Self::Http(authority)
            | Self::Https(authority) => Some(authority),
            Self::Unix(_) | Self::Nats { .. } => None,
        }
    }

    /// True if peers show certificates.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        matches!(
            self,
            Self::Tls(_) | Self::Quic(_) | Self::WebTransport(..) | Self::Https(_)
        )
    }

    /// True if it is called by HTTP, where callers may show tokens.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Https(_))
    }

    /// The same with another port; a Unix socket and a lattice have none.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        let mut endpoint = self.clone();
        match &mut endpoint {
            Self::Tcp(authority)
            | Self::Tls(authority)
            | Self::Quic(authority)
            | Self::WebTransport(authority, _)
            | Self::Http(authority)
            | Self::Https(authority) => authority.port = port,
            Self::Unix(_) | Self::Nats { .. } => {}
        }
        endpoint
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|why| EndpointError {
            // No secret is shown: a URL of NATS may hold a password.
            url: redacted(text).chars().take(MAX_SHOWN_CHARS).collect(),
            why,
        })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    if text.len() > MAX_URL_BYTES {
        return Err("it is longer than 2048 bytes");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("it holds a blank or a control character");
    }
    let (scheme, rest) = text.split_once(':').ok_or(
        "it has no scheme; write tcp://, tls://, unix:, quic://, webtransport://, http://, https:// or nats://",
    )?;
    match scheme {
        "unix" => unix(rest),
        "nats" => nats(rest),
        "tcp" => Ok(Endpoint::Tcp(host_and_port(rest)?)),
        "tls" | "tcp+tls" => Ok(Endpoint::Tls(host_and_port(rest)?)),
        "quic" => Ok(Endpoint::Quic(host_and_port(rest)?)),
        "webtransport" => with_path(rest).map(|(authority, path)| Endpoint::WebTransport(authority, path)),
        "http" => Ok(Endpoint::Http(host_and_port(rest)?)),
        "https" => Ok(Endpoint::Https(host_and_port(rest)?)),
        "ws" | "wss" => Err("WebSocket is not served: where only HTTP passes, write https://host:port"),
        _ => Err("its scheme is none of tcp, tls, unix, quic, webtransport, http, https and nats"),
    }
}

fn unix(rest: &str) -> Result<Endpoint, &'static str> {
    let path = match rest.strip_prefix("//") {
        // One slash is enough, and more would read as a host when it is written again.
        Some(path) if path.starts_with('/') => path.trim_start_matches('/'),
        Some(_) => return Err("a socket's path has no host before it; write unix:/path"),
        None => rest,
    };
    let path = match rest.starts_with('/') {
        true => format!("/{}", path.trim_start_matches('/')),
        false => path.to_owned(),
    };
    match path.len() {
        0 => Err("it names no path; write unix:/path"),
        length if length > MAX_SOCKET_PATH_BYTES => Err("a socket's path has at most 107 bytes"),
        _ => Ok(Endpoint::Unix(path.into())),
    }
}

fn nats(rest: &str) -> Result<Endpoint, &'static str> {
    const SHAPE: &str = "write nats://host:port?target={lattice}.{component or provider id}";
    let (servers, query) = rest
        .strip_prefix("//")
        .and_then(|rest| rest.split_once('?'))
        .ok_or(SHAPE)?;
    let target = query.strip_prefix("target=").ok_or(SHAPE)?;
    let token = |token: &str| !token.is_empty() && token.chars().all(|c| c.is_alphanumeric() || "-_".contains(c));
    if servers.is_empty()
        || servers.contains(['/', '#'])
        || target.split('.').count() < 2
        || !target.split('.').all(token)
    {
        return Err(SHAPE);
    }
    Ok(Endpoint::Nats {
        servers: servers.to_owned(),
        target: target.to_owned(),
    })
}

/// What follows the scheme and its colon.
fn url(rest: &str) -> Result<(Url, Authority), &'static str> {
    let rest = rest.strip_prefix("//").ok_or("its host comes after ://")?;
    // Schemes that the URL standard does not know get other rules for hosts.
    let url = Url::parse(&format!("http://{rest}")).map_err(|_| "it is no URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it may not hold a user or a password: callers are known by certificates, and on http and https by tokens",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it may not have a query or a fragment");
    }
    let port = port(rest).ok_or("it needs a port, such as :7761")?;
    let host = url.host_str().ok_or("it names no host")?;
    if host.len() > MAX_HOST_BYTES {
        return Err("its host is longer than 253 bytes");
    }
    if url.path().len() > MAX_PATH_BYTES {
        return Err("its path is longer than 1024 bytes");
    }
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((url, Authority { host, port }))
}

/// The port as it is written: a URL leaves out that of HTTP.
fn port(rest: &str) -> Option<u16> {
    let authority = rest.split(['/', '\\']).next()?;
    let (_, port) = authority.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse().ok()).flatten()
}

fn host_and_port(rest: &str) -> Result<Authority, &'static str> {
    let (url, authority) = url(rest)?;
    match url.path() {
        "" | "/" => Ok(authority),
        _ => Err("it may not have a path"),
    }
}

fn with_path(rest: &str) -> Result<(Authority, UrlPath), &'static str> {
    let (url, authority) = url(rest)?;
    Ok((authority, UrlPath(url.path().to_owned())))
}

/// A URL without what stands before an `@`.
fn redacted(text: &str) -> String {
    match text.rsplit_once('@') {
        None => text.to_owned(),
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://[redacted]@{host}"),
            None => format!("[redacted]@{host}"),
        },
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for UrlPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == "/" { "" } else { &self.0 })
    }
}

/// Without passwords; otherwise it parses to the same endpoint.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme();
        match self {
            Self::Tcp(authority)
            | Self::Tls(authority)
            | Self::Quic(authority)
            | Self::Http(authority)
            | Self::Https(authority) => write!(f, "{scheme}://{authority}"),
            Self::WebTransport(authority, path) => write!(f, "{scheme}://{authority}{path}"),
            Self::Unix(path) => write!(f, "{scheme}:{}", path.display()),
            Self::Nats { servers, target } => f.write_str(&redacted(&format!("{scheme}://{servers}?target={target}"))),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
