//! Writes the seeds of the webhook targets, `seeds/webhook_SCHEME/signed`: run it when what is signed has changed.

use std::{fs, io, path::Path};

use webhook_signature::Scheme;

fn main() -> io::Result<()> {
    for scheme in Scheme::ALL {
        let target = format!("webhook_{}", scheme.name().replace('-', "_"));
        write(&target, &fanout_fuzz::webhook::seed(scheme))?;
    }
    write(
        "webhook_standard_webhooks_ed25519",
        &fanout_fuzz::webhook::seed_asymmetric(),
    )
}

fn write(target: &str, seed: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("signed"), seed)
}
