//! A process ends when it is told to, or when its host is gone: also while it starts, and whatever it waits for then.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use fanout_tests::{ANYONE_HERE, Bench, Cli, LinkTo, SERVED_POLICY, beside_the_tests, eventually};
use wasmcloud_core::HostData;

/// What a server that is no good does.
#[derive(Clone, Copy)]
enum Does {
    /// It takes connections, and never says a word.
    Nothing,
    /// It greets, and answers nothing that is asked of it.
    Greet,
}

/// A server that is reached and gives no answer.
struct Silent {
    url: String,
    /// Connections that came as far as this server lets them.
    came: Arc<AtomicUsize>,
}

impl Silent {
    fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let came = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&came);
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for connection in listener.incoming().map_while(Result::ok) {
                match does {
                    Does::Nothing => {
                        held.push(connection);
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                    Does::Greet => {
                        let counted = Arc::clone(&counted);
                        std::thread::spawn(move || greet(connection, at.port(), &counted));
                    }
                }
            }
        });
        Self {
            url: format!("nats://{at}"),
            came,
        }
    }

    async fn is_reached(&self) {
        eventually("it is reached", || async {
            (self.came.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
    }
}

/// As much of the protocol as makes a connection; requests are read, and never answered.
fn greet(mut connection: TcpStream, port: u16, came: &AtomicUsize) {
    let hello = format!(
        "INFO {{\"server_id\":\"S\",\"server_name\":\"s\",\"version\":\"2.15.1\",\"go\":\"go\",\"host\":\"127.0.0.1\",\"port\":{port},\"headers\":true,\"max_payload\":1048576,\"proto\":1,\"client_id\":1}}\r\n"
    );
    let mut lines = BufReader::new(connection.try_clone().unwrap());
    connection.write_all(hello.as_bytes()).ok();
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|n| n > 0) {
        if line.starts_with("PING") {
            connection.write_all(b"PONG\r\n").ok();
        } else if line.starts_with("PUB") || line.starts_with("HPUB") {
            came.fetch_add(1, Ordering::SeqCst);
        }
        line.clear();
    }
}

fn host_data(url: &str) -> String {
    let data = HostData {
        host_id: "test-host".into(),
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: url.into(),
        provider_key: "bus".into(),
        config: [
            ("bus", "payments"),
            ("subject", "payments.{tenant}.webhook.{event-type}"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        ..HostData::default()
    };
    let data = base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&data).unwrap());
    format!("{data}\r\n")
}

fn provider() -> Command {
    let mut command = Command::new(beside_the_tests("fanout-provider"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Sends a signal to a process, by name as `kill` takes it.
fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// A process that is killed if the test fails.
struct Process(Child);

impl Process {
    fn tell(&self, name: &str) {
        signal(self.0.id(), name);
    }

    async fn ends(&mut self, what: &str) {
        let this = std::cell::RefCell::new(self);
        eventually(what, || async { this.borrow_mut().0.try_wait().unwrap() }).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_waits_for_its_hosts_data_ends_when_it_is_told_to() {
    let mut provider = Process(provider().spawn().unwrap());
    // The handlers are there once it waits for its input.
    let status = format!("/proc/{}/status", provider.0.id());
    eventually("it watches for the signal", || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        async move { catches_sigterm(&status).then_some(()) }
    })
    .await;
    provider.tell("TERM");
    provider.ends("it ends").await;
}

/// Bit 14 of the signals that a process catches is SIGTERM.
fn catches_sigterm(status: &str) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_starts_ends_when_it_is_told_to() {
    for does in [Does::Nothing, Does::Greet] {
        let server = Silent::start(does);
        let mut provider = Process(provider().spawn().unwrap());
        let mut input = provider.0.stdin.take().unwrap();
        input.write_all(host_data(&server.url).as_bytes()).unwrap();
        server.is_reached().await;
        provider.tell("TERM");
        provider.ends("it ends").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_starts_ends_when_its_host_is_gone() {
    for does in [Does::Nothing, Does::Greet] {
        let server = Silent::start(does);
        let mut host = Command::new("sh");
        host.args(["-c", "exec 3<&0; \"$0\" <&3 >/dev/null 2>&1 & echo $!; wait"]);
        host.arg(beside_the_tests("fanout-provider"));
        let mut host = Process(host.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut input = host.0.stdin.take().unwrap();
        input.write_all(host_data(&server.url).as_bytes()).unwrap();
        let mut pid = String::new();
        let mut output = BufReader::new(host.0.stdout.take().unwrap());
        output.read_line(&mut pid).unwrap();
        server.is_reached().await;
        host.tell("KILL");
        host.ends("its host ends").await;
        let status = format!("/proc/{}/stat", pid.trim());
        eventually("the provider ends", || {
            // Whoever adopted it may not have asked how it ended.
            let stat = std::fs::read_to_string(&status).unwrap_or_default();
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
            async move { matches!(state, None | Some('Z')).then_some(()) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_ends_when_its_store_is_frozen() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", &["publisher"], "*")]).await;
    signal(bench.nats.id(), "STOP");
    bench.providers[0].signal("TERM");
    let bench = std::cell::RefCell::new(bench);
    let ended = eventually("it ends", || async { bench.borrow_mut().providers[0].ended() });
    assert!(ended.await);
    signal(bench.borrow().nats.id(), "CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_bus_that_starts_ends_when_it_is_told_to() {
    for does in [Does::Nothing, Does::Greet] {
        let server = Silent::start(does);
        let cli = Cli::new(server.url.clone());
        let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}"));
        let mut served = Process(serve(&server.url, &policy));
        server.is_reached().await;
        served.tell("INT");
        served.ends("it ends").await;
        let mut said = String::new();
        served.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.is_empty(), "it was not ready: {said}");
    }
}

fn serve(nats: &str, policy: &Path) -> Child {
    Command::new(beside_the_tests("fanout"))
        .args(["serve", "--listen", "tcp://127.0.0.1:0", "--nats", nats, "--policy"])
        .arg(policy)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
