//! What goes wrong around a bus, as a test wants it: a connection that is held or cut, a process that is frozen, a
//! cluster that changes its leaders, an operator's mistakes, a store that is small.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use fanout_transport::testing::{NatsSettings, free_ports};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::eventually;
use crate::provider::signal;

/// A way through a [`Proxy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    ToServer,
    /// From the server.
    ToClient,
}

#[derive(Clone, Debug, Default)]
struct State {
    refuses: bool,
    /// A connection that is older is closed.
    generation: u64,
    held: Vec<Way>,
    /// How long each way takes.
    delay: Duration,
    /// Of so many pieces one is lost on its way, and comes when it is sent again.
    loses_one_in: Option<usize>,
}

/// What goes through a proxy now.
#[derive(Debug, Default)]
struct Carried {
    connections: AtomicUsize,
    /// Reads that wait because their way is held.
    waiting: AtomicUsize,
}

/// Counts itself for as long as it is there.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn among(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When TCP sends again what was lost where nothing follows that would show it (Linux: 200 ms at least).
const SENT_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A TCP proxy before a server of the loopback. It carries everything until it is told to hold or to cut.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    carried: Arc<Carried>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before a port of the loopback.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a port");
        let port = listener.local_addr().expect("it has an address").port();
        let (state, seen) = watch::channel(State::default());
        let carried = Arc::default();
        let task = tokio::spawn(accept(listener, server, seen, Arc::clone(&carried)));
        Self {
            port,
            state,
            carried,
            task,
        }
    }

    /// The port where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it carries now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.carried.connections.load(Ordering::Relaxed)
    }

    /// On how many ways of its connections something waits now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.carried.waiting.load(Ordering::Relaxed)
    }

    /// `nats://127.0.0.1:{port}`
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// From now on, what is sent this way waits, and the connections stay open. Some of it waits here, and is lost when
    /// they are cut.
    pub fn hold(&self, way: Way) {
        self.state.send_modify(|s| s.held.push(way));
    }

    /// From now on, what is sent takes at least this long, each way, and at most twice as long.
    pub fn delay(&self, each_way: Duration) {
        self.state.send_modify(|s| s.delay = each_way);
    }

    /// From now on, one in so many pieces is lost, each way: it and what is behind it come once it is sent again, as TCP does.
    /// `None`: none is.
    pub fn lose(&self, one_in: Option<usize>) {
        self.state.send_modify(|s| s.loses_one_in = one_in);
    }

    /// What waits goes on.
    pub fn release(&self) {
        self.state.send_modify(|s| s.held.clear());
    }

    /// Closes every connection, and every new one at once.
    pub fn cut(&self) {
        self.state.send_modify(|s| {
            s.refuses = true;
            s.generation += 1;
        });
    }

    /// Lets new connections through; nothing is held any more. A link that is slow stays so.
    pub fn heal(&self) {
        self.state.send_modify(|s| {
            s.refuses = false;
            s.held.clear();
        });
    }

    /// Closes every connection, and lets new ones through.
    pub fn reset(&self) {
        self.cut();
        self.heal();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: u16, state: watch::Receiver<State>, carried: Arc<Carried>) {
    while let Ok((client, _)) = listener.accept().await {
        let (mut cut, carried) = (state.clone(), Arc::clone(&carried));
        let State {
            refuses, generation, ..
        } = *state.borrow();
        if refuses {
            continue;
        }
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                return;
            };
            // An error here and below is a peer that went away: the connection ends.
            client.set_nodelay(true).unwrap_or_default();
            server.set_nodelay(true).unwrap_or_default();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let (there, back) = (cut.clone(), cut.clone());
            let (_counted, waiting) = (Counted::among(&carried.connections), &carried.waiting);
            tokio::select! {
                () = carry(from_client, to_server, Way::ToServer, generation, (there, waiting)) => {}
                () = carry(from_server, to_client, Way::ToClient, generation, (back, waiting)) => {}
                _ = cut.wait_for(|s| s.generation != generation) => {}
            }
        });
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    generation: u64,
    (mut state, waiting): (watch::Receiver<State>, &AtomicUsize),
) {
    // Large enough that a delay costs a busy connection no bandwidth that it needs.
    let mut buffer = vec![0; 64 << 10];
    for piece in 1.. {
        let read = from.read(&mut buffer).await.unwrap_or_default();
        let _waits = Counted::among(waiting);
        let mut delay = state.borrow().delay;
        if state.borrow().loses_one_in.is_some_and(|one_in| piece % one_in == 0) {
            delay += SENT_AGAIN_AFTER;
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // The end of a connection is held, too. What is held when its connection is cut is lost, also where the next one is let
        // through at the same moment.
        let goes_on = state.wait_for(|s| s.generation != generation || !s.held.contains(&way));
        if goes_on.await.map_or(true, |s| s.generation != generation) || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// How long a process may take to stop.
const STOPS_IN: Duration = Duration::from_secs(10);

/// A process that is frozen (SIGSTOP) and goes on when this is dropped.
#[derive(Debug)]
pub struct Frozen(u32);

impl Frozen {
    /// Freezes a process, and returns once each of its threads has stopped: the signal is sent sooner.
    ///
    /// # Panics
    /// If it is not there, or does not stop.
    #[must_use]
    pub fn process(id: u32) -> Self {
        signal(id, "STOP");
        let frozen = Self(id);
        let since = Instant::now();
        while !has_stopped(id) {
            assert!(since.elapsed() < STOPS_IN, "process {id} does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        frozen
    }

    /// Lets it go on.
    pub fn thaw(self) {}
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let going_on = Command::new("kill")
            .args(["-s", "CONT", &self.0.to_string()])
            .stderr(Stdio::null())
            .status();
        drop(going_on);
    }
}

/// Whether all threads of a process are stopped (`T` in proc(5), behind the name in parentheses).
fn has_stopped(id: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).expect("the process is there");
    threads.filter_map(Result::ok).all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // A thread that ended does nothing more.
        stat.rsplit_once(')')
            .is_none_or(|(_, state)| state.trim_start().starts_with(['T', 't', 'Z', 'X']))
    })
}

/// What an operator or the cluster does to streams and consumers.
#[derive(Clone, Debug)]
pub struct Nemesis(jetstream::Context);

impl Nemesis {
    /// Over a connection that goes round every proxy.
    #[must_use]
    pub fn on(client: &async_nats::Client) -> Self {
        Self(jetstream::new(client.clone()))
    }

    /// Has the leader of a stream step down. Another server becomes the leader, soon.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn step_down(&self, stream: &str) {
        self.done(format!("STREAM.LEADER.STEPDOWN.{stream}")).await;
    }

    /// Has the leader of a consumer step down; returns whether the consumer was there.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn step_down_consumer(&self, stream: &str, consumer: &str) -> bool {
        self.request(format!("CONSUMER.LEADER.STEPDOWN.{stream}.{consumer}"))
            .await
    }

    /// Purges a stream of all its messages.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn purge(&self, stream: &str) {
        self.done(format!("STREAM.PURGE.{stream}")).await;
    }

    /// Deletes a stream, and with it its consumers.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn delete(&self, stream: &str) {
        self.0.delete_stream(stream).await.expect("the stream is deleted");
    }

    /// Deletes a stream, and makes it again, empty and without consumers.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn recreate(&self, stream: &str) {
        let found = self.0.get_stream(stream).await.expect("the stream is there");
        let config = found.cached_info().config.clone();
        self.delete(stream).await;
        self.0.create_stream(config).await.expect("the stream is made again");
    }

    /// Deletes a consumer.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn delete_consumer(&self, stream: &str, consumer: &str) {
        let deleted = self.0.delete_consumer_from_stream(consumer, stream).await;
        deleted.expect("the consumer is deleted");
    }

    /// Deletes a pull consumer, and makes it again: it begins where its configuration says, and not where it was.
    ///
    /// # Panics
    /// If the server does not do so.
    pub async fn recreate_consumer(&self, stream: &str, consumer: &str) {
        let found: PullConsumer = self
            .0
            .get_consumer_from_stream(consumer, stream)
            .await
            .expect("the consumer is there");
        let config = found.cached_info().config.clone();
        self.delete_consumer(stream, consumer).await;
        let made = self.0.create_consumer_on_stream(config, stream).await;
        made.expect("the consumer is made again");
    }

    async fn done(&self, subject: String) {
        assert!(self.request(subject.clone()).await, "{subject}: it is not there");
    }

    /// Asks until the cluster can do it: while it chooses a leader it answers 503, or nothing. Returns whether there was anything to
    /// do it to.
    async fn request(&self, subject: String) -> bool {
        let asked = format!("JetStream does {subject}");
        eventually(&asked, || async {
            let answer: Value = self.0.request(subject.clone(), &()).await.ok()?;
            match answer.get("error") {
                Some(error) if error["code"] == 503 => None,
                Some(error) if error["code"] == 404 => Some(false),
                Some(error) => panic!("{error}"),
                None => Some(true),
            }
        })
        .await
    }
}

/// A server whose store holds so many bytes on disk.
#[must_use]
pub fn small_store(max_bytes: u64) -> NatsSettings {
    NatsSettings {
        config: Some(format!("jetstream {{ max_file_store: {max_bytes} }}\n")),
        ..NatsSettings::default()
    }
}

/// Servers that are one cluster, each to be started. None tells its clients of the others: a client stays with the server,
/// or the proxy, that it was given.
///
/// # Panics
/// If there are no ports for them.
#[must_use]
pub fn cluster(servers: usize) -> Vec<NatsSettings> {
    let ports = free_ports(servers);
    let routes: Vec<String> = ports.iter().map(|p| format!("\"nats://127.0.0.1:{p}\"")).collect();
    ports
        .iter()
        .map(|port| NatsSettings {
            config: Some(format!(
                "server_name: \"s{port}\"\ncluster {{\n  name: test\n  listen: \"127.0.0.1:{port}\"\n  no_advertise: true\n  routes: [{}]\n}}\n",
                routes.join(", ")
            )),
            ..NatsSettings::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanout_transport::testing::NatsServer;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_proxy_carries_holds_and_cuts() {
        let server = NatsServer::start().await;
        let proxy = Proxy::before(server.port()).await;
        let client = async_nats::connect(proxy.url()).await.unwrap();
        client.flush().await.unwrap();
        for way in [Way::ToServer, Way::ToClient] {
            proxy.hold(way);
            let round_trip = client.request("$SYS.REQ.USER.INFO", "".into());
            let mut round_trip = std::pin::pin!(round_trip);
            assert!(timeout(Duration::from_millis(100), &mut round_trip).await.is_err());
            proxy.release();
            round_trip.await.unwrap();
        }
        proxy.cut();
        eventually("the client has no connection", || async {
            (client.connection_state() != async_nats::connection::State::Connected).then_some(())
        })
        .await;
        proxy.heal();
        eventually("the client has one again", || async {
            (client.connection_state() == async_nats::connection::State::Connected).then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_frozen_process_goes_on() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        let frozen = Frozen::process(child.id());
        eventually("it is stopped", || async { (state() == 'T').then_some(()) }).await;
        frozen.thaw();
        eventually("it goes on", || async { (state() != 'T').then_some(()) }).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn what_is_made_again_is_empty() {
        let server = NatsServer::start_with(small_store(1 << 20)).await;
        let client = server.client().await;
        let (js, nemesis) = (jetstream::new(client.clone()), Nemesis::on(&client));
        let config = jetstream::stream::Config {
            name: "s".into(),
            subjects: vec!["a".into()],
            ..Default::default()
        };
        let mut stream = js.create_stream(config).await.unwrap();
        let config = jetstream::consumer::pull::Config {
            durable_name: Some("c".into()),
            ..Default::default()
        };
        stream.create_consumer(config).await.unwrap();
        let store = async || js.publish("a", vec![0; 1 << 10].into()).await.unwrap().await;
        store().await.unwrap();
        nemesis.purge("s").await;
        assert_eq!(stream.info().await.unwrap().state.messages, 0);
        while store().await.is_ok() {}
        nemesis.recreate_consumer("s", "c").await;
        assert!(stream.info().await.unwrap().state.messages > 100);
        nemesis.recreate("s").await;
        let state = &stream.info().await.unwrap().state;
        assert_eq!((state.last_sequence, state.consumer_count), (0, 0));
    }
}
