//! An authority that signs whatever name a test asks for.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

use crate::{ClientIdentity, ClientTls, Pem, ServerTls};

/// An authority in memory. Its certificates are good for `localhost` and the name they are asked for.
#[derive(Debug)]
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, Default)]
pub struct TestNames<'a> {
    /// URIs among its alternative names.
    pub uris: &'a [&'a str],
    /// DNS names among them.
    pub dns: &'a [&'a str],
    /// The common name of its subject.
    pub common_name: Option<&'a str>,
    /// Its end; far away if it is not said.
    pub not_after: Option<SystemTime>,
    /// Its serial number, by which it can be revoked.
    pub serial: Option<u64>,
}

impl TestAuthority {
    /// A new authority, which nobody else's certificates are of.
    ///
    /// # Panics
    /// If no key can be made.
    #[must_use]
    pub fn new() -> Self {
        let made = || {
            let mut params = CertificateParams::default();
            // Each has a name of its own, as authorities have.
            let key = KeyPair::generate()?;
            let number: String = key
                .public_key_raw()
                .iter()
                .rev()
                .take(8)
                .map(|b| format!("{b:02x}"))
                .collect();
            params
                .distinguished_name
                .push(DnType::CommonName, format!("test authority {number}"));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::CrlSign,
            ];
            CertifiedIssuer::self_signed(params, key)
        };
        match made() {
            Ok(issuer) => Self { issuer },
            Err(error) => panic!("no authority: {error}"),
        }
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> Pem {
        Pem::Text(self.issuer.pem())
    }

    /// A caller's certificate and its key, with these names and no others.
    ///
    /// # Panics
    /// If a name is none.
    #[must_use]
    pub fn issue(&self, names: &TestNames<'_>) -> ClientIdentity {
        let signed = || {
            let mut params = CertificateParams::default();
            params.distinguished_name.remove(DnType::CommonName);
            if let Some(name) = names.common_name {
                params.distinguished_name.push(DnType::CommonName, name);
            }
            for uri in names.uris {
                params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
            }
            for name in names.dns {
                params.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
            }
            if let Some(end) = names.not_after {
                params.not_after = end.into();
            }
            params.serial_number = names.serial.map(SerialNumber::from);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
        };
        match signed() {
            Ok((certificate, key)) => ClientIdentity {
                certificate: Pem::Text(certificate),
                key: Pem::Text(key),
            },
            Err(error) => panic!("no certificate for {names:?}: {error}"),
        }
    }

    /// The list of what it has revoked, by serial number, as DER.
    ///
    /// # Panics
    /// If it can't be signed.
    #[must_use]
    pub fn revoke_der(&self, serials: &[u64]) -> Vec<u8> {
        self.list(serials).der().to_vec()
    }

    /// The same as PEM.
    ///
    /// # Panics
    /// If it can't be signed.
    #[must_use]
    pub fn revoke(&self, serials: &[u64]) -> Pem {
        match self.list(serials).pem() {
            Ok(pem) => Pem::Text(pem),
            Err(error) => panic!("no revocation list: {error}"),
        }
    }

    fn list(&self, serials: &[u64]) -> rcgen::CertificateRevocationList {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2024, 1, 2),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        match params.signed_by(&self.issuer) {
            Ok(list) => list,
            Err(error) => panic!("no revocation list: {error}"),
        }
    }

    /// A certificate and its key. Its first name is `name`.
    ///
    /// # Panics
    /// If the name is none.
    #[must_use]
    pub fn sign(&self, name: &str) -> ClientIdentity {
        let signed = || {
            let mut params = CertificateParams::new([name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()])?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok::<_, rcgen::Error>((certificate.pem(), key.serialize_pem()))
        };
        match signed() {
            Ok((certificate, key)) => ClientIdentity {
                certificate: Pem::Text(certificate),
                key: Pem::Text(key),
            },
            Err(error) => panic!("no certificate for {name}: {error}"),
        }
    }

    /// For a listener on this machine, which requires certificates of this authority.
    #[must_use]
    pub fn server(&self) -> ServerTls {
        let ClientIdentity { certificate, key } = self.sign("localhost");
        ServerTls {
            certificate,
            key,
            client_ca: Some(self.certificate()),
            client_crl: None,
        }
    }

    /// For a caller that shows a certificate with these names.
    ///
    /// # Panics
    /// If a name is none.
    #[must_use]
    pub fn client_with(&self, names: &TestNames<'_>) -> ClientTls {
        ClientTls {
            server_ca: self.certificate(),
            identity: Some(self.issue(names)),
            server_name: None,
        }
    }

    /// For a caller that shows a certificate for `name`.
    #[must_use]
    pub fn client(&self, name: &str) -> ClientTls {
        ClientTls {
            server_ca: self.certificate(),
            identity: Some(self.sign(name)),
            server_name: None,
        }
    }
}

impl Default for TestAuthority {
    fn default() -> Self {
        Self::new()
    }
}
