//! `token`: makes the token of a caller over HTTP.

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use fanout_plan::authority::token::PREFIX;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::terminal::{error_line, json_lines, say};

/// More than anyone can guess.
const TOKEN_BYTES: usize = 32;

pub(crate) fn token(json: bool) -> Result<()> {
    let mut secret = [0; TOKEN_BYTES];
    SysRng.try_fill_bytes(&mut secret)?;
    let token = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
    let hash = hex::encode(Sha256::digest(&token));
    if json {
        return say!("{}", json_lines(&json!({ "token": token, "sha256": hash })));
    }
    say!("{token}")?;
    error_line(format_args!(
        "\nThis token is not shown again. The policy has this line in the table of its caller, `[callers.NAME]`; while a token is \
         replaced, it lists both:\n\ntoken-sha256 = [\"{hash}\"]"
    ));
    Ok(())
}
