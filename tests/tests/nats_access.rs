//! A bus on NATS servers that ask who comes: users, tokens, keys, TLS, prefixes of inboxes, and the contexts of the
//! `nats` tool. Every verb of the command line reaches them, and none shows a secret.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fanout_tests::{ANYONE_HERE, SERVED_POLICY, beside_the_tests};
use fanout_transport::testing::{NatsServer, NatsSettings, TestAuthority};
use fanout_transport::{ClientIdentity, Pem};

/// A user, a folder for files, and an environment that holds nothing else.
struct World {
    nats: NatsServer,
    folder: tempfile::TempDir,
}

impl World {
    async fn new(config: &str) -> Self {
        Self::on(NatsSettings {
            config: Some(config.to_owned()),
            ..NatsSettings::default()
        })
        .await
    }

    async fn on(settings: NatsSettings) -> Self {
        Self {
            nats: NatsServer::start_with(settings).await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn policy(&self) -> String {
        let path = self.file("policy.toml", &format!("{SERVED_POLICY}{ANYONE_HERE}"));
        path.display().to_string()
    }

    /// The server's URL for this user.
    fn url(&self, user: &str) -> String {
        format!("nats://{user}@{}", self.nats.address())
    }

    fn command(&self, args: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(beside_the_tests("fanout"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .envs(env.iter().copied())
            .stdin(Stdio::null());
        command
    }

    /// Exit code, and all that was said.
    fn run(&self, args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
        let Output { status, stdout, stderr } = self.command(args, env).output().unwrap();
        let said = [stdout, stderr]
            .map(|s| String::from_utf8_lossy(&s).into_owned())
            .concat();
        (status.code().unwrap_or(-1), said)
    }

    /// Every verb that connects, with these flags and variables: all of them are let in.
    fn every_verb(&self, flags: &[&str], env: &[(&str, &str)]) {
        let policy = self.policy();
        let verbs: [&[&str]; 9] = [
            &["apply", &policy],
            &["check", &policy],
            &["plan", &policy],
            &["explain", &policy],
            &["status", &policy],
            &["tail", &policy, "--count", "0"],
            &["dead-letters", "list", &policy],
            &["pause", &policy, "none"],
            &["rewind", &policy, "none", "--to", "first"],
        ];
        for verb in verbs {
            let (code, said) = self.run(&[verb, flags].concat(), env);
            let is_let_in = code == 0 || said.contains("[unknown-subscription]");
            assert!(is_let_in, "{verb:?} {flags:?}: {code}: {said}");
        }
    }
}

const SECRET: &str = "p@w, d%";
const IN_URL: &str = "app:p%40w%2C%20d%25";

fn by_password() -> String {
    format!("authorization {{ user: app, password: {SECRET:?} }}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_password_are_taken_from_the_url_the_environment_a_file_and_a_context() {
    let world = World::new(&by_password()).await;
    let url = world.url(IN_URL);
    world.every_verb(&["--nats", &url], &[]);

    let policy = world.policy();
    let bare = world.nats.url();
    let file = world.file("password", &format!("{SECRET}\n")).display().to_string();
    let status = |flags: &[&str], env: &[(&str, &str)]| world.run(&[&["status", &policy], flags].concat(), env);
    for (flags, env) in [
        (&[][..], &[("NATS_URL", url.as_str())][..]),
        (&["--nats", &bare], &[("NATS_USER", "app"), ("NATS_PASSWORD", SECRET)]),
        (
            &["--nats", &bare, "--nats-user", "app", "--nats-password-file", &file],
            &[],
        ),
        (&["--nats", &bare, "--nats-user", "app", "--nats-password", SECRET], &[]),
        // Of several servers, one is enough.
        (
            &[
                "--nats",
                &format!("{},{bare}", url.replace(&world.nats.port().to_string(), "1")),
            ],
            &[],
        ),
    ] {
        let (code, said) = status(flags, env);
        assert_eq!(code, 0, "{flags:?}: {said}");
    }

    let context = format!(r#"{{"url":"{bare}","user":"app","password":"{SECRET}"}}"#);
    let path = world
        .file("config/nats/context/work.json", &context)
        .display()
        .to_string();
    for flags in [&["--context", "work"][..], &["--context", &path]] {
        let (code, said) = status(flags, &[]);
        assert_eq!(code, 0, "{flags:?}: {said}");
    }
    world.every_verb(&["--context", "work"], &[]);
    assert_eq!(status(&[], &[("NATS_CONTEXT", "work")]).0, 0);
    // Without a word, it is the selected one.
    world.file("config/nats/context.txt", "work\n");
    assert_eq!(status(&[], &[]).0, 0);
    // Its password is not sent to a server that is named by itself.
    assert_eq!(status(&["--nats", &bare], &[]).0, 3);
    let (code, said) = status(&["--context", "none"], &[]);
    assert!(code == 1 && said.contains("none.json"), "{code}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_output_shows_a_secret() {
    let world = World::new(&by_password()).await;
    let policy = world.policy();
    let wrong = format!("nats://app:S3CRET@{}", world.nats.address());
    let serve = ["serve", "--policy", &policy, "--listen", "tcp://127.0.0.1:0"];
    for (args, env) in [
        (&["status", &policy, "--nats", &wrong][..], &[][..]),
        (&["status", &policy], &[("NATS_URL", wrong.as_str())]),
        (&["--json", "apply", &policy, "--nats", &wrong], &[]),
        (&[&serve[..], &["--nats", &wrong]].concat(), &[]),
        (&["plan", &policy, "--nats", &format!("{wrong},{wrong}")], &[]),
        (&["status", &policy, "--nats", "nats://app:S3CRET@127.0.0.1:1"], &[]),
        (
            &["status", &policy],
            &[("NATS_TOKEN", "S3CRET"), ("NATS_URL", wrong.as_str())],
        ),
        (
            &[
                "publish",
                "--tenant",
                "a",
                "--type",
                "t",
                "--id",
                "1",
                "--timeout",
                "1",
                "--to",
            ],
            &[],
        ),
    ] {
        let mut args = args.to_vec();
        let to = format!("{wrong}?target=default.bus");
        if args.last() == Some(&"--to") {
            args.push(&to);
        }
        let (code, said) = world.run(&args, env);
        assert_eq!(code, 3, "{args:?}: {said}");
        assert!(
            !said.contains("S3CRET") && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
    for bad in [
        "http://app:S3CRET@h",
        "nats://app:S3,CRET@h:1",
        "app:S3CRET",
        "nats://a:S3CRET@h,nats://b:S3CRET@h",
    ] {
        let (code, said) = world.run(&["status", &policy, "--nats", bad], &[]);
        assert_eq!(code, 1, "{bad}: {said}");
        assert!(!said.contains("S3C") && !said.contains("CRET"), "{bad}: {said}");
    }
    let (code, said) = world.run(&["status", &policy, &wrong], &[]);
    assert!(code == 2 && !said.contains("S3CRET"), "{said}");
    let env = ["NATS_URL", "NATS_PASSWORD", "NATS_TOKEN", "FANOUT_BUS", "NATS_USER"].map(|name| (name, "S3CRET"));
    for verb in [
        "status",
        "plan",
        "apply",
        "serve",
        "tail",
        "publish",
        "subscribe",
        "rewind",
        "check",
    ] {
        let (code, said) = world.run(&[verb, "--help"], &env);
        assert!(code == 0 && !said.contains("S3CRET"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_a_key_are_taken() {
    let world = World::new("authorization { token: t0k3n }\n").await;
    world.every_verb(&["--nats", &world.url("t0k3n")], &[]);
    let file = world.file("token", "t0k3n").display().to_string();
    world.every_verb(&["--nats", &world.nats.url(), "--nats-token-file", &file], &[]);
    world.every_verb(&["--nats", &world.nats.url()], &[("NATS_TOKEN", "t0k3n")]);

    let key = nkeys::KeyPair::new_user();
    let world = World::new(&format!(
        "authorization {{ users: [ {{ nkey: {} }} ] }}\n",
        key.public_key()
    ))
    .await;
    let file = world.file("app.nk", &key.seed().unwrap()).display().to_string();
    world.every_verb(&["--nats", &world.nats.url(), "--nats-nkey", &file], &[]);
    let context = format!(r#"{{"url":"{}","nkey":"~/app.nk"}}"#, world.nats.url());
    world.file("config/nats/context/key.json", &context);
    world.every_verb(&["--context", "key"], &[]);
    let policy = world.policy();
    let (code, said) = world.run(&["status", &policy, "--nats", &world.nats.url()], &[]);
    assert!(code == 3 && said.contains("does not let this user in"), "{said}");
    let two = ["status", &policy, "--nats-nkey", &file, "--nats-user", "app"];
    let (code, said) = world.run(&two, &[("NATS_URL", &world.nats.url())]);
    assert!(code == 1 && said.contains("two ways"), "{said}");
}

fn write(folder: &Path, name: &str, pem: &Pem) -> String {
    let Pem::Text(text) = pem else {
        panic!("it is in memory")
    };
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_and_shown() {
    let authority = TestAuthority::new();
    let files = tempfile::tempdir().unwrap();
    let (ClientIdentity { certificate, key }, mine) = (authority.sign("localhost"), authority.sign("app"));
    let at = |name: &str, pem: &Pem| write(files.path(), name, pem);
    let ca = at("ca.pem", &authority.certificate());
    let (server_certificate, server_key) = (at("server.pem", &certificate), at("server.key", &key));
    let (certificate, key) = (at("app.pem", &mine.certificate), at("app.key", &mine.key));
    let stranger = TestAuthority::new().sign("app");
    let (other, other_key) = (at("other.pem", &stranger.certificate), at("other.key", &stranger.key));
    for first in ["", "handshake_first: \"300ms\""] {
        let config = format!(
            "tls {{ cert_file: {server_certificate:?}, key_file: {server_key:?}, ca_file: {ca:?}, verify: true\n{first} }}\n"
        );
        let world = World::new(&config).await;
        let url = world.nats.url();
        let shown = [
            "--nats",
            &url,
            "--nats-ca",
            &ca,
            "--nats-certificate",
            &certificate,
            "--nats-key",
            &key,
        ];
        let first: &[&str] = if first.is_empty() { &[] } else { &["--nats-tls-first"] };
        world.every_verb(&[&shown[..], first].concat(), &[]);
        let context = format!(
            r#"{{"url":"{url}","ca":"{ca}","cert":"{certificate}","key":"{key}","tls_first":{}}}"#,
            !first.is_empty()
        );
        world.file("config/nats/context/tls.json", &context);
        world.every_verb(&["--context", "tls"], &[]);
        let policy = world.policy();
        for wrong in [
            &["--nats-ca", &ca][..],
            &["--nats-certificate", &certificate, "--nats-key", &key],
            &["--nats-ca", &ca, "--nats-certificate", &other, "--nats-key", &other_key],
        ] {
            let (code, said) = world.run(&[&["status", &policy, "--nats", &url], wrong, first].concat(), &[]);
            assert_eq!(code, 3, "{wrong:?}: {said}");
        }
        for (wrong, about) in [
            (&["--nats-ca", "/nowhere.pem"][..], "/nowhere.pem"),
            (&["--nats-certificate", &certificate], "both or none"),
        ] {
            let (code, said) = world.run(&[&["status", &policy, "--nats", &url], wrong].concat(), &[]);
            assert!(code == 1 && said.contains(about), "{wrong:?}: {code}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_awaited_below_the_prefix_that_the_user_may_read() {
    let config = "authorization { users: [ { user: app, password: pw, permissions: {
        publish: \">\", subscribe: [ \"_I.app.>\", \"fanout.>\" ] } } ] }\n";
    let world = World::new(config).await;
    let url = world.url("app:pw");
    world.every_verb(&["--nats", &url, "--nats-inbox-prefix", "_I.app"], &[]);
    let context = format!(r#"{{"url":"{url}","inbox_prefix":"_I.app"}}"#);
    world.file("config/nats/context/app.json", &context);
    world.every_verb(&["--context", "app"], &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_is_served_from_a_secured_store() {
    let world = World::new(&by_password()).await;
    let policy = world.policy();
    let mut serve = world.command(
        &["--json", "serve", "--policy", &policy, "--listen", "tcp://127.0.0.1:0"],
        &[("NATS_URL", &world.url(IN_URL))],
    );
    let mut served = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(served.stdout.take().unwrap()), &mut ready).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let bus = ready["listen"][0].as_str().unwrap();
    let event = [
        "publish",
        "--to",
        bus,
        "--tenant",
        "acme",
        "--type",
        "invoice.paid",
        "--id",
        "1",
    ];
    let (code, said) = world.run(&event, &[]);
    served.kill().unwrap();
    served.wait().unwrap();
    assert_eq!(
        (code, said.as_str()),
        (0, "stored at 0/1, for 0 durable subscriptions\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_without_jetstream_is_told_apart_from_none() {
    let world = World::on(NatsSettings {
        without_jetstream: true,
        ..NatsSettings::default()
    })
    .await;
    let (policy, url) = (world.policy(), world.nats.url());
    let serve = ["serve", "--policy", &policy, "--listen", "tcp://127.0.0.1:0"];
    for verb in [
        &["status", &policy][..],
        &["apply", &policy],
        &["plan", &policy],
        &["check", &policy],
        &["explain", &policy],
        &["tail", &policy],
        &["dead-letters", "list", &policy],
        &["pause", &policy, "x"],
        &serve,
    ] {
        let (code, said) = world.run(&[verb, &["--nats", &url]].concat(), &[]);
        assert_eq!(code, 3, "{verb:?}: {said}");
        let is_told = said.contains("NATS answers, JetStream does not: start the server with `-js`");
        assert!(is_told && said.contains("[jetstream-missing]"), "{verb:?}: {said}");
    }
    // An account that may not use it is the same to whoever comes.
    let world = World::new("accounts { A { users: [ { user: app, password: pw } ] } }\n").await;
    let (code, said) = world.run(&["status", &world.policy(), "--nats", &world.url("app:pw")], &[]);
    assert!(code == 3 && said.contains("[jetstream-missing]"), "{code}: {said}");
    let (code, said) = world.run(&["status", &world.policy(), "--nats", "nats://127.0.0.1:1"], &[]);
    assert!(
        code == 3 && !said.contains("jetstream-missing") && said.contains("127.0.0.1:1"),
        "{said}"
    );
}
