//! The command line of `webhook`.

use std::path::PathBuf;

use clap::Subcommand;
use webhook_signature::Scheme;

#[derive(Debug, clap::Args)]
pub(crate) struct Webhook {
    #[command(subcommand)]
    pub(crate) verb: WebhookVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookVerb {
    /// Say what a webhook's signature proves, or which check it fails
    Verify(Verify),
    /// Make the headers (and, where the signature stands in it, the body) of a signed webhook
    Sign(Sign),
    /// Post a webhook, signed here or with the headers given, and say what was answered
    Send(Send),
    /// Fetch PayPal's signing certificate, check it, and write it as the secret of a source
    Certificate(Certificate),
}

/// How it is signed.
#[derive(Debug, clap::Args)]
pub(crate) struct Signature {
    /// The scheme, such as stripe
    #[arg(long, value_parser = scheme)]
    pub(crate) scheme: Scheme,
    /// A file with the secret as it stands, or with several that are active, a line each; for paypal, the certificate (to
    /// sign: the private key)
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
    /// Take a secret of fewer than 16 bytes, which whoever sees one webhook can find by trying
    #[arg(long)]
    pub(crate) allow_short_secret: bool,
    /// What the scheme has to be told besides, such as notification-url=https://… or root=@FILE; once for each
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    pub(crate) parameters: Vec<(String, String)>,
}

impl Signature {
    /// The parameters as the library takes them.
    pub(crate) fn parameters(&self) -> Vec<(&str, &str)> {
        pairs(&self.parameters)
    }
}

/// Names and values, borrowed.
pub(crate) fn pairs(owned: &[(String, String)]) -> Vec<(&str, &str)> {
    owned
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) signature: Signature,
    /// A header as it came; once for each
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// The URL that it was sent to, for a scheme that signs it
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// The time to check against, in seconds since 1970; by default the time it is
    #[arg(long, value_name = "UNIX_SECONDS")]
    pub(crate) now: Option<i64>,
    /// How many seconds ago it may have been signed, and ahead, there at most 300; by default the scheme's own
    #[arg(long, value_name = "SECONDS")]
    pub(crate) tolerance: Option<u64>,
    /// The body, byte for byte as it came; - for standard input
    pub(crate) body_file: PathBuf,
}

/// What is signed.
#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    #[command(flatten)]
    pub(crate) signature: Signature,
    /// The webhook's id, for a scheme that signs one
    #[arg(long, default_value = "msg_test")]
    pub(crate) id: String,
    /// When it is signed, in seconds since 1970; by default the time it is
    #[arg(long, value_name = "UNIX_SECONDS")]
    pub(crate) now: Option<i64>,
    /// The URL that it is sent to, for a scheme that signs it
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Where to write the body to send, which a scheme that signs inside of it (adyen, braintree) changes
    #[arg(long, value_name = "FILE")]
    pub(crate) body_out: Option<PathBuf>,
    /// The body, or what the scheme puts into it; - for standard input
    pub(crate) body_file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// Sign it by this scheme; without it, it is sent with the headers given
    #[arg(long, value_parser = scheme, requires = "secret_file")]
    pub(crate) scheme: Option<Scheme>,
    /// A file with the secret to sign with
    #[arg(long, value_name = "FILE", requires = "scheme")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Take a secret of fewer than 16 bytes, which whoever sees one webhook can find by trying
    #[arg(long, requires = "scheme")]
    pub(crate) allow_short_secret: bool,
    /// What the scheme has to be told besides; once for each
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter, requires = "scheme")]
    pub(crate) parameters: Vec<(String, String)>,
    /// The webhook's id, for a scheme that signs one
    #[arg(long, default_value = "msg_test", requires = "scheme")]
    pub(crate) id: String,
    /// When it is signed, in seconds since 1970; by default the time it is
    #[arg(long, value_name = "UNIX_SECONDS", requires = "scheme")]
    pub(crate) now: Option<i64>,
    /// A header to send; once for each
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// The authorities of the receiver's certificate, PEM; by default the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Where to, such as https://hooks.example.com/webhooks/stripe; without TLS on this machine only
    pub(crate) url: String,
    /// The body; - for standard input
    pub(crate) body_file: PathBuf,
}

/// Whose certificate.
#[derive(Debug, clap::Args)]
pub(crate) struct Certificate {
    /// The root certificates that it must lead to, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) root: PathBuf,
    /// The name that it must bear; by default that of PayPal's live environment
    #[arg(long, value_name = "NAME")]
    pub(crate) certificate_name: Option<String>,
    /// The authorities of the certificate of PayPal's host, PEM; by default the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Where to write it; by default to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Where it is, as the header PAYPAL-CERT-URL of a webhook says: on one of PayPal's own hosts
    pub(crate) url: String,
}

pub(crate) fn scheme(text: &str) -> Result<Scheme, String> {
    text.parse()
        .map_err(|error: webhook_signature::UnknownScheme| error.to_string())
}

pub(crate) fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no `=`")?;
    let value = match value.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("can't read {path}: {error}"))?,
        None => value.to_owned(),
    };
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("it has no `:`")?;
    let name = name.trim();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("its name is none of a header".to_owned());
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}
