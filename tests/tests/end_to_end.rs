//! The demo's story on a real wasmCloud host, deployed by wadm: a smaller run of what `cargo xtask demo` shows. It checks
//! every number itself; here its verdict and what it leaves behind are looked at.

use std::path::PathBuf;
use std::process::{Command, Output};

fn dev_host() -> PathBuf {
    std::env::var_os("FANOUT_DEV_BIN")
        .map(PathBuf::from)
        .expect("FANOUT_DEV_BIN names no dev host: run `cargo xtask test`, which builds it and its parts")
}

fn story(events: &str, report: &std::path::Path, temporary: &std::path::Path) -> Output {
    Command::new(dev_host())
        // How soon the parts are ready is the demo's to measure: a test's machine may be busy.
        .args(["demo", "--events", events, "--ready-limit", "120", "--report"])
        .arg(report)
        .env("TMPDIR", temporary)
        .output()
        .expect("the dev host starts")
}

#[test]
fn the_story_holds_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let report = folder.path().join("report.json");
    let told = story("300", &report, &temporary);
    let (out, err) = (
        String::from_utf8_lossy(&told.stdout),
        String::from_utf8_lossy(&told.stderr),
    );
    assert!(told.status.success(), "{}\n{out}\n{err}", told.status);

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let checks = report["checks"].as_array().expect("the report lists what was checked");
    assert!(checks.len() >= 20, "{report:#}");
    assert!(checks.iter().all(|c| c["holds"] == true), "{report:#}");

    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().collect();
    assert!(left.is_empty(), "temporary files are left behind: {left:?}");
    let here = temporary.to_string_lossy().into_owned();
    let running: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&here))
        .collect();
    assert!(running.is_empty(), "processes are left behind: {running:?}");
}
