//! The machine that a figure belongs to.

use std::fmt;

use anyhow::Result;
use fanout_transport::testing::NatsServer;

/// What a reader must know of it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_gib: u64,
    kernel: String,
    nats_server: String,
    /// The load before the run: more than a little means that others were at work.
    load: String,
    date: String,
    /// What else it does, by who runs the experiments.
    beside: Option<String>,
}

impl Machine {
    pub(crate) async fn read(beside: Option<String>) -> Result<Self> {
        let server = NatsServer::start().await;
        let nats_server = server.client().await.server_info().version;
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|l| l.starts_with(key))?.to_owned();
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib = field(&text("/proc/meminfo"), "MemTotal")
            .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&text("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            nats_server,
            load: text("/proc/loadavg").split(' ').next().unwrap_or("?").to_owned(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            beside,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} cores ({}), {} GiB, Linux {}, nats-server {}, load before the run {}",
            self.date, self.cores, self.processor, self.memory_gib, self.kernel, self.nats_server, self.load
        )?;
        match &self.beside {
            Some(beside) => write!(f, "; beside it ran {beside}"),
            None => Ok(()),
        }
    }
}
