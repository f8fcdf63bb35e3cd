//! The variables that the servers need, as docs/production.md lists them.

use std::path::Path;
use std::process::Command;

use fanout_transport::testing::TestAuthority;

use crate::cluster::{file, write};

/// The variables of the page's table, with its examples.
fn examples() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/production.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `FANOUT_NATS_")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let names: Vec<_> = cells[0].split('`').skip(1).step_by(2).collect();
        let (common, _) = names[0].rsplit_once('_').unwrap();
        let value = cells[1].trim_matches('`');
        examples.push((names[0].to_owned(), value.to_owned()));
        // The example of the first of three hosts stands for each.
        examples.extend(names[1..].iter().map(|end| {
            let value = value.replace("nats-1", &format!("nats{}", end.replace('_', "-")));
            (format!("{common}{end}"), value)
        }));
    }
    examples
}

#[test]
fn the_servers_read_the_examples_of_the_page_as_they_are_meant() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let shown = authority.sign("fanout-1");
    let files = [
        ("CA", write(folder.path(), "ca.pem", &authority.certificate())),
        ("CERTIFICATE", write(folder.path(), "1.pem", &shown.certificate)),
        ("KEY", write(folder.path(), "1.key", &shown.key)),
        ("STORE", folder.path().display().to_string()),
    ];
    let examples = examples();
    assert!(examples.len() > 11, "{examples:?}");
    let users = ["BUS", "OPERATOR", "MONITOR", "BACKUP", "HOST", "PLACE", "SYSTEM"];
    for server in ["server-1.conf", "place-hub.conf", "place-leaf.conf"] {
        // It only reads its configuration, and fails where a value is not of its setting's kind.
        let read = Command::new(std::env::var_os("FANOUT_NATS_SERVER").unwrap_or_else(|| "nats-server".into()))
            .args(["-t", "--config"])
            .arg(file(server))
            .envs(examples.clone())
            .envs(
                files
                    .clone()
                    .map(|(name, value)| (format!("FANOUT_NATS_{name}"), value)),
            )
            .envs(users.map(|user| (format!("FANOUT_{user}_PASSWORD"), "secret")))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&read.stderr);
        assert!(read.status.success(), "{server}: {said}");
    }
}
