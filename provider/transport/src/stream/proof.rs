//! What a connection proves of its peer, and until when.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::Identity;
use crate::caller::CertificateNames;

/// Longest name of a certificate that identifies a caller: what SPIFFE allows an id.
const MAX_NAME_BYTES: usize = 2048;
/// Names of one kind that identify a caller; public authorities sign a hundred.
const MAX_NAMES: usize = 128;

/// What a connection proves of its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) identity: Identity,
    /// The last moment at which the peer's certificate holds; `None` for a peer that is known without one.
    pub(crate) not_after: Option<SystemTime>,
    /// The peer's certificate and those that lead to its authority.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl From<Identity> for Proof {
    fn from(identity: Identity) -> Self {
        Self {
            identity,
            not_after: None,
            chain: Vec::new(),
        }
    }
}

impl Proof {
    /// The proof of a verified chain. A certificate without a usable name is nobody's; `None` for one that can't be read
    /// here, whatever the verifier thought of it.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
        let usable = |name: &&str| (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
        let mut names = CertificateNames::default();
        let alternative = certificate.subject_alternative_name().ok()?;
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            let (of_its_kind, name) = match name {
                GeneralName::URI(name) => (&mut names.uris, *name),
                GeneralName::DNSName(name) => (&mut names.dns, *name),
                _ => continue,
            };
            if usable(&name) && of_its_kind.len() < MAX_NAMES {
                of_its_kind.push(name.to_owned());
            }
        }
        let common_names = certificate.subject().iter_common_name();
        let common_names = common_names.filter_map(|name| name.as_str().ok()).filter(usable);
        names.common_names = common_names.take(MAX_NAMES).map(str::to_owned).collect();
        Some(Self {
            identity: match names == CertificateNames::default() {
                true => Identity::Nobody,
                false => Identity::Certificate(Arc::new(names)),
            },
            not_after: Some(instant(certificate.validity().not_after.timestamp())),
            chain: chain.iter().map(|it| it.clone().into_owned()).collect(),
        })
    }
}

/// A time before 1970 is over as much as 1970 is.
pub(crate) fn instant(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
}

/// Why a chain that was verified proves nothing here.
pub(crate) fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its certificate can't be read")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: Option<&str>, alternatives: &[SanType]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").into()
    }

    #[test]
    fn a_certificate_tells_every_name_by_its_kind() {
        let dns = |name: &str| SanType::DnsName(name.try_into().expect("a name"));
        let uri = |name: &str| SanType::URI(name.try_into().expect("a name"));
        let known =
            |certificate: CertificateDer<'static>| Proof::of_chain(&[certificate]).expect("it can be read").identity;
        let names = |uris: &[&str], dns: &[&str], common_names: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            Identity::Certificate(Arc::new(CertificateNames {
                uris: owned(uris),
                dns: owned(dns),
                common_names: owned(common_names),
            }))
        };
        assert_eq!(known(certificate(Some("orders"), &[])), names(&[], &[], &["orders"]));
        let all = [dns("a.example"), uri("spiffe://a"), dns("b.example"), uri("spiffe://b")];
        assert_eq!(
            known(certificate(Some("spiffe://c"), &all)),
            names(
                &["spiffe://a", "spiffe://b"],
                &["a.example", "b.example"],
                &["spiffe://c"]
            )
        );
        assert_eq!(
            known(certificate(None, &[uri("spiffe://a")])),
            names(&["spiffe://a"], &[], &[])
        );
        // Whoever has no name is nobody, not some process of this machine.
        for nameless in [
            certificate(None, &[]),
            certificate(Some(""), &[]),
            certificate(Some("two\nlines"), &[]),
            certificate(Some("nul\0.example"), &[]),
            certificate(None, &[SanType::IpAddress("127.0.0.1".parse().expect("an address"))]),
        ] {
            assert_eq!(known(nameless), Identity::Nobody);
        }
        assert_eq!(Proof::of_chain(&[CertificateDer::from(vec![1, 2, 3])]), None);
        assert_eq!(Proof::of_chain(&[]), None);
    }

    #[test]
    fn a_certificate_tells_when_it_ends() {
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").into();
        let days = (2031 - 1970) * 365 + 15 + 31 + 2;
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        assert_eq!(
            Proof::of_chain(&[certificate]).expect("it can be read").not_after,
            Some(expected)
        );
    }
}
