//! What the command line prints: nothing of an event, a reason or an answer steers a terminal, an event is known by its
//! id and source, and a reader that closes the pipe ends a command quietly.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use fanout_client::{Event, Subscription};
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served, beside_the_tests, eventually};
use fanout_transport::testing::NatsServer;
use serde_json::Value;

/// What a terminal obeys, or a reader is deceived by.
const HOSTILE: &str =
    "a\u{1b}[2J\u{1b}]0;owned\u{7}\r\u{8}\u{7f}\u{9b}31m\u{85}\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}z";

fn is_hostile(c: char) -> bool {
    HOSTILE.contains(c) && !c.is_ascii_graphic()
}

/// Exit code, standard output and error; the streams that are closed have no reader.
fn run(args: &[&str], closed: bool) -> (i32, String, String) {
    let mut command = Command::new(beside_the_tests("fanout"));
    command.args(args).stdin(Stdio::null());
    if closed {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

struct World {
    nats: NatsServer,
    folder: tempfile::TempDir,
    served: Served,
}

impl World {
    async fn start() -> Self {
        let nats = NatsServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        let subscription = "\n[subscriptions.invoicing]\nneed = \"durable\"\n";
        std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}{subscription}")).unwrap();
        let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
        Self { nats, folder, served }
    }

    fn policy(&self) -> PathBuf {
        self.folder.path().join("policy.toml")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_printed_steers_a_terminal() {
    let world = World::start().await;
    let bus = fanout_client::connect(&world.served.listen[0]).await.unwrap();
    let event = Event::new("acme", "invoice.paid", "evt_7")
        .source("/till/3")
        .data(HOSTILE);
    let mut deliveries = bus.subscribe(Subscription::durable("billing")).await.unwrap();
    bus.publish(&event).await.unwrap();
    let delivery = deliveries.recv().await.unwrap().unwrap();
    delivery.dead_letter(format!("no {HOSTILE}")).await.unwrap();
    let (policy, url) = (world.policy().display().to_string(), world.nats.url());
    let store = [policy.as_str(), "--nats", &url];
    eventually("it is a dead letter", async || {
        let (_, out, _) = run(&[&["dead-letters", "list"], &store[..]].concat(), false);
        out.contains("billing").then_some(())
    })
    .await;
    let to = world.served.listen[0].as_str();
    let again = [
        "subscribe",
        "--to",
        to,
        "--need",
        "backfill",
        "--name",
        "all",
        "--from",
        "first",
        "--count",
        "1",
    ];
    let again_as_json = [
        "subscribe",
        "--to",
        to,
        "--need",
        "backfill",
        "--name",
        "all-json",
        "--from",
        "first",
        "--count",
        "1",
    ];
    let tail = [&["tail"], &store[..], &["--from", "first", "--count", "1"]].concat();
    for (verb, holds) in [
        (&tail[..], true),
        (&[&["dead-letters", "list"], &store[..]].concat(), true),
        (&[&["dead-letters", "show"], &store[..], &["1"]].concat(), true),
        (&[&["status"], &store[..]].concat(), false),
        (&again, true),
    ] {
        let (code, out, err) = run(verb, false);
        assert_eq!((code, err.as_str()), (0, ""), "{verb:?}: {out}");
        assert!(!out.chars().any(is_hostile), "{verb:?}: {out:?}");
        assert_eq!(out.contains("\\u{1b}[2J"), holds, "{verb:?}: {out}");
        let as_json: Vec<_> = match verb == again {
            true => again_as_json.to_vec(),
            false => verb.to_vec(),
        };
        let (code, out, _) = run(&[&["--json"], &as_json[..]].concat(), false);
        assert!(code == 0 && !out.chars().any(is_hostile), "{verb:?}: {out:?}");
        let read: Value = serde_json::from_str(&out).expect("it is JSON");
        assert!(!holds || read.to_string().contains("owned"), "{read}");
    }
    let (_, out, _) = run(&tail, false);
    assert!(out.contains(" acme invoice.paid /till/3 evt_7 "), "{out}");
    // Errors repeat what was given, and what peers say.
    let (code, _, err) = run(&[&["tail"], &store[..], &["--tenant", HOSTILE]].concat(), false);
    assert!(code == 2 && !err.chars().any(is_hostile), "{err:?}");
    for args in [
        &["status", HOSTILE, "--nats", &url][..],
        &["--json", "status", HOSTILE, "--nats", &url],
        &["publish", "--to", to, "--tenant", HOSTILE, "--type", "t", "--id", "1"],
        &[
            "publish", "--to", to, "--tenant", "acme", "--type", HOSTILE, "--id", "1",
        ],
    ] {
        let (code, _, err) = run(args, false);
        assert_eq!(code, 1, "{err}");
        assert!(!err.chars().any(is_hostile), "{err:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_a_command_quietly() {
    let world = World::start().await;
    let (policy, url) = (world.policy().display().to_string(), world.nats.url());
    let to = world.served.listen[0].as_str();
    let (code, _, _) = run(
        &[
            "publish", "--to", to, "--tenant", "acme", "--type", "t", "--id", "1", "--data", "x",
        ],
        false,
    );
    assert_eq!(code, 0);
    let store = [policy.as_str(), "--nats", &url];
    let of = |verb: &[&'static str], more: &[&'static str]| -> Vec<String> {
        let all = verb.iter().chain(&store).chain(more);
        all.map(|s| (*s).to_owned()).collect()
    };
    let mut verbs = vec![
        of(&["check"], &[]),
        of(&["explain"], &[]),
        of(&["plan"], &[]),
        of(&["apply"], &[]),
        of(&["status"], &[]),
        of(&["tail"], &["--from", "first"]),
        of(&["dead-letters", "list"], &[]),
        of(&["pause"], &["invoicing"]),
        of(&["resume"], &["invoicing"]),
        of(&["rewind"], &["invoicing", "--to", "first"]),
    ];
    for plain in [
        &["completions", "bash"][..],
        &["publish", "--to", to, "--tenant", "acme", "--type", "t", "--id", "2"],
        &[
            "subscribe",
            "--to",
            to,
            "--need",
            "backfill",
            "--name",
            "x",
            "--from",
            "first",
        ],
    ] {
        verbs.push(plain.iter().map(|s| (*s).to_owned()).collect());
    }
    for verb in verbs {
        for json in [false, true] {
            let mut args: Vec<&str> = verb.iter().map(String::as_str).collect();
            if json {
                args.insert(0, "--json");
            }
            let (code, _, err) = run(&args, true);
            assert_eq!((code, err.as_str()), (141, ""), "{args:?}");
        }
    }
    for args in [&["--help"][..], &["--version"], &["status", "--help"]] {
        let (code, _, err) = run(args, true);
        assert!(code == 0 && err.is_empty(), "{args:?}: {err}");
    }
    // An apply that nobody reads is finished all the same.
    let fresh = world.policy().with_file_name("fresh.toml");
    std::fs::write(&fresh, "bus = \"fresh\"\nsubject = \"fresh.{tenant}.{event-type}\"\n").unwrap();
    let fresh = fresh.display().to_string();
    assert_eq!(run(&["apply", &fresh, "--nats", &url], true).0, 141);
    let (code, out, _) = run(&["apply", &fresh, "--nats", &url], false);
    assert!(code == 0 && out.contains("nothing to do"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_errors_nobody_reads_goes_on() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut served = Command::new(beside_the_tests("fanout"))
        .args([
            "--json",
            "serve",
            "--listen",
            "tcp://127.0.0.1:0",
            "--nats",
            &nats.url(),
            "--policy",
        ])
        .arg(&policy)
        .env("RUST_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(writer)
        .spawn()
        .unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(served.stdout.take().unwrap()), &mut ready).unwrap();
    let ready: Value = serde_json::from_str(&ready).expect("it serves");
    let to = ready["listen"][0].as_str().unwrap();
    for id in ["1", "2", "3"] {
        let (code, _, err) = run(
            &["publish", "--to", to, "--tenant", "acme", "--type", "t", "--id", id],
            false,
        );
        assert_eq!(code, 0, "{err}");
    }
    assert!(served.try_wait().unwrap().is_none(), "it goes on");
    served.kill().unwrap();
    served.wait().unwrap();
}

#[test]
fn the_provider_s_binary_says_what_it_is() {
    for (flag, says) in [("--help", "wasmCloud host"), ("--version", env!("CARGO_PKG_VERSION"))] {
        for closed in [false, true] {
            let mut command = Command::new(beside_the_tests("fanout-provider"));
            command.arg(flag).stdin(Stdio::null());
            if closed {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                command.stdout(writer);
            }
            let Output { status, stdout, stderr } = command.output().unwrap();
            assert!(
                status.success() && stderr.is_empty(),
                "{flag}: {}",
                String::from_utf8_lossy(&stderr)
            );
            assert!(closed || String::from_utf8_lossy(&stdout).contains(says), "{flag}");
        }
    }
}
