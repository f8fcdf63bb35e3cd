//! Question 5: the same program and the same bus over NATS, TCP and QUIC, across a line with delay and loss.
//!
//! The bus and its server are a process of their own (this program started again), beyond the line.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fanout_client::{Bus, ClientTls, Options, Pem, Subscription, connect_with};
use fanout_tests::{Bench, LinkTo};
use fanout_transport::testing::{NatsSettings, TestAuthority, free_ports};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::flow::{Meter, Open, closed_loop, open_loop, warm};
use crate::packets::{FAR, Line, Weather};
use crate::plot::Plot;
use crate::proxy::Link;
use crate::table::{Table, ms, rate};
use crate::ways::{self, Way};

/// In whose environment this stands is the far side: what it is told, as JSON.
pub(crate) const FAR_SIDE: &str = "FANOUT_FINDINGS_FAR_SIDE";
/// The program, as the link and the policy know it, and as its certificate names it.
const PROGRAM: &str = "program";

/// What the program is told; nothing else differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Transport {
    Nats,
    Tcp,
    Quic,
}

impl Transport {
    const ALL: [Self; 3] = [Self::Nats, Self::Tcp, Self::Quic];

    fn name(self) -> &'static str {
        match self {
            Self::Nats => "NATS",
            Self::Tcp => "TCP",
            Self::Quic => "QUIC",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }

    /// The URL that the program connects to.
    fn url(self, host: &str, port: u16) -> String {
        match self {
            Self::Nats => format!("nats://{host}:{port}?target=default.bus"),
            // A peer of the network is known by its certificate alone.
            Self::Tcp => format!("tls://{host}:{port}"),
            Self::Quic => format!("quic://{host}:{port}"),
        }
    }
}

/// What the far side is told.
#[derive(Debug, Deserialize, Serialize)]
struct FarSide {
    /// Where it listens, and whether others can reach that.
    host: String,
    nats: u16,
    tcp: u16,
    quic: u16,
}

/// Serves until its input ends. Its certificates lie in the folder it is in.
pub(crate) async fn far_side(told: &str) -> Result<()> {
    let told: FarSide = serde_json::from_str(told)?;
    let listen = format!("tls://{0}:{1},quic://{0}:{2}", told.host, told.tcp, told.quic);
    let folder = std::env::current_dir()?;
    let file = |name: &str| folder.join(name).display().to_string();
    let (certificate, key, ca) = (file("bus.pem"), file("bus.key"), file("ca.pem"));
    let settings = [
        ("retention.max-bytes", "4GiB"),
        ("delivery.deadline", "10s"),
        ("delivery.ack-wait", "30s"),
        ("publish.deadline", "10s"),
        ("listen", &listen),
        ("tls.certificate", &certificate),
        ("tls.key", &key),
        ("tls.client-ca", &ca),
        ("callers.program.certificate-dns", PROGRAM),
        ("callers.program.publish.tenants", "*"),
        ("callers.program.subscribe.tenants", "*"),
    ];
    let nats = NatsSettings {
        port: Some(told.nats),
        // In a namespace of its own this is the line and nothing else.
        args: if told.host == FAR {
            vec!["--addr".into(), "0.0.0.0".into()]
        } else {
            Vec::new()
        },
        ..NatsSettings::default()
    };
    let links = [LinkTo::caller(PROGRAM, &["publisher", "subscriber", "inbox"], "*")];
    let _bench = Bench::start_on(nats, &settings, &links).await;
    writeln!(std::io::stdout(), "ready")?;
    // Until the near side is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1])).await??;
    Ok(())
}

/// The far side's process; it ends with its input.
struct Far {
    process: Child,
    told: FarSide,
    line: Option<Line>,
    authority: TestAuthority,
    _folder: tempfile::TempDir,
}

impl Far {
    async fn start(lab: &Lab) -> Result<Self> {
        let line = match Line::open(lab.draw(0, u64::MAX)).await {
            Ok(line) => Some(line),
            Err(why) => {
                lab.say(format!("no line of packets ({why:#}): a proxy models it"));
                None
            }
        };
        let ports = free_ports(3);
        let told = FarSide {
            host: line.as_ref().map_or("127.0.0.1", |_| FAR).to_owned(),
            nats: ports[0],
            tcp: ports[1],
            quic: ports[2],
        };
        let authority = TestAuthority::new();
        let folder = tempfile::tempdir().context("a folder for certificates")?;
        let tls = authority.server();
        for (name, pem) in [
            ("bus.pem", &tls.certificate),
            ("bus.key", &tls.key),
            ("ca.pem", &authority.certificate()),
        ] {
            write(&folder.path().join(name), pem)?;
        }
        let this = std::env::current_exe()?;
        let mut command = match &line {
            Some(line) => {
                let enter = line.enter();
                let mut words = enter.iter();
                let mut command = Command::new(words.next().context("a command")?);
                command.args(words).arg(&this);
                command
            }
            None => Command::new(&this),
        };
        let mut process = command
            .env(FAR_SIDE, serde_json::to_string(&told)?)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the far side can't be started")?;
        let mut ready = String::new();
        let out = process.stdout.take().context("its output")?;
        BufReader::new(out).read_line(&mut ready)?;
        if ready.trim() != "ready" {
            drop(process.kill());
            bail!("the far side ended before it served");
        }
        Ok(Self {
            process,
            told,
            line,
            authority,
            _folder: folder,
        })
    }

    /// What carries packets, as a page says it.
    fn carrier(&self) -> &'static str {
        match self.line {
            Some(_) => {
                "packets between two network namespaces, over TUN devices: TCP and QUIC meet the loss themselves"
            }
            None => {
                "a proxy: QUIC packets are lost; TCP packets are not, a loss is modelled as a stall of 200 ms or two round trips"
            }
        }
    }

    /// The way to each transport in this weather; the links go with what is returned.
    async fn ways(&self, weather: Weather, seed: u64) -> Result<(BTreeMap<Transport, String>, Vec<Link>)> {
        let ports = [
            (Transport::Nats, self.told.nats),
            (Transport::Tcp, self.told.tcp),
            (Transport::Quic, self.told.quic),
        ];
        let mut urls = BTreeMap::new();
        let mut links = Vec::new();
        for (transport, port) in ports {
            let port = match (&self.line, transport) {
                (Some(line), _) => {
                    line.set(weather);
                    port
                }
                (None, Transport::Quic) => {
                    links.push(Link::datagrams(port, weather, seed).await?);
                    links.last().map_or(port, Link::port)
                }
                (None, _) => {
                    links.push(Link::through(port, weather, seed).await?);
                    links.last().map_or(port, Link::port)
                }
            };
            urls.insert(transport, transport.url(&self.told.host, port));
        }
        Ok((urls, links))
    }

    async fn connect(&self, url: &str) -> Result<Bus> {
        let mut options = Options::default();
        options.component = PROGRAM.to_owned();
        options.tls = Some(ClientTls {
            server_name: Some("localhost".to_owned()),
            ..self.authority.client(PROGRAM)
        });
        connect_with(url, options)
            .await
            .with_context(|| format!("connect to {url}"))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Its input ends, and with it the servers that it holds.
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

fn write(path: &Path, pem: &Pem) -> Result<()> {
    let Pem::Text(text) = pem else {
        bail!("a certificate in memory is expected");
    };
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

/// One transport in one weather.
struct Figures {
    connected: Duration,
    durable: Open,
    queue: Open,
    per_second: f64,
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let mut findings = Findings::default();
    // Packets lost of a thousand, and milliseconds one way. The smoke run has those that the summary tells of.
    let all = [(0, 0), (0, 10), (0, 50), (10, 0), (10, 10), (10, 50)];
    let weathers = lab.scale.pick(vec![all[0], all[1], all[5]], all.to_vec(), all.to_vec());
    let far = Far::start(lab).await?;
    let meter = Meter::new()?;
    let mut table = Table::new(
        "transport",
        &[
            "one way",
            "lost",
            "transport",
            "connected, first receipt",
            "receipt p50",
            "p99",
            "durable p50",
            "p99",
            "longest",
            "queue p50",
            "p99",
            "events/s, 64 under way",
            "refused",
            "never came",
        ],
    );
    let mut lines: BTreeMap<(u64, Transport), Vec<(f64, f64)>> = BTreeMap::new();
    for (lost_per_mille, delay) in weathers {
        let weather = Weather {
            delay: Duration::from_millis(delay),
            lost_per_mille,
        };
        let (urls, links) = far.ways(weather, lab.draw(1, u64::MAX / 4)).await?;
        for (transport, url) in &urls {
            let lost = format!("{} %", lost_per_mille / 10);
            lab.say(format!("{}: {delay} ms one way, {lost} lost", transport.name()));
            let before = far.line.as_ref().map_or(0, Line::dropped);
            let f = measure(lab, &far, *transport, url, &meter).await?;
            let dropped = far.line.as_ref().map(|line| line.dropped() - before);
            lab.raw.note(&json!({
                "part": "transport", "transport": transport.word(), "delay_ms": delay, "lost_per_mille": lost_per_mille,
                "connected_ms": f.connected.as_secs_f64() * 1_000.0, "per_s": f.per_second, "packets_lost": dropped,
                "durable": f.durable.handled.to_json(), "receipts": f.durable.stored.to_json(),
                "queue": f.queue.handled.to_json(), "failed": f.durable.failed + f.queue.failed,
                "missing": f.durable.missing() + f.queue.missing(),
            }))?;
            let at = format!("{}-{delay}-{}", transport.word(), lost_per_mille / 10);
            findings.figure(&format!("{at}-p50"), ms(f.durable.handled.percentile(50.0)));
            findings.figure(&format!("{at}-p99"), ms(f.durable.handled.percentile(99.0)));
            findings.figure(&format!("{at}-rate"), rate(f.per_second));
            let line = lines.entry((lost_per_mille, *transport)).or_default();
            line.push((delay as f64, f.durable.handled.percentile(99.0)));
            table.row(vec![
                format!("{delay} ms"),
                lost,
                transport.name().to_owned(),
                ms(f.connected.as_secs_f64() * 1_000.0),
                ms(f.durable.stored.percentile(50.0)),
                ms(f.durable.stored.percentile(99.0)),
                ms(f.durable.handled.percentile(50.0)),
                ms(f.durable.handled.percentile(99.0)),
                ms(f.durable.handled.max()),
                ms(f.queue.handled.percentile(50.0)),
                ms(f.queue.handled.percentile(99.0)),
                rate(f.per_second),
                (f.durable.failed + f.queue.failed).to_string(),
                format!("{} / {}", f.durable.missing(), f.queue.missing()),
            ]);
        }
        drop(links);
    }
    findings.figure("line", far.carrier());
    findings.tables.push(differences(&far));
    findings.tables.push(table);
    findings.plots.push(Plot {
        name: "transport",
        title: "From due to handler, durable, p99".into(),
        x: "milliseconds one way",
        y: "milliseconds",
        log_x: false,
        lines: lines
            .into_iter()
            .map(|((lost, transport), line)| (format!("{}, {} % lost", transport.name(), lost / 10), line))
            .collect(),
    });
    Ok(findings)
}

/// What the program and the bus are told.
fn differences(far: &Far) -> Table {
    let mut table = Table::new("manifest", &["transport", "the bus is told", "the program is told"]);
    let listen = |transport: Transport| match transport {
        Transport::Nats => "nothing: it serves its lattice".to_owned(),
        Transport::Tcp => "`listen: tls://bus:7761`, `tls.certificate`, `tls.key`, `tls.client-ca`".to_owned(),
        Transport::Quic => "`listen: quic://bus:7762`, `tls.certificate`, `tls.key`, `tls.client-ca`".to_owned(),
    };
    let port = |transport: Transport| match transport {
        Transport::Nats => 4_222,
        Transport::Tcp => 7_761,
        Transport::Quic => 7_762,
    };
    for transport in Transport::ALL {
        // The same function made the URLs of this run.
        let url = transport.url("bus", port(transport)).replace(&far.told.host, "bus");
        table.row(vec![transport.name().to_owned(), listen(transport), format!("`{url}`")]);
    }
    table
}

async fn measure(lab: &Lab, far: &Far, transport: Transport, url: &str, meter: &Arc<Meter>) -> Result<Figures> {
    let time = Duration::from_millis(lab.scale.pick(400, 1_000, 10_000));
    let per_second = lab.scale.pick(50.0, 200.0, 500.0);
    let start = Instant::now();
    let publisher = far.connect(url).await?;
    let (durable, queue) = (
        format!("durable-{}", transport.word()),
        format!("queue-{}", transport.word()),
    );
    let to = |tenant: &str| Way::Bus(publisher.clone(), tenant.into());
    // A number of no run: no handler counts it.
    to(&durable)
        .publish(u64::MAX - start.elapsed().as_nanos() as u64, crate::load::event(0))
        .await?;
    let connected = start.elapsed();
    let handler = ways::subscribe(
        &far.connect(url).await?,
        Subscription::durable(durable.as_str()).tenants([durable.as_str()]),
        meter,
    )
    .await?;
    warm(&to(&durable), meter).await?;
    let by_durable = open_loop(&to(&durable), meter, per_second, time).await?;
    let most = closed_loop(&to(&durable), meter, 64, time.min(Duration::from_secs(3)) * 2 / 3).await?;
    handler.check()?;
    drop(handler);
    let handler = ways::subscribe(
        &far.connect(url).await?,
        Subscription::queue(queue.as_str()).tenants([queue.as_str()]),
        meter,
    )
    .await?;
    warm(&to(&queue), meter).await?;
    let by_queue = open_loop(&to(&queue), meter, per_second, time).await?;
    handler.check()?;
    Ok(Figures {
        connected,
        durable: by_durable,
        queue: by_queue,
        per_second: most,
    })
}
