//! The binary that a wasmCloud host starts, with its data on standard input.

use std::io::Write as _;

const HELP: &str = "\
The capability provider of a Fanout bus. A wasmCloud host starts it and gives it its data on standard input: name it in
a manifest. `fanout serve` runs a bus without a host.
";

fn main() -> anyhow::Result<()> {
    let said = match std::env::args().nth(1).as_deref() {
        Some("--help" | "-h") => Some(HELP.to_owned()),
        Some("--version" | "-V") => Some(format!("fanout-provider {}\n", env!("CARGO_PKG_VERSION"))),
        // Whatever else a host adds is none of its business.
        _ => None,
    };
    if let Some(said) = said {
        // Whoever asked may have gone.
        drop(std::io::stdout().write_all(said.as_bytes()));
        return Ok(());
    }
    // A host passes no variable but its own on, and says it with its data.
    fanout_provider::log_as_json(std::env::var("FANOUT_LOG").is_ok_and(|form| form == "json"));
    fanout_provider::log_to_standard_error();
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(fanout_provider::run());
    // A name that is being resolved, which can't be called off, must not keep the process there.
    runtime.shutdown_background();
    ended
}
