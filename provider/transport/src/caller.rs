//! Who calls, and how that is known.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Longest id of a component or link that is taken.
pub(crate) const MAX_ID_BYTES: usize = 256;
const MAX_TRACEPARENT_BYTES: usize = 128;
const MAX_TRACESTATE_BYTES: usize = 512;

/// What a handler knows of its caller. What the caller may do is up to the handler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// How the caller is known. It comes from the connection, never from what the caller writes into a call.
    pub identity: Identity,
    /// The id of the calling component or provider, as it claims: see [`Identity::Lattice`]. Empty if it claims
    /// none, and for every caller that is not on the lattice.
    pub component: String,
    /// The name of the link that it claims to call by.
    pub link: String,
    /// The caller's W3C trace context.
    pub traceparent: Option<String>,
    /// What goes with `traceparent`.
    pub tracestate: Option<String>,
}

/// How a caller is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// Not at all: its connection proves nothing of it. Whoever shows a certificate without a name is nobody too.
    #[default]
    Nobody,
    /// It may publish on the lattice. The lattice does not authenticate more: whoever may can write any component and
    /// link. Checking that there is such a link is up to the handler.
    Lattice,
    /// A process of this machine, as its kernel reports.
    Unix {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// The process, where the kernel reports it.
        pid: Option<i32>,
    },
    /// The holder of a certificate that the listener's `client_ca` signed, by at least one name.
    Certificate(Arc<CertificateNames>),
    /// A process of this machine, on a listener that authenticates nobody: the peer's address is of the loopback.
    Loopback,
    /// The holder of a token that the service's guard knows, on HTTP.
    Token(Arc<TokenProof>),
}

/// What a call with a token proves: the token, and what its connection proves beside it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenProof {
    /// The SHA-256 of the token. The token itself is kept nowhere.
    pub sha256: [u8; 32],
    /// The names of the certificate that the connection's peer showed. A handler judges both: neither stands for the other.
    pub certificate: Option<Arc<CertificateNames>>,
}

/// The names in a certificate, each of its kind: whoever signs common names without care may not give out URIs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateNames {
    /// URIs of its subject alternative names.
    pub uris: Vec<String>,
    /// DNS names of its subject alternative names.
    pub dns: Vec<String>,
    /// Common names of its subject.
    pub common_names: Vec<String>,
}

impl CertificateNames {
    fn first(&self) -> &str {
        let mut all = self.uris.iter().chain(&self.dns).chain(&self.common_names);
        all.next().map_or("", String::as_str)
    }
}

/// Bytes of a token's hash that are shown: enough to find its line in a policy.
const SHOWN_HASH_BYTES: usize = 4;

impl TokenProof {
    fn shown(&self) -> String {
        let bytes = self.sha256.iter().take(SHOWN_HASH_BYTES);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for TokenProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenProof")
            .field("sha256", &self.shown())
            .field("certificate", &self.certificate)
            .finish()
    }
}

impl Identity {
    /// What a peer's address proves on a listener that authenticates nobody.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        match address.to_canonical().is_loopback() {
            true => Self::Loopback,
            false => Self::Nobody,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Lattice => f.write_str("lattice"),
            Self::Unix { uid, gid, .. } => write!(f, "unix:{uid}:{gid}"),
            Self::Certificate(names) => write!(f, "certificate:{}", names.first()),
            Self::Loopback => f.write_str("loopback"),
            Self::Token(token) => write!(f, "token:{}", token.shown()),
        }
    }
}

impl Caller {
    /// A caller on a connection.
    pub(crate) fn known_as(identity: Identity) -> Self {
        Self {
            identity,
            link: "default".to_owned(),
            ..Self::default()
        }
    }
}

/// A trace context that a caller gave, or that came from elsewhere, if it is one (W3C Trace Context, `traceparent`): a
/// version, a trace, a parent and flags in lowercase hexadecimal digits, with `-` between; neither trace nor parent is all
/// zeros. A later version than 00 may go on after another `-`. Anything else is no trace context and goes no further.
#[must_use]
pub fn traceparent(value: &str) -> Option<&str> {
    const LENGTH: usize = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".len();
    let (fields, rest) = value.split_at_checked(LENGTH)?;
    let mut fields = fields.split('-');
    let mut hex = |digits: usize| {
        let legal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        fields
            .next()
            .filter(|field| field.len() == digits && field.bytes().all(legal))
    };
    let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let zero = |field: &str| field.bytes().all(|b| b == b'0');
    let ends = match version {
        "ff" => false,
        "00" => rest.is_empty(),
        _ => rest.is_empty() || (rest.starts_with('-') && rest.bytes().all(|b| b.is_ascii_graphic())),
    };
    (ends && value.len() <= MAX_TRACEPARENT_BYTES && !zero(trace) && !zero(parent)).then_some(value)
}

/// What goes with a `traceparent`: printable ASCII, of a bounded length.
pub(crate) fn tracestate(value: Option<&str>) -> Option<String> {
    let printable = |b: u8| b == b' ' || b == b'\t' || b.is_ascii_graphic();
    value
        .filter(|v| (1..=MAX_TRACESTATE_BYTES).contains(&v.len()) && v.bytes().all(printable))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trace_context_is_taken() {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let later = format!("cc{}", &TRACE[2..]);
        for good in [TRACE.to_owned(), later.clone(), format!("{later}-what-ever")] {
            assert_eq!(traceparent(&good), Some(good.as_str()));
        }
        for bad in [
            String::new(),
            TRACE[1..].to_owned(),
            format!("{TRACE}-"),
            format!("{TRACE}\r\nNats-Rollup: all"),
            format!("{later}\r\nNats-Rollup: all"),
            format!("{later}-\u{1}"),
            format!("{later}x"),
            format!("{later}-{}", "x".repeat(100)),
            format!("ff{}", &TRACE[2..]),
            TRACE.to_uppercase(),
            TRACE.replace('-', "_"),
            TRACE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            TRACE.replace("b7ad6b7169203331", &"0".repeat(16)),
            TRACE.replace("b7ad6b7169203331", "b7ad6b716920333g"),
            TRACE.replace("19c-b", "19-cb"),
            format!("{}é", &TRACE[..53]),
            format!("{}é1", &TRACE[..53]),
            "0".repeat(129),
        ] {
            assert_eq!(traceparent(&bad), None, "{bad:?}");
        }
        assert_eq!(tracestate(Some("a=1\r\nb: c")), None);
        let state = "rojo=00f067aa0ba902b7,congo=t61";
        assert_eq!(tracestate(Some(state)).as_deref(), Some(state));
    }

    #[test]
    fn only_this_machine_is_the_loopback() {
        for (address, identity) in [
            ("127.0.0.1", Identity::Loopback),
            ("127.9.8.7", Identity::Loopback),
            ("::1", Identity::Loopback),
            ("::ffff:127.0.0.1", Identity::Loopback),
            ("::ffff:10.0.0.1", Identity::Nobody),
            ("10.0.0.1", Identity::Nobody),
            ("0.0.0.0", Identity::Nobody),
            ("::", Identity::Nobody),
            ("fe80::1", Identity::Nobody),
        ] {
            assert_eq!(
                Identity::of_address(address.parse().expect("an address")),
                identity,
                "{address}"
            );
        }
    }
}
