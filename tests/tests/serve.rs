//! `fanout serve`, `publish` and `subscribe` as processes: what they print, their exit codes, and who may do what.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served, beside_the_tests, eventually};
use fanout_transport::testing::NatsServer;
use serde_json::Value;

struct World {
    nats: NatsServer,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self {
            nats: NatsServer::start().await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn policy(&self, more: &str) -> PathBuf {
        let path = self.path("policy.toml");
        std::fs::write(&path, format!("{SERVED_POLICY}{more}")).unwrap();
        path
    }

    fn serve(&self, policy: &Path, listen: &[&str]) -> Served {
        let args: Vec<_> = listen.iter().flat_map(|url| ["--listen", *url]).collect();
        Served::start(&self.nats.url(), policy, &args)
    }
}

/// Exit code, standard output and error.
fn fanout(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(beside_the_tests("fanout"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn publish(to: &str, tenant: &str, id: &str) -> (i32, String, String) {
    fanout(&[
        "publish",
        "--to",
        to,
        "--tenant",
        tenant,
        "--type",
        "invoice.paid",
        "--id",
        id,
        "--data",
        "{\"n\":1}",
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_and_subscribe_over_tcp_and_a_unix_socket() {
    let world = World::new().await;
    let policy = world.policy(ANYONE_HERE);
    let socket = format!("unix:{}", world.path("bus.sock").display());
    let mut served = world.serve(&policy, &["tcp://127.0.0.1:0", &socket]);
    let tcp = served.listen[0].clone();
    assert_eq!(served.listen[1], socket);

    let (code, out, err) = publish(&tcp, "acme", "1");
    assert_eq!(
        (code, out.as_str()),
        (0, "stored at 0/1, for 0 durable subscriptions\n"),
        "{err}"
    );
    let (code, out, _) = publish(&tcp, "acme", "1");
    assert_eq!(
        (code, out.as_str()),
        (0, "stored at 0/1, stored before, for 0 durable subscriptions\n")
    );

    // On the socket this user is nobody that the policy names.
    let (code, _, err) = publish(&socket, "acme", "2");
    assert_eq!(code, 1);
    assert!(err.contains("unix user") && err.contains("[unknown-caller]"), "{err}");

    let backfill = |name: &str, count: &str| {
        fanout(&[
            "--json",
            "subscribe",
            "--to",
            &tcp,
            "--need",
            "backfill",
            "--name",
            name,
            "--from",
            "first",
            "--count",
            count,
        ])
    };
    publish(&tcp, "globex", "2");
    let (code, out, err) = backfill("all", "2");
    assert_eq!(code, 0, "{err}");
    let events: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(
        (&events[0]["id"], &events[0]["data"]),
        (&"1".into(), &"{\"n\":1}".into())
    );
    assert_eq!(
        (&events[1]["tenant"], &events[1]["replayed"]),
        (&"globex".into(), &true.into())
    );
    // It goes on where it was: what was printed was acknowledged.
    publish(&tcp, "acme", "3");
    let (_, out, _) = backfill("all", "1");
    let event: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((&event["id"], &event["position"]), (&"3".into(), &"0/3".into()));

    // It lasts until it is ended, and ended it begins anew.
    let (code, out, err) = fanout(&["unsubscribe", "--to", &tcp, "--name", "all"]);
    assert_eq!((code, out.as_str()), (0, "subscription all is ended\n"), "{err}");
    let (code, _, err) = fanout(&["unsubscribe", "--to", &tcp, "--name", "all"]);
    assert_eq!(code, 1);
    assert!(err.contains("all") && err.contains("[unknown-subscription]"), "{err}");
    let (_, out, _) = backfill("all", "1");
    let event: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((&event["id"], &event["position"]), (&"1".into(), &"0/1".into()));

    served.signal("TERM");
    assert!(served.ended(), "{}", served.log());
    assert!(!world.path("bus.sock").exists(), "the socket goes with the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_says_who_may_do_what_and_is_read_again() {
    let world = World::new().await;
    let uid = Command::new("id").arg("-u").output().unwrap().stdout;
    let uid = String::from_utf8(uid).unwrap();
    let caller = |tenants: &str| {
        let uid = uid.trim();
        format!(
            "\n[callers.me]\nunix-uid = {uid}\npublish.tenants = {tenants}\npublish.event-types = [\"invoice.*\"]\n"
        )
    };
    let policy = world.policy(&caller("[\"acme\"]"));
    let socket = format!("unix:{}", world.path("bus.sock").display());
    let served = world.serve(&policy, &[&socket, "tcp://127.0.0.1:0"]);
    assert_eq!(publish(&socket, "acme", "1").0, 0);
    let (code, _, err) = publish(&socket, "globex", "2");
    assert_eq!(code, 1);
    assert!(
        err.contains(
            "caller me does not allow tenant globex: add it to `callers.me.publish.tenants` [tenant-not-permitted]"
        ),
        "{err}"
    );
    let (code, _, err) = fanout(&[
        "publish",
        "--to",
        &socket,
        "--tenant",
        "acme",
        "--type",
        "charge.made",
        "--id",
        "3",
    ]);
    assert_eq!(code, 1);
    let setting = "`callers.me.publish.event-types` [event-type-not-permitted]";
    assert!(err.contains(setting), "{err}");
    let (code, _, err) = fanout(&[
        "subscribe",
        "--to",
        &socket,
        "--need",
        "durable",
        "--name",
        "x",
        "--count",
        "1",
    ]);
    assert_eq!(code, 1);
    assert!(err.contains("`callers.me.interfaces` [interface-not-linked]"), "{err}");
    let (code, _, err) = publish(&served.listen[1], "acme", "4");
    assert_eq!(code, 1);
    assert!(err.contains("[unknown-caller]"), "{err}");

    world.policy(&caller("\"*\""));
    served.signal("HUP");
    eventually("the wider policy is in force", || async {
        (publish(&socket, "globex", "2").0 == 0).then_some(())
    })
    .await;
    // One that is not legal changes nothing.
    world.policy("\n[callers.me]\ncolour = \"red\"\n");
    served.signal("HUP");
    eventually("the other one is refused", || async {
        served.log().contains("unknown-setting").then_some(())
    })
    .await;
    assert_eq!(publish(&socket, "globex", "5").0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_served_says_why() {
    let world = World::new().await;
    let nats = world.nats.url();
    let serve = |policy: &Path, more: &[&str]| {
        let path = policy.display().to_string();
        let mut args = vec!["--json", "serve", "--policy", &path, "--nats"];
        args.extend_from_slice(more);
        fanout(&args)
    };
    let codes = |err: &str| {
        let last = err.lines().last().unwrap_or_default();
        let said: Value = serde_json::from_str(last).unwrap_or_default();
        let problems = said["problems"].as_array().cloned().unwrap_or_default();
        problems
            .iter()
            .map(|p| p["code"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let policy = world.policy("[callers.x]\ncolour = 1\n");
    let (code, _, err) = serve(&policy, &[&nats, "--listen", "tcp://127.0.0.1:0"]);
    assert_eq!(
        (code, codes(&err)),
        (1, vec!["missing-setting".into(), "unknown-setting".into()]),
        "{err}"
    );
    let policy = world.policy(ANYONE_HERE);
    let (code, _, err) = serve(&policy, &[&nats]);
    assert_eq!((code, codes(&err)), (1, vec!["missing-setting".to_owned()]), "{err}");
    for url in ["tcp://0.0.0.0:0", "quic://127.0.0.1:0", "unix:/nowhere/at/all.sock"] {
        let (code, _, err) = serve(&policy, &[&nats, "--listen", url]);
        assert_eq!(
            (code, codes(&err)),
            (1, vec!["listen-failed".to_owned()]),
            "{url}: {err}"
        );
    }
    for url in ["ws://127.0.0.1:0/bus", "wss://localhost:0", "7761"] {
        let (code, _, err) = serve(&policy, &[&nats, "--listen", url]);
        assert_eq!(
            (code, codes(&err)),
            (1, vec!["invalid-endpoint".to_owned()]),
            "{url}: {err}"
        );
    }
    // What to change is named as it was written: here by flags.
    let junk = world.path("junk.pem").display().to_string();
    std::fs::write(&junk, "junk").unwrap();
    for (more, names) in [
        (
            &["tcp://0.0.0.0:0"][..],
            &["`--tls-client-ca FILE`", "`--allow-unauthenticated-network-peers`"][..],
        ),
        (
            &["quic://127.0.0.1:0"],
            &["`--tls-certificate FILE` and `--tls-key FILE`"],
        ),
        (
            &["tls://127.0.0.1:0", "--tls-certificate", &junk, "--tls-key", "k"],
            &["junk.pem", "see `--tls-certificate FILE`"],
        ),
        (
            &["unix:/nowhere/at/all.sock"],
            &["it can't listen on unix:/nowhere/at/all.sock: No such"],
        ),
    ] {
        let (_, _, err) = serve(&policy, &[&[&nats, "--listen"], more].concat());
        assert!(names.iter().all(|name| err.contains(name)), "{more:?}: {err}");
        assert!(!err.contains("client_ca") && !err.contains("set tls"), "{err}");
    }
    // And here by settings.
    let listens = world.policy(ANYONE_HERE);
    let text = std::fs::read_to_string(&listens).unwrap();
    std::fs::write(&listens, format!("listen = [\"tcp://0.0.0.0:0\"]\n{text}")).unwrap();
    let (_, _, err) = serve(&listens, &[&nats]);
    assert!(err.contains("`tls.client-ca`") && !err.contains("--tls"), "{err}");
    let policy = world.policy("[callers.x]\ncertificate = \"spiffe://x\"\npublish.tenants = \"*\"\n");
    let (code, _, err) = serve(&policy, &[&nats, "--listen", "tcp://127.0.0.1:0"]);
    assert_eq!((code, codes(&err)), (1, vec!["unknown-setting".to_owned()]), "{err}");
    assert!(err.contains("certificate-uri"), "{err}");
    let policy = world.policy(ANYONE_HERE);
    let (code, _, err) = serve(&policy, &["nats://127.0.0.1:1", "--listen", "tcp://127.0.0.1:0"]);
    assert_eq!(code, 3, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_an_exit_code_of_its_own() {
    let (code, _, err) = fanout(&[
        "publish",
        "--to",
        "tcp://127.0.0.1:1",
        "--tenant",
        "a",
        "--type",
        "b",
        "--id",
        "c",
        "--timeout",
        "1",
    ]);
    assert_eq!(code, 3);
    assert!(err.contains("[peer-unreachable]"), "{err}");
    let (code, _, err) = fanout(&[
        "publish", "--to", "ftp://x", "--tenant", "a", "--type", "b", "--id", "c",
    ]);
    assert_eq!(code, 1);
    assert!(err.contains("[invalid-endpoint]"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_told_to_end_gives_back_what_it_did_not_print() {
    let world = World::new().await;
    let policy = world.policy(&ANYONE_HERE.replace("ack-wait = \"2s\"", "ack-wait = \"60s\""));
    let served = world.serve(&policy, &["tcp://127.0.0.1:0"]);
    let tcp = &served.listen[0];
    for id in ["1", "2", "3"] {
        assert_eq!(publish(tcp, "acme", id).0, 0);
    }
    // Takes one of three; the others are there for the next.
    for id in ["1", "2", "3"] {
        let (code, out, err) = fanout(&[
            "subscribe",
            "--to",
            tcp,
            "--need",
            "backfill",
            "--name",
            "each",
            "--count",
            "1",
        ]);
        assert_eq!(code, 0, "{err}");
        assert!(out.contains(&format!(" invoice.paid {id} ")), "{out}");
    }
    let mut waiting = Command::new(beside_the_tests("fanout"))
        .args(["subscribe", "--to", tcp, "--need", "backfill", "--name", "waits"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(waiting.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("invoice.paid"), "it runs");
    let stopped = Command::new("kill")
        .args(["-s", "TERM", &waiting.id().to_string()])
        .status();
    assert!(stopped.unwrap().success());
    let ended = eventually("it ends", || {
        let ended = waiting.try_wait().unwrap();
        async move { ended }
    })
    .await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_at_a_time_and_after_a_wait() {
    let world = World::new().await;
    let policy = world.policy(ANYONE_HERE);
    let served = world.serve(&policy, &["tcp://127.0.0.1:0"]);
    let to = served.listen[0].clone();
    let later = |id: &str, at: &str| {
        let args = [
            "publish",
            "--to",
            &to,
            "--tenant",
            "acme",
            "--type",
            "invoice.due",
            "--id",
            id,
        ];
        fanout(&[&args[..], &["--at", at]].concat())
    };
    assert_eq!(
        later("far", "2030-01-02T03:04:05Z"),
        (0, "to be published at 2030-01-02T03:04:05Z\n".into(), String::new())
    );
    let (code, out, _) = later("far", "+10m");
    assert_eq!(
        (code, out.as_str()),
        (0, "to be published at 2030-01-02T03:04:05Z, kept before\n")
    );
    let (code, out, err) = later("soon", "+1s");
    assert!(code == 0 && out.starts_with("to be published at 2"), "{out}{err}");
    // Of the two, the one whose time has come is there.
    let (code, out, err) = fanout(&[
        "subscribe",
        "--to",
        &to,
        "--need",
        "backfill",
        "--name",
        "all",
        "--from",
        "first",
        "--count",
        "1",
    ]);
    assert!(code == 0 && out.contains("acme invoice.due soon"), "{out}{err}");
    for wrong in ["tomorrow", "+", "+10", "-10m", "2030-13-01T00:00:00Z"] {
        let (code, _, err) = later("x", wrong);
        assert_eq!(code, 2, "{wrong}: {err}");
        assert!(wrong == "-10m" || err.contains("write a time such as"), "{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_s_errors_name_its_flags_and_its_settings() {
    let world = World::new().await;
    let policy = world.policy(ANYONE_HERE);
    let served = world.serve(&policy, &["tcp://127.0.0.1:0"]);
    let junk = world.path("junk.pem").display().to_string();
    std::fs::write(&junk, "junk").unwrap();
    let to = |url: &str, more: &[&str]| {
        let args = ["publish", "--to", url, "--tenant", "acme", "--type", "t", "--id", "1"];
        fanout(&[&args[..], more].concat())
    };
    for url in [
        "tls://127.0.0.1:1",
        "quic://127.0.0.1:1",
        "webtransport://127.0.0.1:1/bus",
    ] {
        let (code, _, err) = to(url, &[]);
        assert!(
            code == 1 && err.contains("`--tls-ca FILE` [invalid-credentials]"),
            "{url}: {err}"
        );
    }
    let (code, _, err) = to("tls://127.0.0.1:1", &["--tls-ca", &junk]);
    assert!(
        code == 1 && err.contains("see `--tls-ca FILE` [invalid-credentials]"),
        "{err}"
    );

    // Who is no component has no link.
    let fetch = [
        "subscribe",
        "--to",
        &served.listen[0],
        "--need",
        "declared",
        "--name",
        "nothere",
        "--count",
        "1",
    ];
    let (code, _, err) = fanout(&fetch);
    assert_eq!(code, 1);
    assert!(
        err.contains("caller anyone has no subscription \"nothere\"") && !err.contains("link"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_waited_out_until_the_timeout() {
    let world = World::new().await;
    let policy = world.policy(&format!("\n[quota]\nevents-per-second = 1\n{ANYONE_HERE}"));
    let served = world.serve(&policy, &["tcp://127.0.0.1:0"]);
    let to = served.listen[0].clone();
    let bus = fanout_client::connect(&to).await.unwrap();
    // More than may come at once: what follows waits for as many seconds.
    let many = async |run: &str, n: usize| {
        let events: Vec<_> = (0..n)
            .map(|i| fanout_client::Event::new("acme", "a", format!("{run}-{i}")))
            .collect();
        eventually("they are taken together", async || {
            bus.publish_together(&events).await.ok()
        })
        .await;
    };
    let publish = |id: &str, timeout: &str| {
        let args = [
            "--json", "publish", "--to", &to, "--tenant", "acme", "--type", "a", "--id", id,
        ];
        fanout(&[&args[..], &["--timeout", timeout]].concat())
    };
    many("a", 600).await;
    let (code, _, err) = publish("refused", "1");
    let refused: Value = serde_json::from_str(&err).unwrap();
    let problem = &refused["problems"][0];
    assert_eq!((code, problem["code"].as_str()), (1, Some("quota-exceeded")), "{err}");
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 1_000, "{err}");
    let setting = "`quota.events-per-second` (for this tenant alone `quota.tenant.acme.events-per-second`)";
    assert!(problem["message"].as_str().unwrap().contains(setting), "{err}");

    let other = |id: &str| {
        let args = [
            "--json", "publish", "--to", &to, "--tenant", "globex", "--type", "a", "--id", id,
        ];
        fanout(&args)
    };
    // Its quota is used up for seconds: who does not wait is refused.
    let events: Vec<_> = (0..6)
        .map(|i| fanout_client::Event::new("globex", "a", format!("g-{i}")))
        .collect();
    bus.publish_together(&events).await.unwrap();
    let at_once = bus.publish(&fanout_client::Event::new("globex", "a", "at-once")).await;
    let wait = at_once.unwrap_err().retry_after().expect("its quota is used up");
    assert!(!wait.is_zero());
    let (code, out, err) = other("waits");
    let stored: Value = serde_json::from_str(&out).unwrap_or_default();
    assert_eq!((code, stored["duplicate"].as_bool()), (0, Some(false)), "{out}{err}");
}
