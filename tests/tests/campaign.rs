//! The fault campaign, short and with fixed seeds: so many faults and events, on one server and on three.

use std::process::Command;

use fanout_tests::beside_the_tests;

/// What every machine lets be done, and what does not wait for a server that is slow to start.
const FAULTS: &str = "kill-server,freeze-server,kill-bus,freeze-bus,cut-store,hold-store,cut-clients,hold-clients,kill-edge,\
                      delete-consumer,corrupt-key,change-quota,rotate-certificate,change-topology,change-retention,\
                      change-retries,change-ordering,relink,slow-store,slow-clients";

/// One round, which keeps to every law.
fn holds(seed: &str, replicas: &str, faults: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(beside_the_tests("fanout-campaign"))
        .args(["--seed", seed, "--replicas", replicas, "--faults", faults])
        .args(["--steps", "6", "--events", "300", "--shrink", "0", "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains(" 0 violations"), "{told}");
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind() {
    let output = Command::new(beside_the_tests("fanout-campaign"))
        .args(["--churn", "400"])
        .env("RUST_LOG", "info")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("after another 400 connections") && !told.contains("LEAK"),
        "{told}"
    );
}

#[test]
fn a_bus_on_one_server_keeps_its_promises_under_faults() {
    holds("3", "1", FAULTS);
}

#[test]
fn a_bus_on_three_servers_keeps_its_promises_under_faults() {
    holds(
        "4",
        "3",
        &format!("{FAULTS},kill-two-servers,step-down-stream,step-down-consumer,partition-server"),
    );
}
