//! A bus over HTTP as processes: tokens are made, shown, replaced and refused, and everything else is as on any listener.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use fanout_tests::{SERVED_POLICY, Served, beside_the_tests, eventually};
use fanout_transport::Pem;
use fanout_transport::testing::{NatsServer, TestAuthority};
use serde_json::Value;

/// Exit code, standard output and error.
fn fanout(args: &[&str], token: Option<&str>) -> (i32, String, String) {
    let mut command = Command::new(beside_the_tests("fanout"));
    command.args(args).env_remove("FANOUT_TOKEN").stdin(Stdio::null());
    if let Some(token) = token {
        command.env("FANOUT_TOKEN", token);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn publish(to: &str, tenant: &str, id: &str, more: &[&str], token: Option<&str>) -> (i32, String, String) {
    let args = [
        "publish",
        "--to",
        to,
        "--tenant",
        tenant,
        "--type",
        "invoice.paid",
        "--id",
        id,
        "--timeout",
        "5",
    ];
    fanout(&[&args, more].concat(), token)
}

/// A token, and what a policy lists of it.
fn token() -> (String, String) {
    let (code, out, err) = fanout(&["--json", "token"], None);
    assert_eq!(code, 0, "{err}");
    let made: Value = serde_json::from_str(&out).unwrap();
    let of = |field: &str| made[field].as_str().unwrap().to_owned();
    (of("token"), of("sha256"))
}

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

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn policy(&self, hashes: &[&str]) -> PathBuf {
        let callers = format!(
            "\n[callers.orders]\ntoken-sha256 = {hashes:?}\npublish.tenants = [\"acme\"]\nsubscribe.tenants = [\"acme\"]\n\
             \n[callers.local]\nloopback = true\npublish.tenants = \"*\"\n\
             \n[callers.billing]\ncertificate-dns = \"billing.example\"\npublish.tenants = \"*\"\n"
        );
        self.write("policy.toml", &format!("{SERVED_POLICY}{callers}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_shown_and_replaced() {
    let world = World::new().await;
    let (code, out, err) = fanout(&["token"], None);
    let shown = out.trim_end();
    assert_eq!(code, 0);
    assert!(
        shown.starts_with("fanout_") && shown.len() == 7 + 43 && !shown.contains('\n'),
        "{out}"
    );
    assert!(err.contains("token-sha256 = [\"") && !err.contains(shown), "{err}");

    let ((old, old_hash), (new, new_hash)) = (token(), token());
    assert_ne!(old, new);
    let policy = world.policy(&[&old_hash]);
    let served = Served::start(&world.nats.url(), &policy, &["--listen", "http://127.0.0.1:0"]);
    let to = served.listen[0].clone();
    assert!(to.starts_with("http://127.0.0.1:"), "{to}");
    let file = world.write("orders.token", &format!("{old}\n")).display().to_string();
    let by_file = ["--token-file", file.as_str()];
    let (code, out, err) = publish(&to, "acme", "1", &by_file, None);
    assert_eq!(
        (code, out.as_str()),
        (0, "stored at 0/1, for 0 durable subscriptions\n"),
        "{err}"
    );
    assert_eq!(publish(&to, "acme", "2", &[], Some(&old)).0, 0);
    // This machine's processes may publish for anyone, and the holder of a token for its caller's tenants.
    assert_eq!(publish(&to, "globex", "3", &[], None).0, 0);
    let (code, _, err) = publish(&to, "globex", "4", &by_file, None);
    assert!(
        code == 1 && err.contains("caller orders does not allow tenant globex"),
        "{err}"
    );
    // A token that nobody has is nobody's, although this machine's processes may call.
    let (code, _, err) = publish(&to, "acme", "5", &[], Some(&new));
    assert!(code == 1 && err.contains("token-sha256"), "{err}");
    assert!(!err.contains(&new), "{err}");

    let subscribed = fanout(
        &[
            "subscribe",
            "--to",
            &to,
            "--token-file",
            &file,
            "--need",
            "backfill",
            "--name",
            "all",
            "--from",
            "first",
            "--count",
            "2",
        ],
        None,
    );
    assert_eq!((subscribed.0, subscribed.1.lines().count()), (0, 2), "{}", subscribed.2);

    world.policy(&[&old_hash, &new_hash]);
    served.signal("HUP");
    eventually("both tokens are the caller's", || async {
        (publish(&to, "acme", "6", &[], Some(&new)).0 == 0).then_some(())
    })
    .await;
    assert_eq!(publish(&to, "acme", "7", &[], Some(&old)).0, 0);
    world.policy(&[&new_hash]);
    served.signal("HUP");
    eventually("the old one is nobody's", || async {
        (publish(&to, "acme", "8", &[], Some(&old)).0 == 1).then_some(())
    })
    .await;
    assert_eq!(publish(&to, "acme", "9", &[], Some(&new)).0, 0);
    for secret in [&old, &new] {
        assert!(!served.log().contains(secret.as_str()), "a token is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_taken_where_it_means_nothing() {
    let world = World::new().await;
    let (made, _) = token();
    let file = world.write("orders.token", &made).display().to_string();
    for to in ["tcp://127.0.0.1:1", "http://192.0.2.1:80"] {
        let (code, _, err) = publish(to, "acme", "1", &["--token-file", &file], None);
        assert!(
            code == 1 && err.contains("token") && !err.contains(&made),
            "{to}: {err}"
        );
    }
    let (code, _, err) = publish(
        "http://127.0.0.1:1",
        "acme",
        "1",
        &["--token-file", "/nowhere/at/all"],
        None,
    );
    assert!(code == 1 && err.contains("--token-file /nowhere/at/all"), "{err}");
    let junk = world.write("junk.token", "two words\n").display().to_string();
    let (code, _, err) = publish("http://127.0.0.1:1", "acme", "1", &["--token-file", &junk], None);
    assert!(
        code == 1 && err.contains("--token-file FILE") && !err.contains("two words"),
        "{err}"
    );
    // A token in a policy is no hash, and is not repeated.
    let policy = world.policy(&[&made]);
    let (code, out, err) = fanout(&["check", &policy.display().to_string()], None);
    assert!(code == 1 && err.contains("token-sha256"), "{err}");
    assert!(!format!("{out}{err}").contains(&made), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_a_certificate_or_a_token_is_a_caller_s_and_never_a_mix() {
    let world = World::new().await;
    let authority = TestAuthority::new();
    let pem = |name: &str, pem: &Pem| {
        let Pem::Text(text) = pem else {
            panic!("the authority keeps all in memory")
        };
        world.write(name, text).display().to_string()
    };
    let ca = pem("ca.pem", &authority.certificate());
    let server = authority.sign("localhost");
    let (certificate, key) = (pem("bus.pem", &server.certificate), pem("bus.key", &server.key));
    let (made, hash) = token();
    let policy = world.policy(&[&hash]);
    let listen = [
        "--listen",
        "https://127.0.0.1:0",
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
    ];
    let served = Served::start(
        &world.nats.url(),
        &policy,
        &[&listen[..], &["--tls-client-ca", &ca]].concat(),
    );
    let to = &served.listen[0];
    let identity = |name: &str| {
        let identity = authority.sign(name);
        let at = |kind: &str, text| pem(&format!("{name}.{kind}"), text);
        (at("pem", &identity.certificate), at("key", &identity.key))
    };
    let (billing, proxy) = (identity("billing.example"), identity("proxy.example"));
    let shown = |(certificate, key): &(String, String)| {
        ["--tls-ca", &ca, "--tls-certificate", certificate, "--tls-key", key].map(str::to_owned)
    };
    let call = |identity: &(String, String), tenant: &str, id: &str, token: Option<&str>| {
        let shown = shown(identity);
        let more: Vec<_> = shown.iter().map(String::as_str).collect();
        publish(to, tenant, id, &more, token)
    };
    let (code, _, err) = call(&billing, "globex", "1", None);
    assert_eq!(code, 0, "{err}");
    // A certificate that names no caller leaves the token its own, and gives it nothing.
    let (code, _, err) = call(&proxy, "acme", "2", Some(&made));
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = call(&proxy, "globex", "3", Some(&made));
    assert!(code == 1 && err.contains("[tenant-not-permitted]"), "{err}");
    let (code, _, err) = call(&proxy, "acme", "4", None);
    assert!(code == 1 && err.contains("[unknown-caller]"), "{err}");
    // Both at once are neither, for the tenants of either.
    for tenant in ["acme", "globex"] {
        let (code, _, err) = call(&billing, tenant, "5", Some(&made));
        assert!(code == 1 && err.contains("billing and orders"), "{err}");
    }
}
