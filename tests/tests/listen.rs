//! `fanout listen` as a process: what it posts to a program on this machine, and what its answer does.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use fanout_client::Event;
use fanout_tests::{BusStatus, Running, ServedBus, beside_the_tests, eventually, fanout};
use serde_json::Value;
use webhook_signature::{Keys, Request, Scheme, verify};

/// What does not come within it never does.
const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    bus: ServedBus,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self {
            bus: ServedBus::with_long_leases().await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn listen(&self, forward: &str, more: &[&str]) -> Running {
        let mut command = Command::new(beside_the_tests("fanout"));
        command.args([
            "--json",
            "listen",
            "--to",
            &self.bus.served.listen[0],
            "--forward",
            forward,
        ]);
        Running::start({
            command.args(more);
            command
        })
    }

    /// The same of a whole log under a name.
    fn listen_as(&self, name: &str, forward: &str, more: &[&str]) -> Running {
        self.listen(forward, &[&["--need", "backfill", "--name", name], more].concat())
    }

    async fn status_when(&self, what: &str, holds: impl Fn(&BusStatus) -> bool) {
        eventually(what, async || {
            holds(&self.bus.cli.status(&self.bus.policy)).then_some(())
        })
        .await;
    }

    async fn settled(&self, name: &str, dead_letters: u64) {
        self.status_when("each is settled", |status| {
            status
                .subscription(name)
                .is_some_and(|s| (s.pending, s.in_flight, s.dead_letters) == (Some(0), Some(0), Some(dead_letters)))
        })
        .await;
    }

    fn letters(&self) -> String {
        let (code, out, err) = self
            .bus
            .cli
            .run(&["--json", "dead-letters", "list"], &self.bus.policy, &[]);
        assert_eq!(code, 0, "{err}");
        out
    }

    async fn publish(&self, id: &str) {
        self.bus.bus.publish(&event(id)).await.unwrap();
    }
}

fn event(id: &str) -> Event {
    Event::new("acme", "invoice.paid", id).data("{\"n\":1}")
}

fn row(listening: &Running) -> Value {
    serde_json::from_str(&listening.line()).unwrap()
}

/// A post that came, and waits for its answer.
struct Post {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    stream: TcpStream,
}

impl Post {
    fn answer(self, status: u16, body: &str) {
        self.answer_with(status, "x-nothing: ", body);
    }

    fn answer_with(mut self, status: u16, header: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} So\r\ncontent-length: {length}\r\nconnection: close\r\n{header}");
        let answer = format!("{head}\r\n\r\n{body}");
        // Whoever has read enough may hang up.
        drop(self.stream.write_all(answer.as_bytes()));
    }
}

/// A program on this machine that is posted to.
struct Hook {
    url: String,
    port: u16,
    posts: Receiver<Post>,
}

impl Hook {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (send, posts) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let send = send.clone();
                std::thread::spawn(move || take(stream.unwrap(), &send));
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}/hook"),
            port,
            posts,
        }
    }

    fn post(&self) -> Post {
        self.posts.recv_timeout(PATIENCE).expect("an event is posted")
    }
}

fn take(stream: TcpStream, posts: &Sender<Post>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    assert!(lines[0].starts_with("POST /hook"), "{lines:?}");
    let headers: BTreeMap<_, _> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    // The test may be over.
    drop(posts.send(Post { headers, body, stream }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_posted_as_it_is_and_its_subscription_ends_with_the_command() {
    let world = World::new().await;
    let hook = Hook::start();
    let mut listening = world.listen(&hook.url, &["--type", "invoice.*"]);
    world
        .status_when("it listens", |status| {
            let [one] = &status.subscriptions[..] else { return false };
            one.name.as_str().starts_with("listen-") && one.attended == Some(true)
        })
        .await;
    world
        .bus
        .bus
        .publish(&Event::new("acme", "charge.made", "other"))
        .await
        .unwrap();
    let mut event = Event::new("acme", "invoice.paid", "evt 1")
        .source("/till/3")
        .ordering_key("k")
        .traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .typed_data("application/vnd.acme+json", "{\"n\":  1}\n");
    event.subject = Some("Łódź".to_owned());
    event.time = Some(1_767_225_600_000_000_000);
    event.extensions = vec![("region".to_owned(), "eu".to_owned())];
    world.bus.bus.publish(&event).await.unwrap();
    let post = hook.post();
    assert_eq!(post.body, b"{\"n\":  1}\n");
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "evt%201"),
        ("ce-source", "/till/3"),
        ("ce-type", "invoice.paid"),
        ("ce-tenant", "acme"),
        ("ce-subject", "%C5%81%C3%B3d%C5%BA"),
        ("ce-time", "2026-01-01T00:00:00Z"),
        ("ce-partitionkey", "k"),
        ("ce-region", "eu"),
        ("content-type", "application/vnd.acme+json"),
    ] {
        assert_eq!(
            post.headers.get(name).map(String::as_str),
            Some(value),
            "{name}: {:?}",
            post.headers
        );
    }
    assert!(!post.headers.contains_key("ce-datacontenttype"), "it is the body's own");
    assert!(
        post.headers["traceparent"].contains("0af7651916cd43dd8448eb211c80319c"),
        "{:?}",
        post.headers
    );
    post.answer(204, "");
    let row = row(&listening);
    assert_eq!(
        (&row["tenant"], &row["type"], &row["id"], &row["attempt"]),
        (&"acme".into(), &"invoice.paid".into(), &"evt 1".into(), &1.into())
    );
    assert_eq!(
        (&row["status"], &row["outcome"]),
        (&204.into(), &"acknowledged".into()),
        "{row}"
    );
    assert!(row["milliseconds"].is_u64() && row["time"].is_string(), "{row}");
    listening.signal("INT");
    assert_eq!(listening.ended().await.code(), Some(0));
    world
        .status_when("its own subscription is ended", |status| {
            status.subscriptions.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_retried_by_the_bus_until_it_is_a_dead_letter() {
    let world = World::new().await;
    let hook = Hook::start();
    for id in ["moody", "refused"] {
        world.publish(id).await;
    }
    let mut listening = world.listen_as("billing", &hook.url, &["--max-in-flight", "1"]);
    // 2xx alone is taken. The answer is read in part, and a redirect is not followed.
    let long = "x".repeat(1 << 20);
    let mut left = 5;
    let mut statuses: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let (mut moody, mut refused) = ([500, 302, 201].iter(), [404, 404, 429].iter());
    while left > -1 {
        let post = hook.post();
        let status = match post.headers["ce-id"].as_str() {
            "moody" => moody.next(),
            _ => refused.next(),
        };
        post.answer(*status.expect("no more attempts than the policy has"), &long);
        let row = row(&listening);
        let id = row["id"].as_str().unwrap().to_owned();
        let status = row["status"].as_u64().unwrap();
        let outcome = if status == 201 { "acknowledged" } else { "retry" };
        assert_eq!(row["outcome"], outcome, "{row}");
        assert_eq!(row["answer"].as_str().unwrap().len(), 16 << 10, "it is bounded");
        statuses.entry(id).or_default().push(status);
        left -= 1;
    }
    assert_eq!(statuses["moody"], [500, 302, 201]);
    assert_eq!(statuses["refused"], [404, 404, 429]);
    world.settled("billing", 1).await;
    let letters = world.letters();
    assert!(letters.contains("/hook answered 429"), "{letters}");
    // The subscription was named: it lasts.
    listening.signal("TERM");
    assert_eq!(listening.ended().await.code(), Some(0));
    world.settled("billing", 1).await;

    // Nobody is there, or says anything.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let forward = format!("http://user:S3CRET@{nobody}/hook?key=S3CRET");
    let away = world.listen_as("away", &forward, &["--count", "6"]);
    for _ in 0..6 {
        let row = row(&away);
        assert_eq!(
            (&row["status"], &row["outcome"]),
            (&Value::Null, &"retry".into()),
            "{row}"
        );
        let error = row["error"].as_str().unwrap();
        assert!(
            error.contains(&format!("http://{nobody}/hook can't be reached")),
            "{row}"
        );
    }
    world.settled("away", 2).await;
    assert!(
        !world.letters().contains("S3CRET"),
        "secrets of the URL are in no letter"
    );
    let mute = world.listen_as("mute", &hook.url, &["--count", "1", "--forward-timeout", "1"]);
    let unanswered = hook.post();
    assert!(
        row(&mute)["error"]
            .as_str()
            .unwrap()
            .ends_with("/hook did not answer within 1 s")
    );
    drop(unanswered);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_for_as_long_as_the_program_asks() {
    let world = World::new().await;
    let hook = Hook::start();
    world.publish("busy").await;
    let mut listening = world.listen_as("billing", &hook.url, &[]);
    hook.post().answer_with(503, "retry-after: 3600", "");
    let refused = row(&listening);
    assert_eq!(
        (&refused["outcome"], &refused["retry_after_ms"]),
        (&"retry".into(), &3_600_000.into())
    );
    // By the schedule it would come within a second, and another event has come and gone since.
    world.publish("next").await;
    let next = hook.post();
    assert_eq!(next.headers["ce-id"], "next");
    next.answer_with(503, "retry-after: 1", "");
    assert_eq!(row(&listening)["retry_after_ms"], 1_000);
    let again = hook.post();
    assert_eq!((again.headers["ce-id"].as_str()), "next", "the other one is not due");
    again.answer(200, "");
    assert_eq!(row(&listening)["outcome"], "acknowledged");
    world
        .status_when("it waits for its retry", |status| {
            status
                .subscription("billing")
                .is_some_and(|s| s.waiting_for_retry == Some(1))
        })
        .await;
    listening.signal("TERM");
    assert_eq!(listening.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_settles_what_is_answered_and_gives_back_the_rest() {
    let world = World::new().await;
    let hook = Hook::start();
    world.publish("1").await;
    world.publish("2").await;
    let mut listening = world.listen_as("billing", &hook.url, &[]);
    let mut posts = [hook.post(), hook.post()];
    posts.sort_by_key(|post| post.headers["ce-id"].clone());
    let [first, second] = posts;
    listening.signal("INT");
    first.answer(200, "");
    let answered = row(&listening);
    assert_eq!(
        (&answered["id"], &answered["outcome"]),
        (&"1".into(), &"acknowledged".into()),
        "{answered}"
    );
    // The other is still waited for; told once more, it waits no longer.
    listening.signal("INT");
    let released = row(&listening);
    assert_eq!(
        (&released["id"], &released["outcome"]),
        (&"2".into(), &"released".into()),
        "{released}"
    );
    assert_eq!(listening.ended().await.code(), Some(0));
    drop(second);

    // It is there at once, and nobody counts an attempt.
    let mut again = world.listen_as("billing", &hook.url, &["--count", "1"]);
    let post = hook.post();
    assert_eq!(post.headers["ce-id"], "2");
    post.answer(200, "");
    assert_eq!(row(&again)["attempt"], 1);
    assert_eq!(again.ended().await.code(), Some(0));
    world.settled("billing", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_signed_kept_and_posted_again_without_a_bus() {
    let world = World::new().await;
    let hook = Hook::start();
    let path = |name: &str| world.folder.path().join(name).display().to_string();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    std::fs::write(path("secret"), secret).unwrap();
    let secret_file = path("secret");
    let sign = ["--sign", "standard-webhooks", "--secret-file", &secret_file];
    let kept = path("kept/here");
    let mut event = event("evt_1").source("/till").data(vec![0, 159, 146, 150]);
    event.extensions = vec![("region".to_owned(), "eu".to_owned())];
    world.bus.bus.publish(&event).await.unwrap();
    let more = [&["--count", "1", "--save", &kept][..], &sign].concat();
    let mut listening = world.listen_as("billing", &hook.url, &more);
    let first = hook.post();
    let check = |post: &Post| {
        let headers: Vec<_> = post.headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        let keys = Keys::of(Scheme::StandardWebhooks, &[secret], &[]).unwrap();
        let now = post.headers["webhook-timestamp"].parse().unwrap();
        let verified = verify(
            &keys,
            &Request::new(&headers, &post.body),
            now,
            Duration::from_secs(300),
        );
        assert!(verified.is_ok(), "{verified:?}");
        assert_eq!(post.headers["webhook-id"], "evt_1");
    };
    check(&first);
    let (headers, body) = (first.headers.clone(), first.body.clone());
    first.answer(200, "");
    assert_eq!(listening.ended().await.code(), Some(0));

    let files: Vec<_> = std::fs::read_dir(&kept)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert!(file.ends_with("0-0000000001-acme-invoice.paid-evt_1.json"), "{file:?}");
    let file = file.display().to_string();
    for (status, code) in [(200, 0), (500, 1)] {
        let mut command = Command::new(beside_the_tests("fanout"));
        command
            .args(["listen", "--replay", &file, "--forward", &hook.url])
            .args(sign);
        let mut replaying = Running::start({
            command.env_remove("FANOUT_BUS");
            command
        });
        let post = hook.post();
        check(&post);
        assert_eq!(post.body, body);
        let of_the_event = |headers: &BTreeMap<String, String>| -> Vec<_> {
            let event = headers
                .iter()
                .filter(|(name, _)| name.starts_with("ce-") || *name == "content-type");
            event.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        assert_eq!(of_the_event(&post.headers), of_the_event(&headers));
        post.answer(status, "what it said");
        assert!(replaying.line().starts_with("TIME"));
        let row = replaying.line();
        assert!(row.contains(" acme ") && row.contains(&format!(" {status} ")), "{row}");
        assert_eq!(row.contains("what it said"), status == 500, "{row}");
        assert_eq!(replaying.ended().await.code(), Some(code));
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}/hook");
    let (code, out, err) = fanout(&["listen", "--replay", &file, "--forward", &nobody]);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains(&format!("{nobody} can't be reached")), "{err}");
    std::fs::write(&file, "{}").unwrap();
    let (code, _, err) = fanout(&["listen", "--replay", &file, "--forward", &hook.url]);
    assert_eq!(code, 1);
    assert!(
        err.contains("holds no event") && err.contains("`tenant` is missing"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_leave_this_machine_only_where_that_is_said() {
    let world = World::new().await;
    let hook = Hook::start();
    world.publish("1").await;
    let to = world.bus.served.listen[0].as_str();
    // Another host for all that the name says; the system means this one.
    let elsewhere = format!("http://0.0.0.0:{}/hook", hook.port);
    for forward in [
        &elsewhere,
        "http://hook.invalid/",
        "https://192.0.2.1/",
        "http://localhost.invalid/",
    ] {
        let listen = ["listen", "--to", to, "--forward", forward];
        // Where it would be posted all the same, the command ends too.
        let ends = ["--need", "backfill", "--count", "1", "--forward-timeout", "1"];
        let (code, _, err) = fanout(&[&listen[..], &ends].concat());
        assert_eq!(code, 1, "{forward}: {err}");
        assert!(
            err.contains("is not on this machine") && err.contains("--anywhere"),
            "{err}"
        );
    }
    assert!(
        world.bus.cli.status(&world.bus.policy).subscriptions.is_empty(),
        "nothing was subscribed to"
    );
    let mut listening = world.listen_as("billing", &elsewhere, &["--count", "1", "--anywhere"]);
    hook.post().answer(200, "");
    assert_eq!(listening.ended().await.code(), Some(0));

    let local = hook.url.as_str();
    for (args, expected) in [
        (
            &["--to", to, "--forward", "ftp://localhost/hook"][..],
            "http://localhost:3000/hook",
        ),
        (
            &["--to", to, "--forward", "localhost:3000"],
            "http://localhost:3000/hook",
        ),
        (&["--to", to], "--forward"),
        (&["--forward", local], "--to"),
        (&["--to", to, "--forward", local, "--need", "declared"], "--name"),
        (&["--to", to, "--forward", local, "--sign", "stripe"], "--secret-file"),
        (
            &["--to", to, "--forward", local, "--forward-timeout", "0"],
            "--forward-timeout",
        ),
        (&["--replay", "x", "--forward", local, "--tenant", "acme"], "--tenant"),
    ] {
        let (code, _, err) = fanout(&[&["listen"], args].concat());
        assert_eq!(code, 2, "{args:?}: {err}");
        assert!(err.contains(expected), "{args:?}: {err}");
    }
    let (code, _, err) = fanout(&[
        "listen",
        "--to",
        "tcp://127.0.0.1:1",
        "--timeout",
        "1",
        "--forward",
        local,
    ]);
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("tcp://127.0.0.1:1"), "{err}");
}
