//! What the tests of every scheme with a signature in a header have in common.

use std::time::Duration;

use crate::{Keys, Refusal, Request, Scheme, Signed, SigningKey, Unsigned, sign, verify};

/// A webhook and what its receiver knows. Each test changes one thing.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) scheme: Scheme,
    /// Each a text of its own.
    pub(crate) secrets: Vec<String>,
    pub(crate) parameters: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) url: Option<&'static str>,
    pub(crate) now: i64,
}

/// What was verified, owned.
#[derive(Debug, PartialEq)]
pub(crate) struct Checked {
    pub(crate) key: usize,
    pub(crate) id: Option<String>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) proven: Option<Vec<u8>>,
}

impl Case {
    pub(crate) fn new(scheme: Scheme, secret: &str, headers: &[(&'static str, &str)], body: &str) -> Self {
        Self {
            scheme,
            secrets: vec![secret.to_owned()],
            parameters: Vec::new(),
            headers: headers
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            body: body.as_bytes().to_vec(),
            url: None,
            now: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<Checked, Refusal> {
        let secrets: Vec<_> = self.secrets.iter().map(String::as_str).collect();
        // The vendors' own vectors have short ones.
        let keys = Keys::allowing_short(self.scheme, &secrets, &self.parameters()).unwrap();
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let request = Request {
            url: self.url,
            ..Request::new(&headers, &self.body)
        };
        let tolerance = self.scheme.default_tolerance().unwrap_or(Duration::ZERO);
        let verified = verify(&keys, &request, self.now, tolerance)?;
        assert_eq!(verified.scheme, self.scheme);
        Ok(Checked {
            key: verified.key,
            id: verified.id.map(str::to_owned),
            timestamp: verified.timestamp,
            proven: verified.proven.bytes().map(<[u8]>::to_vec),
        })
    }

    /// The body signed with the first secret, or with another one.
    pub(crate) fn sign<'a>(&'a self, secret: &str, id: &'a str, timestamp: i64) -> Signed<'a> {
        let key = SigningKey::allowing_short(self.scheme, secret, &self.parameters()).unwrap();
        let webhook = Unsigned {
            id,
            timestamp,
            body: &self.body,
            url: self.url,
        };
        sign(&key, &webhook).unwrap()
    }

    fn parameters(&self) -> Vec<(&str, &str)> {
        self.parameters
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect()
    }

    pub(crate) fn with_secrets(&self, secrets: &[&str]) -> Self {
        let secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        Self {
            secrets,
            ..self.clone()
        }
    }

    pub(crate) fn with_header(&self, name: &str, value: &str) -> Self {
        let mut case = self.clone();
        let header = case.headers.iter_mut().find(|(known, _)| *known == name);
        header.expect("the case has this header").1 = value.to_owned();
        case
    }

    pub(crate) fn with_body(&self, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..self.clone()
        }
    }

    pub(crate) fn at(&self, now: i64) -> Self {
        Self { now, ..self.clone() }
    }

    /// Everything that holds for every scheme that has HMAC-SHA256 over the body in headers; `other` is a secret that
    /// signed nothing.
    pub(crate) fn has_what_all_have(&self, other: &str) {
        let verified = self.check().unwrap();
        assert_eq!((verified.key, verified.proven.as_ref()), (0, Some(&self.body)));
        let secret = self.secrets[0].as_str();

        // A rotation: which key matched is told, the first one if several do.
        assert_eq!(self.with_secrets(&[other, secret]).check().unwrap().key, 1);
        assert_eq!(self.with_secrets(&[secret, other]).check().unwrap().key, 0);
        assert_eq!(self.with_secrets(&[other, secret, secret]).check().unwrap().key, 1);

        assert_eq!(self.with_secrets(&[other]).check(), Err(Refusal::SignatureMismatch));
        self.has_what_all_have_but_rotation();
    }

    /// The same where keys are no secrets that can be made up.
    pub(crate) fn has_what_all_have_but_rotation(&self) {
        let verified = self.check().unwrap();
        assert_eq!((verified.key, verified.proven.as_ref()), (0, Some(&self.body)));

        // What was not signed.
        let (mut longer, mut changed) = (self.body.clone(), self.body.clone());
        longer.push(b'\n');
        changed[0] ^= 1;
        for body in [longer, changed, Vec::new()] {
            assert_eq!(self.with_body(body).check(), Err(Refusal::SignatureMismatch));
        }

        // Every header is needed, in any case of its name, and never twice.
        for (place, (name, _)) in self.headers.iter().enumerate() {
            let header = name.to_ascii_lowercase();
            let mut missing = self.clone();
            let (_, value) = missing.headers.remove(place);
            let named = |refusal: &Refusal| match refusal {
                Refusal::MissingHeader { header } | Refusal::RepeatedHeader { header } => {
                    *header == name.to_ascii_lowercase()
                }
                _ => false,
            };
            let refusal = missing.check().unwrap_err();
            assert!(
                named(&refusal) && refusal.code() == "missing-header",
                "{header}: {refusal:?}"
            );
            if self.scheme != Scheme::Mollie {
                let mut twice = self.clone();
                twice.headers.push((name, value));
                let refusal = twice.check().unwrap_err();
                assert!(
                    named(&refusal) && refusal.code() == "repeated-header",
                    "{header}: {refusal:?}"
                );
            }
        }
    }

    /// Each of these values of a header is refused as malformed.
    pub(crate) fn refuses_as_malformed(&self, name: &str, values: &[&str]) {
        for value in values {
            let refusal = self.with_header(name, value).check().unwrap_err();
            let expected = name.to_ascii_lowercase();
            let named = matches!(refusal, Refusal::MalformedHeader { header, .. } if header == expected);
            assert!(named, "{value:?}: {refusal:?}");
        }
    }

    /// Signing the body with the first secret gives the header that the case has.
    pub(crate) fn is_made_again(&self) {
        let made = self.sign(&self.secrets[0], "", self.now);
        let (name, value) = &self.headers[0];
        assert_eq!(made.headers, [(name.to_ascii_lowercase().as_str(), value.clone())]);
        assert_eq!(*made.body, *self.body);
    }

    /// What holds where the one header is one signature in hexadecimal.
    pub(crate) fn has_one_hexadecimal_signature(&self) {
        let (header, good) = &self.headers[0];
        let values = [
            "",
            &good[2..],
            &format!("{good}ab"),
            &good.to_uppercase(),
            &format!("g{}", &good[1..]),
            &format!(" {good}"),
            &format!("{good},{good}"),
            &format!("sha256={good}"),
        ];
        self.refuses_as_malformed(header, &values);
        let other = self.with_header(header, &"0".repeat(64)).check();
        assert_eq!(other, Err(Refusal::SignatureMismatch));
    }

    /// What holds where the one header is one signature in base64.
    pub(crate) fn has_one_base64_signature(&self) {
        let (header, good) = &self.headers[0];
        let values = [
            "",
            good.trim_end_matches('='),
            &good[4..],
            &format!("{good} "),
            &format!("{good}{good}"),
            &"0".repeat(64),
            &format!("sha256={good}"),
            &good.replace('=', "-"),
        ];
        self.refuses_as_malformed(header, &values);
        let zeros = format!("{}=", "A".repeat(43));
        let other = self.with_header(header, &zeros).check();
        assert_eq!(other, Err(Refusal::SignatureMismatch));
    }
}
