//! Secrets that a connection shows: passwords and tokens. None of them is ever part of a message.

use std::fmt;
use std::path::{Path, PathBuf};

/// The longest file of credentials that is read.
const MAX_FILE_BYTES: u64 = 64 << 10;

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "[redacted]" })
    }
}

/// A secret itself, or the file that holds it, which is read again for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// It.
    Value(Secret),
    /// A file with nothing else in it.
    File(PathBuf),
}

impl SecretFrom {
    pub(crate) fn read(&self) -> Result<String, String> {
        match self {
            Self::Value(secret) => Ok(secret.expose().to_owned()),
            Self::File(file) => {
                let text = read(file)?;
                let secret = text.strip_suffix('\n').unwrap_or(&text);
                Ok(secret.strip_suffix('\r').unwrap_or(secret).to_owned())
            }
        }
    }
}

/// A file of credentials, as far as it may be read.
pub(crate) fn read(file: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(file).and_then(|f| f.take(MAX_FILE_BYTES).read_to_string(&mut text));
    opened.map_err(|error| format!("{} can't be read: {error}", file.display()))?;
    Ok(text)
}
