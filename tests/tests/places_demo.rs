//! The demo of places: a smaller run of what `cargo xtask demo --places` shows. It checks every number itself; here its verdict
//! and what it leaves behind are looked at.

use std::process::Command;

use fanout_tests::beside_the_tests;
use serde_json::Value;

#[test]
fn the_demo_of_places_proves_what_it_says_and_leaves_nothing_behind() {
    // The region's webhooks come in by a component in the dev host's runtime.
    assert!(
        std::env::var_os("FANOUT_DEV_BIN").is_some(),
        "FANOUT_DEV_BIN names no dev host: run `cargo xtask test`, which builds it and its parts"
    );
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let report = folder.path().join("report.json");
    let told = Command::new(beside_the_tests("fanout-places"))
        .args(["--events", "10", "--report"])
        .arg(&report)
        .env("FANOUT_BIN", beside_the_tests("fanout"))
        .env("FANOUT_LOGS", folder.path())
        .env("TMPDIR", &temporary)
        .output()
        .expect("the demo runs");
    let (out, err) = (
        String::from_utf8_lossy(&told.stdout),
        String::from_utf8_lossy(&told.stderr),
    );
    assert!(told.status.success(), "{}\n{out}\n{err}", told.status);
    assert!(out.contains("PROVED by "), "{out}");

    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let checks = report["checks"].as_array().expect("the report lists what was checked");
    assert!(checks.len() >= 40, "{report:#}");
    assert!(checks.iter().all(|c| c["holds"] == true), "{report:#}");
    let places = report["places"]
        .as_array()
        .expect("the report has a row for each place");
    // At each, ten in each of the acts in which it is a place of the bus.
    for (name, least) in [("frankfurt", 70), ("virginia", 60), ("shop", 70), ("oregon", 20)] {
        let place = places.iter().find(|place| place["origin"] == name);
        let place = place.unwrap_or_else(|| panic!("{name} has no row: {report:#}"));
        let wanted = place["invoicing"]["wanted"].as_u64();
        assert!(wanted >= Some(least), "{report:#}");
        for log in ["frankfurt", "shop", "oregon"] {
            assert_eq!(place["stored"][log].as_u64(), wanted, "{report:#}");
        }
    }

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
