//! An authority that signs whatever name a test asks for.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::{ClientIdentity, ClientTls, Pem, ServerTls};

/// An authority in memory. Its certificates are good for `localhost` and the name they are asked for.
#[derive(Debug)]
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
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
            params.distinguished_name.push(DnType::CommonName, "test authority");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            CertifiedIssuer::self_signed(params, KeyPair::generate()?)
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
