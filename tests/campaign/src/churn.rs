//! What comes and goes leaves nothing behind: connections, subscriptions, tenants, links and fetches that are cut, so many
//! times, and what one instance of the bus holds before and after.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, stream::Stream};
use fanout_client::{Bus, ClientTls, Event, Options, Pem, Subscription, connect_with};
use fanout_tests::{Bench, LinkTo};
use fanout_transport::testing::TestAuthority;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::net::TcpStream;

/// Connections that are made at a time.
const CONNECTIONS: usize = 8;
/// Subscriptions that are made at a time; their caller may have a hundred.
const SUBSCRIPTIONS: usize = 4;
/// Links that are put before they are deleted.
const LINKS: u64 = 10;
/// Of so many connections one is a subscription too, and one a link.
const SELDOM: u64 = 10;
/// How long what ended may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(90);
/// What an allocator keeps of what it was once given, over two rounds of the same: what grows with each is more.
const SPARE_KIB: u64 = 6 << 10;
/// A connection to the store that is made anew, a file that is read.
const SPARE_FILES: u64 = 2;
/// Tasks that come and go by themselves: answers under way, a look at the store.
const SPARE_TASKS: u64 = 8;
/// Pauses between two looks.
const AGAIN: Duration = Duration::from_millis(250);
/// How often it is told how far a round has come.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What an instance, and its store, hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    resident_kib: u64,
    files: u64,
    tasks: u64,
    streams: u64,
    consumers: u64,
    /// By bucket, deleted ones not counted.
    keys: BTreeMap<String, u64>,
    /// The marks of deleted ones, which go by their age.
    marks: u64,
}

/// A bus whose callers come and go.
struct Churned {
    bench: Bench,
    urls: Vec<String>,
    tls: ClientTls,
    /// Told apart by all that is made.
    next: AtomicU64,
    /// Its own files and sockets.
    _folder: tempfile::TempDir,
}

/// Makes and ends `many` connections, and a tenth as many subscriptions, cut fetches and links, twice; says whether the bus holds
/// as much after the second round as after the first.
pub(crate) async fn run(many: u64) -> Result<bool> {
    let mut churned = Churned::start().await?;
    // Pools, tables and caches have their size after a round.
    churned.round(many).await?;
    let before = churned.settled(None).await?;
    crate::say(format!("after the first round: {before}"));
    let began = Instant::now();
    churned.round(many).await?;
    let took = began.elapsed().as_secs();
    let after = churned.settled(Some(&before)).await?;
    crate::say(format!(
        "after another {many} connections of as many tenants, {} subscriptions, {} cut fetches and {} links in {took} s: {after}",
        many / SELDOM,
        many / SELDOM,
        many / SELDOM
    ));
    let leaks = after.beyond(&before);
    for leak in &leaks {
        crate::say(format!("  LEAK {leak}"));
    }
    if !leaks.is_empty() {
        for provider in &churned.bench.providers {
            crate::say(format!("the provider's log: {}", tail(&provider.log())));
        }
    }
    Ok(leaks.is_empty())
}

impl Churned {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = TestAuthority::new();
        let server = authority.server();
        for (name, pem) in [
            ("bus.pem", server.certificate),
            ("bus.key", server.key),
            ("ca.pem", authority.certificate()),
        ] {
            let Pem::Text(text) = pem else {
                bail!("a certificate is not in memory");
            };
            std::fs::write(folder.path().join(name), text)?;
        }
        let path = |name: &str| folder.path().join(name).display().to_string();
        let unix = format!("unix:{}", path("bus.sock"));
        let kinds = ["tcp", "http", "tls", "quic", "webtransport"].map(|kind| format!("{kind}://127.0.0.1:0"));
        let all = [&[unix][..], &kinds[..]].concat().join(",");
        let uid = rustix::process::getuid().as_raw().to_string();
        let (certificate, key, ca) = (path("bus.pem"), path("bus.key"), path("ca.pem"));
        let settings = [
            ("listen", all.as_str()),
            ("tls.certificate", certificate.as_str()),
            ("tls.key", key.as_str()),
            ("tls.client-ca", ca.as_str()),
            ("callers.churn.certificate-cn", "churn"),
            ("callers.churn.loopback", "true"),
            ("callers.churn.unix-uid", uid.as_str()),
            ("callers.churn.publish.tenants", "*"),
            ("callers.churn.subscribe.tenants", "*"),
            // Each tenant has a bucket for as long as it is of use.
            ("quota.events-per-second", "1000"),
            // No name is used twice.
            ("limits.names-per-caller", "1000000"),
        ];
        let bench = Bench::start(&settings, &[LinkTo::caller("ingress", &["publisher"], "*")]).await;
        // Where the system's choice led.
        let log = bench.providers[0].log();
        let urls = log.lines().filter_map(|line| line.split_once(" listening endpoint="));
        let urls: Vec<_> = urls.map(|(_, url)| url.replace("127.0.0.1", "localhost")).collect();
        if urls.len() != 1 + kinds.len() {
            bail!("it listens on {urls:?}: RUST_LOG must let `info` through");
        }
        let churned = Self {
            bench,
            urls,
            tls: authority.client("churn"),
            next: AtomicU64::new(0),
            _folder: folder,
        };
        // What fetches that are cut fetch from.
        let bus = churned.connect(0).await?;
        let kept = bus.subscribe(Subscription::durable("kept").tenants(["nobody"])).await?;
        kept.stop(GONE_WITHIN).await;
        Ok(churned)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn connect(&self, n: u64) -> Result<Bus> {
        let mut options = Options::default();
        options.tls = Some(self.tls.clone());
        let url = &self.urls[usize::try_from(n)? % self.urls.len()];
        connect_with(url, options)
            .await
            .with_context(|| format!("connecting to {url}"))
    }

    async fn round(&mut self, many: u64) -> Result<()> {
        let this = &*self;
        let few = many / SELDOM;
        in_parallel("connections", many, CONNECTIONS, async || this.connection().await).await?;
        in_parallel("cut fetches", few, CONNECTIONS, async || this.cut_fetch().await).await?;
        in_parallel("subscriptions", few, SUBSCRIPTIONS, async || this.subscription().await).await?;
        crate::say(format!("  {few} links"));
        for _ in 0..few / LINKS {
            self.links().await?;
        }
        Ok(())
    }

    /// One that says nothing, and one that publishes a new tenant's event.
    async fn connection(&self) -> Result<()> {
        let n = self.number();
        let (kind, address) = self.urls[usize::try_from(n)? % self.urls.len()]
            .split_once("://")
            .unwrap_or(("unix", ""));
        if matches!(kind, "tcp" | "tls" | "http") {
            drop(TcpStream::connect(address).await?);
        }
        let bus = self.connect(n).await?;
        let event = Event::new(format!("t{n}"), "invoice.paid", format!("e{n}"));
        bus.publish(&event).await?;
        Ok(())
    }

    /// A connection that breaks while a fetch waits on it.
    async fn cut_fetch(&self) -> Result<()> {
        let bus = self.connect(self.number()).await?;
        let mut fetching = bus.subscribe(Subscription::declared("kept")).await?;
        // Long enough for the fetch to be sent, seldom long enough for it to wait for long.
        drop(tokio::time::timeout(Duration::from_millis(20), fetching.recv()).await);
        drop((bus, fetching));
        Ok(())
    }

    /// One that is given an event, and ended.
    async fn subscription(&self) -> Result<()> {
        let n = self.number();
        let bus = self.connect(n).await?;
        let (name, tenant) = (format!("s{n}"), format!("t{n}"));
        let mut deliveries = bus.subscribe(Subscription::durable(&name).tenants([&tenant])).await?;
        bus.publish(&Event::new(&tenant, "invoice.paid", format!("e{n}")))
            .await?;
        let delivery = tokio::time::timeout(GONE_WITHIN, deliveries.recv()).await?;
        delivery.context("its deliveries ended")??.ack().await?;
        deliveries.stop(GONE_WITHIN).await;
        Ok(bus.unsubscribe(&name).await?)
    }

    /// Some that are put and deleted: of callers that were never there before, and of one subscription.
    async fn links(&mut self) -> Result<()> {
        let declared = [("subscription", "linked"), ("need", "durable"), ("tenants", "nobody")];
        let mut links = vec![LinkTo::subscriber("linked", &["handler"], &declared)];
        for _ in 1..LINKS {
            links.push(LinkTo::caller(&format!("c{}", self.number()), &["publisher"], "*"));
        }
        for link in &links {
            self.bench.put_link(link).await;
        }
        let (there, gone) = (1 + links.len(), 1);
        self.bench
            .status_when("the links are there", |s| s.links.len() == there)
            .await;
        for link in &links {
            self.bench.delete_link(link).await;
        }
        self.bench
            .status_when("the links are gone", |s| s.links.len() == gone)
            .await;
        Ok(())
    }

    /// What is held once it is no more than before, or has not become less for a while.
    async fn settled(&self, before: Option<&Held>) -> Result<Held> {
        let end = Instant::now() + GONE_WITHIN;
        let mut last = self.held().await?;
        let mut same = 0;
        loop {
            tokio::time::sleep(AGAIN).await;
            let now = self.held().await?;
            same = if now.counts() == last.counts() { same + 1 } else { 0 };
            last = now;
            let is_enough = match before {
                Some(before) => last.beyond(before).is_empty(),
                None => same >= 8,
            };
            if is_enough || Instant::now() > end {
                return Ok(last);
            }
        }
    }

    async fn held(&self) -> Result<Held> {
        let process = Path::new("/proc").join(self.bench.providers[0].id().to_string());
        let status = std::fs::read_to_string(process.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        let metrics = self
            .bench
            .client()
            .request("fanout.default.bus.metrics", "".into())
            .await?;
        let metrics = String::from_utf8_lossy(&metrics.payload).into_owned();
        let tasks = metrics.lines().find_map(|line| line.strip_prefix("fanout_tasks{} "));
        let mut held = Held {
            resident_kib: resident.context("its memory is not known")?,
            files: std::fs::read_dir(process.join("fd"))?.count() as u64,
            tasks: tasks.and_then(|n| n.parse().ok()).context("its tasks are not known")?,
            ..Held::default()
        };
        let js = jetstream::new(self.bench.client().clone());
        let mut streams: Vec<_> = js.streams().try_collect().await?;
        streams.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        for info in streams {
            held.streams += 1;
            let stream = js.get_stream_no_info(&info.config.name).await?;
            let consumers: Vec<_> = stream.consumers().try_collect().await?;
            // Readers without a name go by themselves once nobody reads.
            held.consumers += consumers.iter().filter(|c| c.config.durable_name.is_some()).count() as u64;
            if let Some(bucket) = info.config.name.strip_prefix("KV_") {
                let keys = keys(&stream).await?;
                held.marks += info.state.messages.saturating_sub(keys);
                held.keys.insert(bucket.to_owned(), keys);
            }
        }
        Ok(held)
    }
}

impl Held {
    /// All that is counted, and not measured.
    fn counts(&self) -> Self {
        Self {
            resident_kib: 0,
            marks: 0,
            ..self.clone()
        }
    }

    /// What there is more of than before, and more than comes and goes by itself.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut more = Vec::new();
        let mut compare = |what: &str, now: u64, before: u64, spare: u64| {
            if now > before + spare {
                more.push(format!("{what}: {now}, {before} before"));
            }
        };
        compare("KiB of memory", self.resident_kib, before.resident_kib, SPARE_KIB);
        compare("open files", self.files, before.files, SPARE_FILES);
        compare("tasks", self.tasks, before.tasks, SPARE_TASKS);
        compare("streams", self.streams, before.streams, 0);
        compare("consumers", self.consumers, before.consumers, 0);
        for (bucket, keys) in &self.keys {
            compare(bucket, *keys, before.keys.get(bucket).copied().unwrap_or(0), 0);
        }
        more
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resident_kib,
            files,
            tasks,
            streams,
            consumers,
            keys,
            marks,
        } = self;
        let (mib, keys) = (resident_kib / 1_024, keys.values().sum::<u64>());
        write!(
            f,
            "{mib} MiB, {files} files, {tasks} tasks, {streams} streams, {consumers} consumers, {keys} keys, {marks} marks of deleted keys"
        )
    }
}

/// How many keys of a bucket are there, and not deleted: it keeps one message of each.
async fn keys<I>(bucket: &Stream<I>) -> Result<u64> {
    let config = pull::Config {
        ack_policy: AckPolicy::None,
        headers_only: true,
        inactive_threshold: GONE_WITHIN,
        ..pull::Config::default()
    };
    let reader = bucket.create_consumer(config).await?;
    let (name, there) = (reader.cached_info().name.clone(), reader.cached_info().num_pending);
    let mut all = Vec::new();
    if there > 0 {
        let most = usize::try_from(there)?;
        let batch = reader
            .batch()
            .max_messages(most)
            .expires(GONE_WITHIN)
            .messages()
            .await?;
        all = batch.take(most).try_collect().await.map_err(anyhow::Error::msg)?;
    }
    bucket.delete_consumer(&name).await?;
    let is_mark = |headers: &HeaderMap| {
        ["KV-Operation", "Nats-Marker-Reason"]
            .iter()
            .any(|h| headers.get(*h).is_some())
    };
    let keys = all
        .iter()
        .filter(|message| !message.headers.as_ref().is_some_and(is_mark));
    Ok(keys.count() as u64)
}

/// Does something so many times, a few at once.
async fn in_parallel(name: &str, many: u64, at_once: usize, what: impl AsyncFn() -> Result<()>) -> Result<()> {
    let all = futures::stream::iter(0..many).map(|_| what());
    let mut all = pin!(all.buffer_unordered(at_once));
    let (mut done, mut said) = (0_u64, Instant::now());
    while all.try_next().await?.is_some() {
        done += 1;
        if done == many || said.elapsed() >= SAID_EVERY {
            crate::say(format!("  {done} of {many} {name}"));
            said = Instant::now();
        }
    }
    Ok(())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_than_before_is_told() {
        let before = Held {
            files: 3,
            keys: [("registry".to_owned(), 1)].into(),
            ..Held::default()
        };
        assert_eq!(before.beyond(&before), [""; 0]);
        let mut after = before.clone();
        after.files = 4 + SPARE_FILES;
        after.tasks = SPARE_TASKS + 1;
        after.resident_kib = SPARE_KIB;
        after.keys.insert("registry".to_owned(), 2);
        assert_eq!(
            after.beyond(&before),
            ["open files: 6, 3 before", "tasks: 9, 0 before", "registry: 2, 1 before"]
        );
        after.resident_kib += 1;
        assert_eq!(after.beyond(&before).len(), 4);
    }
}
