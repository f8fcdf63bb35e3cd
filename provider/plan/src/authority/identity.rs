//! By what a caller that is not on the lattice is known, each of its kind: a common name that looks like a URI is a
//! common name.

use std::fmt;

use super::token::TokenHash;
use crate::name::shown;
use crate::{Code, Problem};

/// Names of one connection that a message lists.
const SHOWN: usize = 4;
/// What SPIFFE allows an id, and more than other URIs in certificates need.
const MAX_URI_BYTES: usize = 2048;
/// What DNS takes (RFC 1035, 2.3.4).
const MAX_DNS_BYTES: usize = 253;
/// X.520 says 64 characters; certificates of private authorities have longer ones.
const MAX_COMMON_NAME_BYTES: usize = 256;
/// What `chown` takes for "no user".
const NO_USER: u32 = u32::MAX;

/// One thing that a connection proves of its caller. A connection may prove several, or none: then its caller is nobody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// A URI among the alternative names of a certificate that the listener's authority signed.
    CertificateUri(String),
    /// A DNS name among them, in lower case.
    CertificateDns(String),
    /// A common name of its subject.
    CertificateCommonName(String),
    /// A user of this machine, as its kernel says.
    UnixUser(u32),
    /// Some process of this machine, on a listener that authenticates nobody.
    Loopback,
    /// The holder of a token, over HTTP.
    Token(TokenHash),
}

impl Identity {
    /// A URI of a certificate.
    #[must_use]
    pub fn certificate_uri(uri: &str) -> Self {
        Self::CertificateUri(uri.to_owned())
    }

    /// A DNS name of a certificate: case does not count in one.
    #[must_use]
    pub fn certificate_dns(name: &str) -> Self {
        Self::CertificateDns(name.to_ascii_lowercase())
    }

    /// A common name of a certificate.
    #[must_use]
    pub fn certificate_cn(name: &str) -> Self {
        Self::CertificateCommonName(name.to_owned())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CertificateUri(uri) => write!(f, "certificate URI {}", shown(uri)),
            Self::CertificateDns(name) => write!(f, "certificate DNS name {}", shown(name)),
            Self::CertificateCommonName(name) => write!(f, "certificate common name {}", shown(name)),
            Self::UnixUser(uid) => write!(f, "unix user {uid}"),
            Self::Loopback => f.write_str("a process of this machine without a name"),
            Self::Token(hash) => write!(f, "the holder of the token whose SHA-256 begins with {hash}"),
        }
    }
}

/// For messages: what a connection proves of its caller.
pub(super) fn describe(identities: &[Identity]) -> String {
    let listed: Vec<_> = identities.iter().take(SHOWN).map(ToString::to_string).collect();
    match identities.len().checked_sub(SHOWN) {
        Some(more @ 1..) => format!("{} and {more} more names", listed.join(", ")),
        _ => listed.join(", "),
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Code::InvalidSetting, message)
}

pub(super) fn uri(s: &str) -> Result<Identity, Problem> {
    let scheme = s.split_once(':').map(|(scheme, _)| scheme);
    let is_scheme = scheme.is_some_and(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    if is_scheme && s.len() <= MAX_URI_BYTES && s.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Identity::certificate_uri(s));
    }
    Err(invalid(format!(
        "{} is no URI: write one of the certificate's, such as `spiffe://example.org/billing`; a DNS name belongs in `certificate-dns`, a common name in `certificate-cn`",
        shown(s)
    )))
}

pub(super) fn dns(s: &str) -> Result<Identity, Problem> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if s.len() <= MAX_DNS_BYTES && s.split('.').all(is_label) {
        return Ok(Identity::certificate_dns(s));
    }
    Err(invalid(format!(
        "{} is no DNS name: write one of the certificate's in full, such as `billing.example.org`, without a wildcard; a URI belongs in `certificate-uri`, a common name in `certificate-cn`",
        shown(s)
    )))
}

pub(super) fn common_name(s: &str) -> Result<Identity, Problem> {
    if (1..=MAX_COMMON_NAME_BYTES).contains(&s.len()) && !s.chars().any(char::is_control) {
        return Ok(Identity::certificate_cn(s));
    }
    Err(invalid(format!(
        "{} is no common name: write the certificate's, with at most {MAX_COMMON_NAME_BYTES} bytes",
        shown(s)
    )))
}

pub(super) fn unix_user(s: &str) -> Result<Identity, Problem> {
    let uid = crate::setting::number(0, u64::from(NO_USER) - 1)(s)?;
    Ok(Identity::UnixUser(u32::try_from(uid).unwrap_or(NO_USER)))
}

/// The setting that took names of every kind until they were told apart.
pub(super) const EVERY_KIND: &str = "certificate";

/// Why a name without a kind is no identity, and which setting its owner probably means.
pub(super) fn without_a_kind(name: &str) -> String {
    let which = if uri(name).is_ok() {
        "`certificate-uri`, as it looks like a URI of the certificate"
    } else if name.contains('.') && dns(name).is_ok() {
        "`certificate-dns` if it is a DNS name of the certificate, `certificate-cn` if it is only its common name"
    } else {
        "`certificate-cn` if it is the common name of the certificate, `certificate-dns` if it is a DNS name"
    };
    format!(
        "setting `{EVERY_KIND}` does not tell what kind of name {} is: write {which}",
        shown(name)
    )
}
