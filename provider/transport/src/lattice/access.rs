//! Where NATS is, and as whom to connect, in one description: what a host's data, flags, environment variables or a
//! context of the `nats` tool can describe of a connection. No secret of it is ever shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;
use percent_encoding::percent_decode_str;

use crate::Error;
use crate::secret::{SecretFrom, read};

/// Where NATS is by default.
const DEFAULT: &str = "127.0.0.1:4222";
/// How a user proves who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Login {
    /// By what stands before the `@` of a URL: a user and a password, or a token. Without it, not at all.
    #[default]
    Url,
    /// By a user and a password.
    Password(String, SecretFrom),
    /// By a token.
    Token(SecretFrom),
    /// By a file that holds a user's JWT and the seed of its key, as `nsc` writes it.
    Credentials(PathBuf),
    /// By a file that holds the seed of a user's key.
    Nkey(PathBuf),
}

/// TLS towards NATS, as files of PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// Who signed the server's certificate, beside those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// The certificate to show.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// Begin with TLS, as a server with `handshake_first` wants it.
    pub first: bool,
}

/// Where NATS is, and as whom to connect. `urls`, `user_jwt` and `user_seed` are the fields `lattice_rpc_url`,
/// `lattice_rpc_user_jwt` and `lattice_rpc_user_seed` of a provider's host data.
#[derive(Clone, Default)]
pub struct Access {
    /// One URL, or several of a cluster with commas between them. Empty: the default of NATS, on this machine. A user and
    /// a password, or a token, in it are used.
    pub urls: String,
    /// The user's JWT; empty without authentication.
    pub user_jwt: String,
    /// The seed of the user's key; empty without authentication.
    pub user_seed: String,
    /// Another way to log in.
    pub login: Login,
    /// TLS beyond what URL and server request.
    pub tls: NatsTls,
    /// What answers are awaited below, instead of `_INBOX`.
    pub inbox_prefix: Option<String>,
}

/// The seed, the JWT and what stands before an `@` in a URL are left out.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redact = |secret: &str| if secret.is_empty() { "none" } else { "[redacted]" };
        f.debug_struct("Access")
            .field("urls", &self.shown())
            .field("user_jwt", &redact(&self.user_jwt))
            .field("user_seed", &redact(&self.user_seed))
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("inbox_prefix", &self.inbox_prefix)
            .finish()
    }
}

/// What is wrong with a description of a connection. It never holds a secret.
fn refused(what: impl Into<String>) -> Error {
    Error::Access(what.into())
}

impl Access {
    /// The servers, without what stands before an `@`.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.urls.trim().is_empty() {
            return DEFAULT.to_owned();
        }
        let shown: Vec<_> = items(&self.urls).map(without_user).collect();
        // What follows a comma within a password is none of a server.
        if servers(&self.urls).is_err() {
            return "a URL that can't be read".to_owned();
        }
        shown.join(",")
    }

    /// What the client needs, and the servers to connect to.
    pub(crate) fn options(&self) -> Result<(ConnectOptions, Vec<String>), Error> {
        let (servers, of_url) = servers(&self.urls)?;
        let who = Arc::new(self.who(of_url)?);
        // A file that can't be read is reported before anything is tried.
        who.auth(b"").map_err(refused)?;
        let mut options = ConnectOptions::with_auth_callback(move |nonce| {
            std::future::ready(who.auth(&nonce).map_err(AuthError::new))
        });
        for (what, file) in [
            ("the authority of NATS", &self.tls.ca),
            ("the certificate for NATS", &self.tls.certificate),
            ("the key for NATS", &self.tls.key),
        ] {
            if let Some(file) = file {
                std::fs::File::open(file).map_err(|source| Error::Tls {
                    what: format!("{what}, {},", file.display()),
                    source: source.into(),
                })?;
            }
        }
        if let Some(ca) = &self.tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        match (&self.tls.certificate, &self.tls.key) {
            (Some(certificate), Some(key)) => {
                options = options.add_client_certificate(certificate.clone(), key.clone());
            }
            (None, None) => {}
            _ => return Err(refused("a certificate and its key go together: give both or none")),
        }
        if self.tls != NatsTls::default() {
            options = options.require_tls(true);
        }
        if self.tls.first {
            options = options.tls_first();
        }
        if let Some(prefix) = &self.inbox_prefix {
            let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>');
            if !prefix
                .split('.')
                .all(|token| !token.is_empty() && token.chars().all(legal))
            {
                return Err(refused(
                    "an inbox prefix is a subject without wildcards, such as `_INBOX_payments`",
                ));
            }
            options = options.custom_inbox_prefix(prefix);
        }
        Ok((options, servers))
    }

    fn who(&self, of_url: Option<Login>) -> Result<Who, Error> {
        let (jwt, seed) = (self.user_jwt.trim(), self.user_seed.trim());
        if self.login != Login::Url && !(jwt.is_empty() && seed.is_empty()) {
            return Err(refused("two ways to log in are given: leave one"));
        }
        Ok(match &self.login {
            Login::Url if seed.is_empty() => Who::Login(of_url.unwrap_or_default()),
            Login::Url => {
                let key = KeyPair::from_seed(seed).map_err(|_| Error::Seed)?;
                let jwt = (!jwt.is_empty()).then(|| jwt.to_owned());
                Who::Key(Box::new(key), jwt)
            }
            login => Who::Login(login.clone()),
        })
    }
}

/// Who connects, by one of all ways to prove it.
enum Who {
    /// By [`Login::Url`] nobody: what stands before an `@` has become another login.
    Login(Login),
    Key(Box<KeyPair>, Option<String>),
}

impl Who {
    /// What is sent to a server that gave this nonce. Files are read each time: those that were renewed count.
    fn auth(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        match self {
            Self::Login(Login::Url) => {}
            Self::Login(Login::Password(user, password)) => {
                auth.username = Some(user.clone());
                auth.password = Some(password.read()?);
            }
            Self::Login(Login::Token(token)) => auth.token = Some(token.read()?),
            Self::Key(key, jwt) => sign(&mut auth, key, jwt.clone(), nonce)?,
            Self::Login(Login::Credentials(file)) => {
                let text = read(file)?;
                let (jwt, seed) = credentials(&text)
                    .ok_or_else(|| format!("{} holds no user's JWT and seed, as `nsc` writes them", file.display()))?;
                let key = key(seed, file)?;
                sign(&mut auth, &key, Some(jwt.to_owned()), nonce)?;
            }
            Self::Login(Login::Nkey(file)) => {
                let text = read(file)?;
                let seed = seed(&text).ok_or_else(|| format!("{} holds no seed of a user's key", file.display()))?;
                sign(&mut auth, &key(seed, file)?, None, nonce)?;
            }
        }
        Ok(auth)
    }
}

fn key(seed: &str, file: &Path) -> Result<KeyPair, String> {
    // The error would repeat what it could not read.
    KeyPair::from_seed(seed).map_err(|_| format!("the seed in {} can't be read", file.display()))
}

fn sign(auth: &mut Auth, key: &KeyPair, jwt: Option<String>, nonce: &[u8]) -> Result<(), String> {
    if jwt.is_none() {
        auth.nkey = Some(key.public_key());
    }
    auth.jwt = jwt;
    let signature = key.sign(nonce);
    auth.signature = Some(signature.map_err(|_| "the user's key can't sign: it is no seed".to_owned())?);
    Ok(())
}

/// The JWT and the seed of a file of credentials.
fn credentials(text: &str) -> Option<(&str, &str)> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("-----BEGIN NATS USER JWT"))?;
    let jwt = lines
        .find(|line| !line.is_empty())
        .filter(|line| !line.starts_with('-'))?;
    Some((jwt, seed(text)?))
}

/// The first line that is a user's seed.
fn seed(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| {
        let letters = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        line.len() == 58 && line.starts_with("SU") && line.bytes().all(letters)
    })
}

fn items(urls: &str) -> impl Iterator<Item = &str> {
    urls.split(',').map(str::trim).filter(|url| !url.is_empty())
}

fn without_user(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        _ => url.to_owned(),
    }
}

/// The servers of a list, and who connects by their URLs.
fn servers(urls: &str) -> Result<(Vec<String>, Option<Login>), Error> {
    let mut servers = Vec::new();
    let mut users: Vec<&str> = Vec::new();
    for (i, url) in items(urls).enumerate() {
        let wrong = |what: &str| refused(format!("server {} of the NATS URL {what}", i + 1));
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        if !matches!(scheme, "nats" | "tls") {
            return Err(wrong("has a scheme that is none of `nats` and `tls`"));
        }
        let host = match rest.rsplit_once('@') {
            Some((user, host)) => {
                users.push(user);
                host
            }
            None => rest,
        };
        let host = host.trim_end_matches('/');
        let parsed = url::Url::parse(&format!("nats://{host}"));
        let is_one = parsed.is_ok_and(|u| u.host_str().is_some_and(|h| !h.is_empty()) && u.path().is_empty());
        if !is_one || host.contains(['?', '#']) {
            return Err(wrong(
                "is no address: write nats://host:port, and `%2C` for a comma, `%40` for an @ in a password",
            ));
        }
        servers.push(format!("{scheme}://{host}"));
    }
    if servers.is_empty() {
        servers.push(DEFAULT.to_owned());
    }
    users.dedup();
    let who = match users[..] {
        [] => None,
        [user] => Some(named(user)?),
        _ => {
            return Err(refused(
                "the servers of one NATS URL take one user: give all the same, or only one of them any",
            ));
        }
    };
    Ok((servers, who))
}

/// Who stands before an `@`.
fn named(user: &str) -> Result<Login, Error> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded
            .map(|t| t.into_owned())
            .map_err(|_| refused("the user or the password of the NATS URL is no text"))
    };
    let value = |text| Ok::<_, Error>(SecretFrom::Value(decoded(text)?.into()));
    Ok(match user.split_once(':') {
        Some((user, password)) => Login::Password(decoded(user)?, value(password)?),
        None if user.is_empty() => Login::Url,
        None => Login::Token(value(user)?),
    })
}

#[cfg(test)]
mod tests;
