//! `fanout webhook`: what it says and its exit codes, with the binary.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use fanout_tests::beside_the_tests;
use fanout_transport::testing::TestAuthority;
use fanout_transport::{ClientIdentity, Pem};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use webhook_source::samples::{self, SAMPLES, Sample};

const NOW: &str = "1767225600";
const STRIPE: &str = "whsec_a_secret_for_tests";

/// A folder with a secret and a body.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(beside_the_tests("fanout")).args(args).output().unwrap();
        let here = self.folder.path().display().to_string();
        let shown = |bytes| String::from_utf8(bytes).unwrap().replace(&here, "HERE");
        (status.code().unwrap(), shown(stdout), shown(stderr))
    }

    /// `webhook VERB` of the sample's scheme, its parameters and its secret.
    fn of(&self, verb: &str, sample: &Sample, secret: &str, more: &[&str]) -> (i32, String, String) {
        let secret = self.file("secret", secret);
        let mut args = vec!["webhook".to_owned(), verb.to_owned()];
        args.extend([
            "--scheme".to_owned(),
            sample.name().to_owned(),
            "--secret-file".to_owned(),
            secret,
        ]);
        for (name, value) in sample.parameters() {
            args.extend(["--parameter".to_owned(), format!("{name}={value}")]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        self.run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn what_sign_makes_verify_verifies_for_every_scheme() {
    let bench = Bench::new();
    for sample in SAMPLES {
        let body = bench.file("body", sample.body);
        let signed = bench.file("signed", "");
        let sign = ["--now", NOW, "--id", "msg_1", "--body-out", &signed, &body];
        let (code, headers, err) = bench.of("sign", &sample, sample.signs_with, &sign);
        assert_eq!((code, err.as_str()), (0, ""), "{}", sample.scheme);

        let mut verify = vec!["--now", NOW];
        for line in headers.lines() {
            verify.extend(["--header", line]);
        }
        verify.push(&signed);
        let (code, out, err) = bench.of("verify", &sample, sample.verifies_with, &verify);
        assert_eq!((code, err.as_str()), (0, ""), "{}: {out}", sample.scheme);
        assert!(
            out.starts_with(&format!("verified  {}\nkey       0 of 1", sample.scheme)),
            "{out}"
        );

        let mut json = vec!["--json"];
        json.extend(&verify);
        let (code, out, _) = bench.of("verify", &sample, sample.verifies_with, &json);
        let told: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (code, &told["verified"], &told["key"]),
            (0, &true.into(), &0.into()),
            "{out}"
        );
        assert_eq!(told["timestamp"].is_null(), !sample.scheme.signs_time(), "{out}");

        // Another key: refused, whatever the scheme, and the exit code says so.
        if sample.name() != "paypal" {
            let other = match sample.name() {
                "basic" | "braintree" => "integration_public_key:another_private_key",
                "standard-webhooks" => "whsec_AAECAwQFBgcICQoLDA0ODw==",
                _ => "00112233445566778899aabbccddeeff",
            };
            let (code, out, err) = bench.of("verify", &sample, other, &verify);
            assert_eq!((code, out.as_str()), (1, ""), "{}", sample.scheme);
            assert!(
                err.starts_with("refused: ") && err.contains("mismatch]"),
                "{}: {err}",
                sample.scheme
            );
        }
    }
}

#[test]
fn the_check_that_failed_is_named_and_what_would_have_verified() {
    let bench = Bench::new();
    let stripe = samples::of("stripe".parse().unwrap());
    let body = bench.file("body", "{\"id\": 1}");
    let (_, header, _) = bench.of("sign", &stripe, STRIPE, &["--now", NOW, &body]);
    let header = header.trim();
    let with_newline = bench.file("edited", "{\"id\": 1}\n");
    let verify = |more: &[&str]| {
        let more: Vec<_> = ["--header", header].iter().chain(more).copied().collect();
        bench.of("verify", &stripe, &format!("whsec_a_newer_secret\n{STRIPE}\n"), &more)
    };
    let (code, out, _) = verify(&["--now", "1767225603", &body]);
    assert_eq!(code, 0);
    assert_eq!(
        out,
        "verified  stripe\nkey       1 of 2, from 0\nsigned    1767225600, 3 s ago\nproves    the body, 9 bytes\n"
    );
    let (code, _, err) = verify(&["--now", "1767226000", &body]);
    assert_eq!(code, 1);
    assert!(
        err.contains("400 s ago") && err.contains("[stale-timestamp]") && err.contains("--tolerance"),
        "{err}"
    );
    assert_eq!(verify(&["--now", "1767226000", "--tolerance", "400", &body]).0, 0);
    let (code, _, err) = verify(&["--now", NOW, &with_newline]);
    assert_eq!(code, 1);
    assert!(
        err.contains("[signature-mismatch]\nhint: it verifies without the newline"),
        "{err}"
    );
    let (code, out, err) = verify(&["--json", "--now", NOW, &with_newline]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, err.as_str(), &told["code"]),
        (1, "", &"signature-mismatch".into())
    );
    assert!(told["hint"].is_string(), "{out}");
    let (code, _, err) = bench.of("verify", &stripe, STRIPE, &[&body]);
    assert_eq!(code, 1);
    assert!(err.contains("`stripe-signature` is missing [missing-header]"), "{err}");
}

#[test]
fn what_can_not_be_done_is_said_without_the_secret() {
    let bench = Bench::new();
    let standard = samples::of("standard-webhooks".parse().unwrap());
    let body = bench.file("body", "{}");
    let (code, _, err) = bench.of("verify", &standard, "whsec_topsecret!", &[&body]);
    assert_eq!(code, 1);
    assert!(
        err.contains("HERE/secret can't be used") && !err.contains("topsecret"),
        "{err}"
    );
    let adyen = samples::of("adyen".parse().unwrap());
    let adyen_body = bench.file("adyen", adyen.body);
    let (code, _, err) = bench.of("sign", &adyen, adyen.signs_with, &[&adyen_body]);
    assert_eq!(code, 1);
    assert!(err.contains("--body-out"), "{err}");
    let (code, _, err) = bench.of("sign", &adyen, adyen.signs_with, &["--body-out", "-", &body]);
    assert_eq!(code, 1);
    assert!(err.contains("can't be signed"), "{err}");
    for wrong in [
        &["webhook", "verify", "--scheme", "strype", "--secret-file", "x", "y"][..],
        &[
            "webhook",
            "verify",
            "--scheme",
            "stripe",
            "--secret-file",
            "x",
            "--header",
            "no colon",
            "y",
        ],
        &["webhook", "send", "--secret-file", "x", "http://127.0.0.1:1/", "y"],
    ] {
        assert_eq!(bench.run(wrong).0, 2, "{wrong:?}");
    }
    let missing = bench.run(&[
        "webhook",
        "verify",
        "--scheme",
        "stripe",
        "--secret-file",
        "/nowhere",
        "y",
    ]);
    assert!(
        missing.0 == 1 && missing.2.contains("can't read /nowhere"),
        "{missing:?}"
    );
}

/// A webhook from the field, and what is said of it; the library's own test reads the same file.
#[derive(serde::Deserialize)]
struct FromTheField {
    name: String,
    scheme: String,
    secret: String,
    parameters: std::collections::BTreeMap<String, String>,
    headers: Vec<(String, String)>,
    body: String,
    now: i64,
    verifies: bool,
    id: Option<String>,
    hint: Option<String>,
}

#[test]
fn what_came_in_the_field_is_answered_rightly_and_with_a_hint() {
    let bench = Bench::new();
    let cases = repository("example-components/webhook-signature/tests/vectors/field.json");
    let cases: Vec<FromTheField> = serde_json::from_str(&cases).unwrap();
    assert!(cases.iter().any(|case| case.hint.is_some()));
    for case in cases {
        let (secret, body) = (bench.file("secret", &case.secret), bench.file("body", &case.body));
        let now = case.now.to_string();
        let mut args = vec![
            "--json",
            "webhook",
            "verify",
            "--scheme",
            &case.scheme,
            "--secret-file",
            &secret,
        ];
        let headers: Vec<_> = case
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        args.extend(headers.iter().flat_map(|header| ["--header", header]));
        // The longer ones as a person would give them.
        let parameters: Vec<_> = case
            .parameters
            .iter()
            .map(|(name, value)| match value.contains('\n') {
                true => format!("{name}=@{}", bench.file(name, value)),
                false => format!("{name}={value}"),
            })
            .collect();
        args.extend(parameters.iter().flat_map(|parameter| ["--parameter", parameter]));
        args.extend(["--now", &now, &body]);
        let (code, out, err) = bench.run(&args);
        assert_eq!((code == 0, err.as_str()), (case.verifies, ""), "{}: {out}", case.name);
        let told: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(told["verified"], case.verifies, "{}: {out}", case.name);
        if let Some(id) = case.id {
            assert_eq!(told["id"], id, "{}", case.name);
        }
        if let Some(word) = case.hint {
            let hint = told["hint"].as_str().unwrap_or_default();
            assert!(hint.contains(&word), "{}: {hint:?}", case.name);
        }
    }
}

#[test]
fn a_short_secret_is_taken_only_by_a_flag_that_says_so() {
    let bench = Bench::new();
    let github = samples::of("github".parse().unwrap());
    let body = bench.file("body", "{}");
    let refused = |(code, out, err): (i32, String, String), problem: &str| {
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(
            err.contains("fewer than 16 bytes") && err.contains("--allow-short-secret"),
            "{err}"
        );
        assert!(err.contains(problem) && !err.contains("hush"), "{err}");
    };
    refused(bench.of("sign", &github, "hush", &[&body]), "can't sign");
    let (code, header, err) = bench.of("sign", &github, "hush", &["--allow-short-secret", &body]);
    assert_eq!((code, err.as_str()), (0, ""));
    let header = header.trim();
    refused(
        bench.of("verify", &github, "hush", &["--header", header, &body]),
        "can't be used",
    );
    let (code, out, err) = bench.of(
        "verify",
        &github,
        "hush",
        &["--allow-short-secret", "--header", header, &body],
    );
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let url = "http://127.0.0.1:1/";
    refused(bench.of("send", &github, "hush", &[url, &body]), "can't sign");
    let (code, _, err) = bench.of("send", &github, "hush", &["--allow-short-secret", url, &body]);
    assert!(code == 3 && err.contains("can't be reached"), "{err}");
}

/// Whoever answers a webhook is not who reads the answer on a terminal.
#[test]
fn an_answer_can_not_steer_the_terminal() {
    let bench = Bench::new();
    let body = bench.file("body", "{\"id\": 1}");
    let text = "\x1b]0;owned\x07\x1b[2Jfirst\tline\r\nsecond \u{9b}31m \u{202e}desrever\x7f";
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    for json in [false, true] {
        let (url, served) = answer_once(answer.clone().leak());
        let mut args = vec!["webhook", "send", &url, &body];
        if json {
            args.insert(0, "--json");
        }
        let (code, out, err) = bench.run(&args);
        served.join().unwrap();
        assert_eq!((code, err.as_str()), (0, ""));
        let harmful = |c: char| (c.is_control() && c != '\n' && (json || c != '\t')) || c == '\u{202e}';
        assert!(!out.contains(harmful), "{out:?}");
        if json {
            let told: serde_json::Value = serde_json::from_str(&out).unwrap();
            assert_eq!(told["answer"], text);
        } else {
            assert!(
                out.starts_with("200 OK\n") && out.contains("first\tline") && out.contains("desrever"),
                "{out:?}"
            );
        }
    }
}

/// Takes one request in, answers it, and gives what came.
fn answer_once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/webhooks/stripe", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 1024];
        while !request.ends_with(b"{\"id\": 1}") {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&request));
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, served)
}

#[test]
fn send_posts_and_its_exit_code_is_the_answer() {
    let bench = Bench::new();
    let body = bench.file("body", "{\"id\": 1}");
    let stripe = samples::of("stripe".parse().unwrap());
    let (url, served) = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (code, out, err) = bench.of(
        "send",
        &stripe,
        STRIPE,
        &["--header", "x-a: b", "--now", NOW, &url, &body],
    );
    let request = served.join().unwrap();
    assert_eq!((code, out.as_str(), err.as_str()), (0, "200 OK\nok\n", ""));
    assert!(request.starts_with("POST /webhooks/stripe HTTP/1.1\r\n"), "{request}");
    for header in [
        "x-a: b",
        "stripe-signature: t=1767225600,v1=",
        "content-type: application/json",
    ] {
        assert!(request.contains(&format!("\r\n{header}")), "{request}");
    }

    let (url, served) = answer_once("HTTP/1.1 401 Unauthorized\r\ncontent-length: 4\r\n\r\nnone");
    let (code, out, err) = bench.run(&["--json", "webhook", "send", &url, &body]);
    served.join().unwrap();
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str()), (1, ""));
    assert_eq!(told, serde_json::json!({ "status": 401, "answer": "none" }));

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, err) = bench.run(&["webhook", "send", &format!("http://{free}/"), &body]);
    assert_eq!(code, 3);
    assert!(err.contains("can't be reached"), "{err}");
    const NOT_SAFE: &str = "neither an https URL nor an http one of this machine";
    for (url, why) in [
        ("ftp://127.0.0.1/", NOT_SAFE),
        ("http://example.com/", NOT_SAFE),
        ("http://127.0.0.1.example.com/", NOT_SAFE),
        ("/webhooks", "/webhooks is no URL"),
    ] {
        let (code, _, err) = bench.run(&["webhook", "send", url, &body]);
        assert_eq!(code, 1, "{url}");
        assert!(err.contains(why), "{url}: {err}");
    }
}

/// Takes one connection in with a certificate of the authority, and answers what came, if the client trusts it.
fn answer_once_over_tls(authority: &TestAuthority) -> (String, std::thread::JoinHandle<bool>) {
    let ClientIdentity {
        certificate: Pem::Text(certificate),
        key: Pem::Text(key),
    } = authority.sign("localhost")
    else {
        panic!("the authority keeps all in memory")
    };
    let certificates = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.unwrap(), key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "https://localhost:{}/webhooks/stripe",
        listener.local_addr().unwrap().port()
    );
    let served = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        let mut request = [0; 4096];
        let came = stream.read(&mut request).unwrap_or_default();
        let answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok";
        came > 0 && stream.write_all(answer).is_ok()
    });
    (url, served)
}

#[test]
fn send_speaks_tls_to_whom_it_trusts() {
    let bench = Bench::new();
    let body = bench.file("body", "{}");
    let authority = TestAuthority::new();
    let Pem::Text(certificate) = authority.certificate() else {
        panic!("the authority keeps all in memory")
    };
    let ca = bench.file("ca.pem", certificate);
    let (url, served) = answer_once_over_tls(&authority);
    let (code, out, err) = bench.run(&["webhook", "send", "--tls-ca", &ca, &url, &body]);
    assert!(served.join().unwrap(), "{err}");
    assert_eq!((code, out.as_str()), (0, "202 Accepted\nok\n"), "{err}");

    let (url, served) = answer_once_over_tls(&TestAuthority::new());
    let (code, _, err) = bench.run(&["webhook", "send", "--tls-ca", &ca, &url, &body]);
    assert!(!served.join().unwrap(), "nothing is sent to whom it does not trust");
    assert_eq!(code, 3, "{err}");
    let (code, _, err) = bench.run(&["webhook", "send", "--tls-ca", &body, &url, &body]);
    assert!(code == 1 && err.contains("holds no certificate"), "{err}");
}

#[test]
fn a_certificate_is_fetched_from_paypals_own_hosts_alone() {
    let bench = Bench::new();
    let paypal = samples::of("paypal".parse().unwrap());
    let (_, root) = paypal
        .parameters()
        .into_iter()
        .find(|(name, _)| *name == "root")
        .unwrap();
    let root = bench.file("root.pem", root);
    for url in [
        "https://api.paypal.com.example.com/v1/notifications/certs/CERT-1",
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://127.0.0.1/v1/notifications/certs/CERT-1",
    ] {
        let (code, out, err) = bench.run(&["webhook", "certificate", "--root", &root, url]);
        assert_eq!((code, out.as_str()), (1, ""), "{url}");
        assert!(
            err.contains("not a certificate on one of PayPal's hosts"),
            "{url}: {err}"
        );
    }
}

fn repository(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The lines `source.NAME.SETTING: VALUE` of a text.
fn sources(text: &str) -> Vec<(&str, &str)> {
    let setting = |line: &'_ str| line.trim().starts_with("source.");
    text.lines()
        .filter(|line| setting(line))
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(key, value)| (key, value.trim_matches('"')))
        .collect()
}

#[test]
fn the_manifest_has_a_source_of_every_scheme_and_the_page_shows_each() {
    let manifest = repository("wadm/webhooks.yaml");
    let page = repository("docs/ingress.md");
    let in_manifest = sources(&manifest);
    let shown: Vec<_> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect();
    assert_eq!(
        sources(&shown.join("\n")),
        in_manifest,
        "docs/ingress.md shows other sources than wadm/webhooks.yaml"
    );

    for sample in SAMPLES {
        let own = format!("source.{}.", sample.name());
        let mut of_manifest: Vec<_> = in_manifest
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&own)?, *value)))
            .filter(|(key, _)| *key != "evidence")
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let root = sample
            .settings
            .iter()
            .find(|(key, _)| *key == "root")
            .map(|(_, root)| *root);
        let mut of_sample: Vec<_> = sample
            .source_settings()
            .into_iter()
            .map(|(key, value)| (key.strip_prefix(&own).unwrap().to_owned(), value))
            .map(|(key, value)| match root {
                Some(root) if value == root => (key, "@PAYPAL_ROOT@".to_owned()),
                _ => (key, value),
            })
            .collect();
        of_manifest.sort();
        of_sample.sort();
        assert_eq!(of_manifest, of_sample, "{}", sample.scheme);
        let named = format!(
            "- name: {}\n            properties: {{ policy: secrets, key: {} }}",
            sample.name(),
            sample.name()
        );
        assert!(
            manifest.contains(&named),
            "the manifest does not give the secret of {}",
            sample.scheme
        );
    }
}
