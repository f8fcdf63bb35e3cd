//! How many webhooks of each scheme are verified a second: natively, in a wasm runtime, and through the whole ingress on a
//! wasmCloud host, beside OpenSSL's HMAC over as many bytes.
//!
//! Verifying is timed by the program `webhook-measure` itself, which is built twice: for this machine, and as a component
//! with the profile of the components that are deployed. `cargo xtask bench` builds both and says where they are.

mod ingress;
mod sizes;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::case::Size;
use crate::report::{Report, Took};

/// The bodies' sizes, and what a table calls them.
pub(crate) const SIZES: [(usize, &str); 2] = [(1 << 10, "1 KiB"), (64 << 10, "64 KiB")];
const VERIFICATIONS: &str = "verifications/s";
const BYTES: &str = "MB/s";
const OPENSSL: &str = "OpenSSL HMAC-SHA256";
const ALONE: &str = "hmac-sha256";

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let programs = [
        ("native", vec![named("FANOUT_MEASURE_BIN")?]),
        (
            "wasm",
            vec![named("FANOUT_COMMAND_BIN")?, named("FANOUT_MEASURE_WASM")?],
        ),
    ];
    let least_ms = if size == Size::Quick { 10 } else { 100 };
    let mut cases = vec![OPENSSL.to_owned()];
    // Everything takes its turn, so that whatever else the machine does slows all of it.
    for _ in 0..size.rounds() {
        for (bytes, group) in SIZES {
            let rate = openssl(bytes, size)?;
            report.keep(group, OPENSSL, VERIFICATIONS, rate, None)?;
            report.keep(group, OPENSSL, BYTES, rate * bytes as f64 / 1e6, None)?;
        }
        for (place, program) in &programs {
            for case in measured(program, least_ms)? {
                let group = SIZES.iter().rev().find(|(bytes, _)| *bytes <= case.bytes);
                let (_, group) = group.context("a body is smaller than the smallest")?;
                let name = format!("{}, {place}", case.case);
                let rate = case.count as f64 / case.seconds;
                report.keep(
                    group,
                    &name,
                    VERIFICATIONS,
                    rate,
                    Some(Took::new(case.count, case.seconds)),
                )?;
                report.keep(group, &name, BYTES, rate * case.bytes as f64 / 1e6, None)?;
                if !cases.contains(&case.case) {
                    cases.push(case.case);
                }
            }
        }
    }
    let mut tables = verifications(report, &cases)?;
    tables.push_str(&ingress::run(report, size).await?);
    tables.push_str(&sizes::table(report)?);
    report.show(tables);
    Ok(())
}

/// One case as `webhook-measure` prints it.
#[derive(Debug, Deserialize)]
struct Measured {
    bytes: usize,
    case: String,
    count: usize,
    seconds: f64,
}

fn measured(program: &[PathBuf], least_ms: u64) -> Result<Vec<Measured>> {
    let (first, rest) = program.split_first().context("no program")?;
    let mut command = Command::new(first);
    let printed = printed(command.args(rest).arg(least_ms.to_string()))?;
    let read = |line| serde_json::from_str(line).with_context(|| format!("not a case: {line}"));
    printed.lines().map(read).collect()
}

/// HMACs a second by `openssl speed`. It takes bytes of its own: how long a hash takes does not depend on which.
fn openssl(bytes: usize, size: Size) -> Result<f64> {
    let seconds = if size == Size::Quick { "1" } else { "2" };
    let mut command = Command::new("openssl");
    command.args(["speed", "-mr", "-hmac", "sha256", "-bytes", &bytes.to_string()]);
    let printed = printed(command.args(["-seconds", seconds]))
        .context("OpenSSL is what this is compared with: install the command `openssl`")?;
    // `+F:9:hmac(sha256):1155371959.60`, in bytes a second.
    let rate = printed.lines().find(|line| line.starts_with("+F:"));
    let rate = rate.and_then(|line| line.rsplit(':').next()?.parse::<f64>().ok());
    Ok(rate.context("openssl speed says no rate")? / bytes as f64)
}

fn printed(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("can't run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{program} printed something that is not text"))
}

/// What `cargo xtask bench` names.
fn named(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.with_context(|| format!("{variable} is not set: run `cargo xtask bench webhooks`, which builds what it names"))
}

fn verifications(report: &Report, cases: &[String]) -> Result<String> {
    let mut table = String::new();
    for (_, group) in SIZES {
        writeln!(
            table,
            "\n| {group} | native, a second | MB/s | of OpenSSL | wasm, a second | MB/s | of native |\n\
             |---|---:|---:|---:|---:|---:|---:|"
        )?;
        let openssl = report.median(group, OPENSSL, VERIFICATIONS);
        for case in cases {
            let of = |place: &str, unit: &str| report.median(group, &format!("{case}, {place}"), unit);
            let (rate, bytes) = match case.as_str() {
                OPENSSL => (openssl, report.median(group, OPENSSL, BYTES)),
                _ => (of("native", VERIFICATIONS), of("native", BYTES)),
            };
            let (wasm, wasm_bytes) = (of("wasm", VERIFICATIONS), of("wasm", BYTES));
            let name = if case == ALONE { "HMAC-SHA256 alone" } else { case };
            writeln!(
                table,
                "| {name} | {} | {} | {} | {} | {} | {} |",
                whole(rate),
                whole(bytes),
                ratio(rate, openssl),
                whole(wasm),
                whole(wasm_bytes),
                ratio(wasm, rate)
            )?;
        }
    }
    Ok(table)
}

/// A figure in thousands; nothing for none.
pub(crate) fn whole(value: Option<f64>) -> String {
    let Some(value) = value else { return String::new() };
    if value < 10.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

fn ratio(value: Option<f64>, base: Option<f64>) -> String {
    match (value, base) {
        (Some(value), Some(base)) if base > 0.0 => format!("{:.2}", value / base),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_in_thousands() {
        let shown = [0.25, 9.96, 999.6, 12_345.0, 1_234_567.0].map(|value| whole(Some(value)));
        assert_eq!(shown, ["0.2", "10.0", "1,000", "12,345", "1,234,567"]);
        assert_eq!(whole(None), "");
        assert_eq!(
            (ratio(Some(1.0), Some(4.0)), ratio(Some(1.0), None)),
            ("0.25".to_owned(), String::new())
        );
    }
}
