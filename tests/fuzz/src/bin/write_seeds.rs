//! Writes the seeds of the webhook targets, `seeds/webhook_SCHEME/…`: run it when what is signed has changed.

use std::{fs, io, path::Path};

use fanout_fuzz::webhook;
use webhook_signature::Scheme;

fn main() -> io::Result<()> {
    for scheme in Scheme::ALL {
        let target = format!("webhook_{}", scheme.name().replace('-', "_"));
        write(&target, "signed", &webhook::seed(scheme))?;
        if let Some([renamed, both]) = webhook::seeds_renamed(scheme) {
            write(&target, "renamed", &renamed)?;
            write(&target, "both", &both)?;
        }
    }
    write("webhook_adyen", "one_item", &webhook::seed_one_item())?;
    let (challenge, answered) = webhook::seed_challenge();
    write("webhook_braintree_challenge", "challenge", &challenge)?;
    write("webhook_braintree", "challenge", &answered)?;
    write(
        "webhook_standard_webhooks_ed25519",
        "signed",
        &webhook::seed_asymmetric(),
    )
}

fn write(target: &str, name: &str, seed: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), seed)
}
