//! From flags, the environment and the contexts of the `nats` tool to one description of a connection to NATS.
//!
//! What is given most closely counts: a flag before its variable, either before the context. Contexts are read as files;
//! nothing is run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fanout_plan::{Code, JetStreamApi, Problem};
use fanout_transport::{Access, Login, NatsTls, Secret, SecretFrom};
use serde_json::{Map, Value};

use crate::bus::Refused;

/// The longest context that is read.
const MAX_CONTEXT_BYTES: u64 = 1 << 20;

/// Above these options in the help. Said of each: a heading that is said of them together goes on to whatever stands behind them.
const HEADING: &str = "NATS";

/// NATS, where the bus is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Nats {
    /// The NATS server, or several of a cluster with commas between; without it, that of the `nats` tool's context, and
    /// without one nats://127.0.0.1:4222
    #[arg(long, help_heading = HEADING, value_name = "URL", env = "NATS_URL", hide_env_values = true)]
    nats: Option<Secret>,
    /// A context of the `nats` tool: its name, or its file
    #[arg(long, help_heading = HEADING, value_name = "NAME", env = "NATS_CONTEXT")]
    context: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    which: Which,
}

/// As whom, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct How {
    /// The user of NATS; its password in NATS_PASSWORD or a file
    #[arg(long, help_heading = HEADING, value_name = "USER", env = "NATS_USER", hide_env_values = true)]
    nats_user: Option<String>,
    /// Its password; others on this machine can see it here, and not in a file
    #[arg(long, help_heading = HEADING, value_name = "PASSWORD", env = "NATS_PASSWORD", hide_env_values = true)]
    nats_password: Option<Secret>,
    /// A file that holds its password
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "FILE",
        env = "NATS_PASSWORD_FILE",
        conflicts_with = "nats_password"
    )]
    nats_password_file: Option<PathBuf>,
    /// A token; others on this machine can see it here, and not in a file
    #[arg(long, help_heading = HEADING, value_name = "TOKEN", env = "NATS_TOKEN", hide_env_values = true)]
    nats_token: Option<Secret>,
    /// A file that holds the token
    #[arg(long, help_heading = HEADING, value_name = "FILE", env = "NATS_TOKEN_FILE", conflicts_with = "nats_token")]
    nats_token_file: Option<PathBuf>,
    /// A file of credentials, as `nsc` writes it
    #[arg(long, help_heading = HEADING, value_name = "FILE", env = "NATS_CREDS")]
    nats_creds: Option<PathBuf>,
    /// A file that holds the seed of a user's key
    #[arg(long, help_heading = HEADING, value_name = "FILE", env = "NATS_NKEY")]
    nats_nkey: Option<PathBuf>,
    /// Who signed the server's certificate, as PEM
    #[arg(long, help_heading = HEADING, value_name = "FILE", env = "NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// The certificate to show, as PEM
    #[arg(long, help_heading = HEADING, value_name = "FILE", env = "NATS_CERT")]
    nats_certificate: Option<PathBuf>,
    /// Its key, as PEM
    #[arg(long, help_heading = HEADING, value_name = "FILE", env = "NATS_KEY")]
    nats_key: Option<PathBuf>,
    /// Begin with TLS, for servers with `handshake_first`
    #[arg(long, help_heading = HEADING)]
    nats_tls_first: bool,
    /// Await answers below this subject, for users that may not below `_INBOX`
    #[arg(long, help_heading = HEADING, value_name = "SUBJECT", env = "NATS_INBOX_PREFIX")]
    nats_inbox_prefix: Option<String>,
}

/// Which JetStream holds the bus.
#[derive(Clone, Debug, Default, clap::Args)]
struct Which {
    /// The JetStream domain that holds the bus; instead of the policy's `jetstream.domain`
    #[arg(long, help_heading = HEADING, value_name = "DOMAIN")]
    jetstream_domain: Option<String>,
    /// What requests to JetStream begin with; instead of the policy's `jetstream.api-prefix`
    #[arg(long, help_heading = HEADING, value_name = "SUBJECT", conflicts_with = "jetstream_domain")]
    jetstream_api_prefix: Option<String>,
}

/// How to connect, and to which JetStream.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) access: Access,
    /// Instead of what the policy says, where it is said here.
    pub(crate) jetstream: Option<JetStreamApi>,
}

impl Nats {
    pub(crate) fn connection(&self) -> Result<Connection> {
        let context = match (&self.context, &self.nats) {
            (Some(name), _) => Some(ContextFile::named(name)?),
            // A URL alone is whole: credentials of another server are not sent to it.
            (None, Some(_)) => None,
            (None, None) => ContextFile::selected()?,
        };
        connection(self.nats.as_ref(), &self.how, &self.which, context)
    }

    /// For verbs that look at a server only where one is named.
    pub(crate) fn if_named(&self) -> Result<Option<Connection>> {
        let is_named = self.context.is_some() || self.nats.as_ref().is_some_and(|url| !url.expose().is_empty());
        is_named.then(|| self.connection()).transpose()
    }
}

impl How {
    /// For a URL that names its servers itself.
    pub(crate) fn access(&self) -> Result<Access> {
        self.applied_to(Access::default())
    }

    /// What is said here, before what is said elsewhere.
    fn applied_to(&self, mut access: Access) -> Result<Access> {
        if let Some(login) = self.login()? {
            access.login = login;
            (access.user_jwt, access.user_seed) = (String::new(), String::new());
        }
        if let Some(ca) = &self.nats_ca {
            access.tls.ca = Some(ca.clone());
        }
        if self.nats_certificate.is_some() || self.nats_key.is_some() {
            access.tls.certificate.clone_from(&self.nats_certificate);
            access.tls.key.clone_from(&self.nats_key);
        }
        access.tls.first |= self.nats_tls_first;
        if let Some(prefix) = &self.nats_inbox_prefix {
            access.inbox_prefix = Some(prefix.clone());
        }
        Ok(access)
    }

    /// The one way to log in that is given here.
    fn login(&self) -> Result<Option<Login>> {
        let from = |value: &Option<Secret>, file: &Option<PathBuf>| match (value, file) {
            (Some(value), _) => Some(SecretFrom::Value(value.clone())),
            (None, Some(file)) => Some(SecretFrom::File(file.clone())),
            (None, None) => None,
        };
        let password = from(&self.nats_password, &self.nats_password_file);
        let password = match (&self.nats_user, password) {
            (Some(user), Some(password)) => Some(Login::Password(user.clone(), password)),
            (Some(user), None) => Some(Login::Password(user.clone(), SecretFrom::Value(Secret::default()))),
            (None, Some(_)) => bail!("a password for NATS needs a user: give --nats-user (NATS_USER) too"),
            (None, None) => None,
        };
        let ways: Vec<_> = [
            ("--nats-user (NATS_USER)", password),
            (
                "--nats-token (NATS_TOKEN)",
                from(&self.nats_token, &self.nats_token_file).map(Login::Token),
            ),
            (
                "--nats-creds (NATS_CREDS)",
                self.nats_creds.clone().map(Login::Credentials),
            ),
            ("--nats-nkey (NATS_NKEY)", self.nats_nkey.clone().map(Login::Nkey)),
        ]
        .into_iter()
        .filter_map(|(name, login)| Some((name, login?)))
        .collect();
        if let [(one, _), (other, _), ..] = &ways[..] {
            bail!("{one} and {other} are two ways to log in to NATS: leave one out");
        }
        Ok(ways.into_iter().next().map(|(_, login)| login))
    }
}

fn connection(url: Option<&Secret>, how: &How, which: &Which, context: Option<ContextFile>) -> Result<Connection> {
    let mut access = match &context {
        Some(context) => context.access()?,
        None => Access::default(),
    };
    if let Some(url) = url {
        url.expose().clone_into(&mut access.urls);
    }
    let access = how.applied_to(access)?;
    let jetstream = match (&which.jetstream_domain, &which.jetstream_api_prefix, &context) {
        (Some(domain), _, _) => Some(said_by("--jetstream-domain", JetStreamApi::domain(domain))?),
        (None, Some(prefix), _) => Some(said_by("--jetstream-api-prefix", JetStreamApi::prefix(prefix))?),
        (None, None, Some(context)) => context.jetstream()?,
        (None, None, None) => None,
    };
    Ok(Connection { access, jetstream })
}

fn said_by<T>(flag: &str, parsed: Result<T, Problem>) -> Result<T> {
    parsed.map_err(|p| Refused(vec![Problem::new(p.code, format!("{flag}: {}", p.message))]).into())
}

/// A context of the `nats` tool. It holds secrets, and is never shown.
struct ContextFile {
    path: PathBuf,
    fields: Map<String, Value>,
}

/// Where the `nats` tool keeps its contexts.
fn folder() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    Some(
        set("XDG_CONFIG_HOME")
            .or_else(|| Some(set("HOME")?.join(".config")))?
            .join("nats"),
    )
}

impl ContextFile {
    /// The one that was selected with `nats context select`, if any was.
    fn selected() -> Result<Option<Self>> {
        let Some(selection) = folder().map(|f| f.join("context.txt")) else {
            return Ok(None);
        };
        match read(&selection) {
            Ok(name) if name.trim().is_empty() => Ok(None),
            Ok(name) => Self::named(name.trim())
                .with_context(|| {
                    format!(
                        "it is selected in {}: give --nats, or select another",
                        selection.display()
                    )
                })
                .map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("can't read {}", selection.display())),
        }
    }

    /// By its name, or the path of its file.
    fn named(name: &str) -> Result<Self> {
        if name.ends_with(".json") && Path::new(name).is_file() {
            return Self::read(PathBuf::from(name));
        }
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            bail!("{name:?} is no context of `nats`: give its name, or the path of its .json file");
        }
        let folder = folder().context("there is no XDG_CONFIG_HOME and no HOME to look for contexts of `nats` in")?;
        Self::read(folder.join("context").join(format!("{name}.json")))
            .with_context(|| format!("can't use context {name} of `nats`"))
    }

    fn read(path: PathBuf) -> Result<Self> {
        let text = read(&path).with_context(|| format!("can't read {}", path.display()))?;
        // The parser's error is dropped: it may repeat what it could not read.
        match serde_json::from_str(&text) {
            Ok(Value::Object(fields)) => Ok(Self { path, fields }),
            _ => bail!("{} is no JSON object", path.display()),
        }
    }

    /// A field that is set.
    fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => bail!("{}: `{name}` is no text", self.path.display()),
        }
    }

    /// The path of a file; `~` is the user's own folder.
    fn file(&self, name: &str) -> Result<Option<PathBuf>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if text.contains("://") {
            bail!(
                "{}: `{name}` is kept elsewhere ({}): only files are read; give it by a flag",
                self.path.display(),
                text.split("://").next().unwrap_or_default()
            );
        }
        Ok(Some(match (text.strip_prefix("~/"), std::env::var_os("HOME")) {
            (Some(rest), Some(home)) => Path::new(&home).join(rest),
            _ => PathBuf::from(text),
        }))
    }

    fn access(&self) -> Result<Access> {
        for (name, instead) in [
            (
                "nsc",
                "`nsc` is not run: write its credentials with `nsc generate creds`, and give them by `creds`",
            ),
            ("socks_proxy", "a proxy is not used: connect without it"),
        ] {
            if self.text(name)?.is_some() {
                bail!("{}: `{name}`: {instead}", self.path.display());
            }
        }
        let value = |text: &str| SecretFrom::Value(Secret::from(text));
        let user = self.text("user")?;
        let token = self.text("token")?;
        let (jwt, seed) = (self.text("user_jwt")?, self.text("user_seed")?);
        let login = if let Some(creds) = self.file("creds")? {
            Login::Credentials(creds)
        } else if let Some(nkey) = self.file("nkey")? {
            Login::Nkey(nkey)
        } else if jwt.is_some() && seed.is_some() {
            Login::Url
        } else if let Some(user) = user {
            Login::Password(user.to_owned(), value(self.text("password")?.unwrap_or_default()))
        } else if let Some(token) = token {
            Login::Token(value(token))
        } else {
            Login::Url
        };
        let by_jwt = login == Login::Url;
        let of_jwt = |text: Option<&str>| text.filter(|_| by_jwt).unwrap_or_default().to_owned();
        let first = match self.fields.get("tls_first") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(first)) => *first,
            Some(_) => bail!("{}: `tls_first` is neither true nor false", self.path.display()),
        };
        Ok(Access {
            urls: self.text("url")?.unwrap_or_default().to_owned(),
            user_jwt: of_jwt(jwt),
            user_seed: of_jwt(seed),
            login,
            tls: NatsTls {
                ca: self.file("ca")?,
                certificate: self.file("cert")?,
                key: self.file("key")?,
                first,
            },
            inbox_prefix: self.text("inbox_prefix")?.map(str::to_owned),
        })
    }

    fn jetstream(&self) -> Result<Option<JetStreamApi>> {
        let path = self.path.display();
        let domain = self.text("jetstream_domain")?;
        let prefix = self.text("jetstream_api_prefix")?;
        match (domain, prefix) {
            (None, None) => Ok(None),
            (Some(domain), None) => {
                said_by(&format!("{path}: `jetstream_domain`"), JetStreamApi::domain(domain)).map(Some)
            }
            (None, Some(prefix)) => {
                said_by(&format!("{path}: `jetstream_api_prefix`"), JetStreamApi::prefix(prefix)).map(Some)
            }
            (Some(_), Some(_)) => Err(Refused(vec![Problem::new(
                Code::ConflictingSettings,
                format!(
                    "{path}: `jetstream_domain` and `jetstream_api_prefix` both say which JetStream holds the bus: leave one out"
                ),
            )])
            .into()),
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_CONTEXT_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(folder: &Path, json: &str) -> ContextFile {
        let path = folder.join("x.json");
        std::fs::write(&path, json).unwrap();
        ContextFile::read(path).unwrap()
    }

    #[test]
    fn a_context_says_all_of_a_connection() {
        let folder = tempfile::tempdir().unwrap();
        let made = |json: &str| context(folder.path(), json);
        let all = made(
            r#"{"description":"","url":"nats://a:1,nats://b:2","socks_proxy":"","token":"","user":"app","password":"p w",
            "creds":"","nkey":"","cert":"/c.pem","key":"/k.pem","ca":"/ca.pem","nsc":"","jetstream_domain":"hub",
            "jetstream_api_prefix":"","jetstream_event_prefix":"","inbox_prefix":"_I.x","user_jwt":"","color_scheme":"x",
            "tls_first":true,"something_new":7}"#,
        );
        let access = all.access().unwrap();
        assert_eq!(access.urls, "nats://a:1,nats://b:2");
        assert_eq!(
            access.login,
            Login::Password("app".into(), SecretFrom::Value("p w".into()))
        );
        let tls = NatsTls {
            ca: Some("/ca.pem".into()),
            certificate: Some("/c.pem".into()),
            key: Some("/k.pem".into()),
            first: true,
        };
        assert_eq!((access.tls, access.inbox_prefix.as_deref()), (tls, Some("_I.x")));
        assert_eq!(all.jetstream().unwrap(), Some(JetStreamApi::Domain("hub".into())));

        let login = |json: &str| made(json).access().unwrap().login;
        assert_eq!(
            login(r#"{"creds":"/a.creds","user":"left over"}"#),
            Login::Credentials("/a.creds".into())
        );
        assert_eq!(login(r#"{"nkey":"/a.nk"}"#), Login::Nkey("/a.nk".into()));
        assert_eq!(login(r#"{"token":"t"}"#), Login::Token(SecretFrom::Value("t".into())));
        let by_jwt = made(r#"{"user_jwt":"eyJ0","user_seed":"SU"}"#).access().unwrap();
        assert_eq!((by_jwt.user_jwt.as_str(), by_jwt.user_seed.as_str()), ("eyJ0", "SU"));
        if let Some(home) = std::env::var_os("HOME") {
            assert_eq!(
                login(r#"{"nkey":"~/a.nk"}"#),
                Login::Nkey(Path::new(&home).join("a.nk"))
            );
        }
    }

    #[test]
    fn what_a_context_can_t_say_is_refused_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        for json in [
            r#"{"nsc":"nsc://o/a/u","password":"SECRET"}"#,
            r#"{"socks_proxy":"socks5://SECRET@h"}"#,
            r#"{"creds":"op://SECRET/x"}"#,
            r#"{"password":"SECRET","user":7}"#,
            r#"{"token":["SECRET"]}"#,
            r#"{"tls_first":"SECRET"}"#,
        ] {
            let error = format!("{:#}", context(folder.path(), json).access().err().unwrap());
            assert!(!error.contains("SECRET"), "{error}");
        }
        let path = folder.path().join("broken.json");
        std::fs::write(&path, r#"{"password":"SECRET""#).unwrap();
        let error = format!("{:#}", ContextFile::read(path).err().unwrap());
        assert!(error.contains("broken.json") && !error.contains("SECRET"), "{error}");
        for name in ["", ".", "..", "../x", "a/b", "a\\b"] {
            assert!(ContextFile::named(name).is_err(), "{name:?}");
        }
        let both = r#"{"jetstream_domain":"hub","jetstream_api_prefix":"$JS.hub.API"}"#;
        assert!(context(folder.path(), both).jetstream().is_err());
    }

    #[test]
    fn a_flag_comes_before_the_context() {
        let folder = tempfile::tempdir().unwrap();
        let made = || {
            let json = r#"{"url":"nats://far","user":"app","password":"pw","ca":"/ca","jetstream_domain":"hub"}"#;
            Some(context(folder.path(), json))
        };
        let token = How {
            nats_token: Some("t".into()),
            nats_ca: Some("/other".into()),
            ..How::default()
        };
        let prefix = Which {
            jetstream_api_prefix: Some("JS.x.API".into()),
            ..Which::default()
        };
        let plain = connection(None, &How::default(), &Which::default(), made()).unwrap();
        let domain = Some(JetStreamApi::Domain("hub".into()));
        assert_eq!((plain.access.urls.as_str(), plain.jetstream), ("nats://far", domain));
        let changed = connection(Some(&"nats://near".into()), &token, &prefix, made()).unwrap();
        assert_eq!(changed.access.urls, "nats://near");
        assert_eq!(changed.access.login, Login::Token(SecretFrom::Value("t".into())));
        assert_eq!(changed.access.tls.ca.as_deref(), Some(Path::new("/other")));
        assert_eq!(changed.jetstream, Some(JetStreamApi::Prefix("JS.x.API".into())));
        let two = How {
            nats_user: Some("app".into()),
            ..token.clone()
        };
        let error = two.access().unwrap_err().to_string();
        assert!(
            error.contains("--nats-user") && error.contains("--nats-token"),
            "{error}"
        );
        let nobody = How {
            nats_password: Some("pw".into()),
            ..How::default()
        };
        assert!(nobody.access().unwrap_err().to_string().contains("--nats-user"));
        assert!(!format!("{token:?} {nobody:?}").contains("pw"));
    }
}
