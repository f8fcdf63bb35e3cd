//! `fanout ready` and the manual pages: what images and packages take from the command line.

use fanout_tests::http_bus::HttpBus;
use fanout_tests::{eventually, fanout};

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_follows_the_bus() {
    let mut bus = HttpBus::start("").await;
    let url = bus.url("");
    assert_eq!(fanout(&["ready", &url]), (0, "ready\n".to_owned(), String::new()));
    let (code, out, _) = fanout(&["ready", &url, "--json"]);
    assert_eq!((code, out.contains("\"ready\":true")), (0, true), "{out}");
    bus.nats.kill();
    eventually("it is not ready", async || {
        let (code, out, err) = fanout(&["ready", &url]);
        (code == 1 && out.is_empty() && err.contains("store-unavailable")).then_some(())
    })
    .await;
    drop(bus);
    eventually("it is not there", async || {
        (fanout(&["ready", &url]).0 == 3).then_some(())
    })
    .await;
    assert_eq!(fanout(&["ready", "nonsense"]).0, 2);
}

#[test]
fn every_verb_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, err) = fanout(&["manual-pages", folder.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let (_, help, _) = fanout(&["--help"]);
    let verbs = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let verbs = verbs
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut count = 0;
    for verb in verbs.filter(|verb| !verb.is_empty() && *verb != "help") {
        let page = std::fs::read_to_string(folder.path().join(format!("fanout-{verb}.1")));
        let page = page.unwrap_or_else(|e| panic!("{verb} has no page: {e}"));
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
        count += 1;
    }
    assert!(count > 20, "{count} verbs");
    let main = std::fs::read_to_string(folder.path().join("fanout.1")).unwrap();
    assert!(!main.contains("manual-pages"), "a verb for packages is hidden");
}
