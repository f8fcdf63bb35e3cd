//! Where an instance listens besides the lattice, and as whom: settings of the instance, not of the bus's policy. Where
//! the listener's URLs lead is the transport's to know.

use crate::name::shown;
use crate::setting::{self, Reader, Settings};
use crate::{Code, Problem};

/// The settings of an instance, which the policy's reader leaves alone.
const SETTINGS: [&str; 8] = [
    "listen",
    "listen-allow-unauthenticated-network-peers",
    "tls.certificate",
    "tls.key",
    "tls.client-ca",
    "tls.client-crl",
    INBOX_PREFIXES,
    ALLOWED_ORIGINS,
];

/// The setting of [`Listening::inbox_prefixes`].
pub const INBOX_PREFIXES: &str = "inbox-prefixes";

/// The setting of [`Listening::allowed_origins`].
pub const ALLOWED_ORIGINS: &str = "http.allowed-origins";

/// How an instance listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// URLs, such as `tcp://127.0.0.1:7761`; empty for none.
    pub endpoints: Vec<String>,
    /// For the URLs that need a certificate.
    pub tls: Option<TlsFiles>,
    /// Take anyone who can reach a port beyond this machine, without knowing who it is.
    pub allow_unauthenticated_network_peers: bool,
    /// They were said by flags of a command line, which problems name.
    pub by_flags: bool,
    /// Where whoever asks over NATS may want the answer, besides inboxes like the instance's own: prefixes of subjects;
    /// empty for `_INBOX` alone.
    pub inbox_prefixes: Vec<String>,
    /// The origins of pages that may send requests over HTTP, such as `https://console.example.com`; empty for none.
    pub allowed_origins: Vec<String>,
}

/// Files of PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's own chain.
    pub certificate: String,
    /// The key of its first certificate.
    pub key: String,
    /// The authority of callers: with it, each caller shows a certificate, and is known by its names.
    pub client_ca: Option<String>,
    /// What that authority has revoked, as PEM or DER.
    pub client_crl: Option<String>,
}

impl Listening {
    /// Takes the settings of an instance out of all that it was given.
    pub fn split(settings: &Settings) -> (Settings, Settings) {
        settings
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .partition(|(k, _)| SETTINGS.contains(&k.as_str()))
    }

    /// Reads the settings of an instance.
    ///
    /// # Errors
    /// Every problem of every setting.
    pub fn from_settings(owner: &str, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut r = Reader::new(owner, settings);
        let endpoints = r.or("listen", Vec::new(), texts);
        let allow = r.or(
            "listen-allow-unauthenticated-network-peers",
            false,
            setting::word(&[("true", true), ("false", false)]),
        );
        let certificate = r.optional("tls.certificate", text);
        let key = r.optional("tls.key", text);
        let client_ca = r.optional("tls.client-ca", text);
        let client_crl = r.optional("tls.client-crl", text);
        let inbox_prefixes = r.or(INBOX_PREFIXES, Vec::new(), texts);
        let allowed_origins = r.or(ALLOWED_ORIGINS, Vec::new(), origins);
        if certificate.is_some() != key.is_some() {
            r.conflict("`tls.certificate` and `tls.key` go together: set both or none");
        }
        if client_ca.is_some() && certificate.is_none() {
            r.conflict("`tls.client-ca` means nothing without `tls.certificate` and `tls.key`");
        }
        if client_crl.is_some() && client_ca.is_none() {
            r.conflict("`tls.client-crl` means nothing without `tls.client-ca`: callers show no certificates");
        }
        let problems = r.finish();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            endpoints,
            tls: certificate.zip(key).map(|(certificate, key)| TlsFiles {
                certificate,
                key,
                client_ca,
                client_crl,
            }),
            allow_unauthenticated_network_peers: allow,
            by_flags: false,
            inbox_prefixes,
            allowed_origins,
        })
    }

    /// A setting as whoever set it, or could, writes it; for messages.
    pub fn written(&self, setting: &str) -> String {
        if !self.by_flags {
            return format!("`{setting}`");
        }
        let flag = setting.strip_prefix("listen-").unwrap_or(setting).replace('.', "-");
        match setting.starts_with("tls.") {
            true => format!("`--{flag} FILE`"),
            false => format!("`--{flag}`"),
        }
    }
}

fn text(s: &str) -> Result<String, Problem> {
    if s.is_empty() {
        return Err(Problem::new(Code::InvalidSetting, "it is empty"));
    }
    Ok(s.to_owned())
}

fn texts(s: &str) -> Result<Vec<String>, Problem> {
    s.split(',').map(|item| text(item.trim())).collect()
}

/// Origins as browsers write them (RFC 6454, 6.2): they are compared byte by byte.
fn origins(s: &str) -> Result<Vec<String>, Problem> {
    let origins = texts(s)?;
    let is_origin = |origin: &String| {
        let host = ["https://", "http://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        let of_host = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]".contains(&b);
        host.is_some_and(|host| !host.is_empty() && host.bytes().all(of_host))
    };
    match origins.iter().find(|origin| !is_origin(origin)) {
        None => Ok(origins),
        Some(other) => Err(Problem::new(
            Code::InvalidSetting,
            format!(
                "{} is no origin of pages: write each as a browser does, such as https://console.example.com or http://localhost:5173, without a path",
                shown(other)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn an_instance_listens_where_it_is_told() {
        let all = settings(&[
            ("bus", "payments"),
            ("listen", "tcp://127.0.0.1:7761, unix:/run/bus.sock"),
            ("tls.certificate", "c.pem"),
            ("tls.key", "k.pem"),
            ("tls.client-ca", "ca.pem"),
            ("tls.client-crl", "crl.pem"),
        ]);
        let (mine, rest) = Listening::split(&all);
        assert_eq!(rest, settings(&[("bus", "payments")]));
        let listening = Listening::from_settings("instance", &mine).unwrap();
        assert_eq!(listening.endpoints, ["tcp://127.0.0.1:7761", "unix:/run/bus.sock"]);
        let tls = listening.tls.unwrap();
        assert_eq!(
            (tls.client_ca.as_deref(), tls.client_crl.as_deref()),
            (Some("ca.pem"), Some("crl.pem"))
        );
        assert_eq!(
            Listening::from_settings("instance", &settings(&[])).unwrap(),
            Listening::default()
        );
    }

    #[test]
    fn a_setting_is_named_as_it_is_written() {
        let by_flags = Listening {
            by_flags: true,
            ..Listening::default()
        };
        for (setting, flag) in [
            ("tls.client-ca", "`--tls-client-ca FILE`"),
            (
                "listen-allow-unauthenticated-network-peers",
                "`--allow-unauthenticated-network-peers`",
            ),
            ("listen", "`--listen`"),
        ] {
            assert_eq!(by_flags.written(setting), flag);
            assert_eq!(Listening::default().written(setting), format!("`{setting}`"));
        }
    }

    #[test]
    fn an_origin_is_written_as_a_browser_writes_it() {
        let read = |origins| Listening::from_settings("instance", &settings(&[(ALLOWED_ORIGINS, origins)]));
        let two = read("https://console.example.com, http://localhost:5173").unwrap();
        assert_eq!(
            two.allowed_origins,
            ["https://console.example.com", "http://localhost:5173"]
        );
        for bad in [
            "*",
            "null",
            "https://",
            "https://a.example/",
            "https://A.example",
            "a.example",
            "https://*.a.example",
            "https://u@a.example",
        ] {
            assert_eq!(read(bad).unwrap_err()[0].code, Code::InvalidSetting, "{bad}");
        }
    }

    #[test]
    fn half_a_certificate_is_refused() {
        for bad in [
            &[("tls.certificate", "c.pem")][..],
            &[("tls.client-ca", "ca.pem")],
            &[
                ("tls.certificate", "c.pem"),
                ("tls.key", "k.pem"),
                ("tls.client-crl", "crl.pem"),
            ],
            &[("listen", "a,,b")],
            &[("listen-allow-unauthenticated-network-peers", "yes")],
        ] {
            assert_eq!(
                Listening::from_settings("instance", &settings(bad)).unwrap_err().len(),
                1,
                "{bad:?}"
            );
        }
    }
}
