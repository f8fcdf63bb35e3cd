//! `fanout-dev run`: one component on a bus over wRPC, without a wasmCloud host.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fanout_client::Upstream;
use fanout_client::component::{Plan, declared as declared_subscription};
use fanout_runtime::{Buckets, HttpServer, Order, Program, Secrets, Surroundings};
use fanout_transport::{ClientIdentity, ClientTls, ConnectOptions, Pem};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::Run;
use crate::interrupt::Interrupt;

/// For a call of the component to the bus, repeats included. A component's caller should learn of an outage before it
/// gives up itself.
const CALL_DEADLINE: Duration = Duration::from_secs(8);
/// Orders that wait to be taken.
const ORDERS: usize = 64;

/// Runs it until a signal.
pub(crate) fn run(run: Run) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would panic where standard error is closed.
        .log_internal_errors(false)
        .init();
    let runtime = tokio::runtime::Runtime::new().context("can't start the runtime")?;
    runtime.block_on(attend(run))
}

async fn attend(run: Run) -> Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let name = match &run.name {
        Some(name) => name.clone(),
        None => file_name(&run.component)?,
    };
    let bus = run.bus.clone()?;
    let (orders, ordered) = mpsc::channel(ORDERS);
    let surroundings = Surroundings {
        name: name.clone(),
        config: run.config.iter().cloned().collect(),
        secrets: Secrets(read_secrets(&run.secret)?),
        buckets: Buckets::default(),
        bus: Upstream::new(bus.clone(), connect_options(&run, &name), CALL_DEADLINE),
        orders: orders.clone(),
    };
    let deadline = Duration::from_millis(run.deadline_ms);
    let program = Arc::new(Program::load(&run.component, surroundings, deadline).await?);
    let server = match run.http {
        Some(_) if !program.answers_http() => {
            bail!("component {name} exports no `wasi:http/incoming-handler`: leave `--http` out")
        }
        Some(address) => Some(HttpServer::bind(address).await?),
        None => None,
    };

    let stop = CancellationToken::new();
    let address = server.as_ref().map(HttpServer::address);
    let serving = server.map(|server| tokio::spawn(server.serve(Arc::clone(&program), stop.clone())));
    let delivering = tokio::spawn(fanout_runtime::keep(Arc::clone(&program), ordered, stop.clone()));
    if run.http.is_none() && run.subscribe.is_empty() {
        tracing::warn!(
            component = name,
            "nothing will reach it but what it subscribed to by a call before: give `--http` or `--subscribe`"
        );
    }
    for settings in &run.subscribe {
        orders.send(declared(&name, settings, &program)?).await?;
    }
    let url = address.map(|address| format!("http://{address}"));
    let said = if run.json {
        json!({ "component": name, "sha256": program.sha256(), "http": url }).to_string()
    } else {
        let url = url.as_deref().unwrap_or("without HTTP");
        format!("READY {name} {url} on {bus}")
    };
    // It runs whether or not anybody reads this.
    drop(writeln!(std::io::stdout(), "{said}"));
    let reason = interrupt.signalled().await;
    stop.cancel();
    if let Some(serving) = serving {
        serving.await.context("the HTTP server was cut off")?;
    }
    delivering.await.context("the deliveries were cut off")?;
    tracing::info!(component = name, ?reason, "stopped");
    Ok(ExitCode::SUCCESS)
}

fn file_name(component: &Path) -> Result<String> {
    let stem = component.file_stem().and_then(|stem| stem.to_str());
    Ok(stem
        .with_context(|| format!("{} has no file name: give `--name`", component.display()))?
        .replace('_', "-"))
}

/// The file's content, without the line's end that an editor adds.
fn read_secrets(secrets: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let read = |(key, file): &(String, String)| -> Result<(String, String)> {
        let text = std::fs::read_to_string(file).with_context(|| format!("can't read secret {key} in {file}"))?;
        Ok((key.clone(), text.trim_end_matches(['\r', '\n']).to_owned()))
    };
    secrets.iter().map(read).collect()
}

fn connect_options(run: &Run, name: &str) -> ConnectOptions {
    ConnectOptions {
        source: name.to_owned(),
        tls: run.tls_ca.as_ref().map(|ca| ClientTls {
            server_ca: Pem::File(ca.clone()),
            identity: run
                .tls_certificate
                .as_ref()
                .zip(run.tls_key.as_ref())
                .map(|(certificate, key)| ClientIdentity {
                    certificate: Pem::File(certificate.clone()),
                    key: Pem::File(key.clone()),
                }),
            server_name: None,
        }),
        ..ConnectOptions::default()
    }
}

/// A subscription in the words of a link.
fn declared(name: &str, text: &str, program: &Program) -> Result<Order> {
    let pairs = text.split_whitespace().map(|pair| {
        let (key, value) = pair
            .split_once('=')
            .with_context(|| format!("`--subscribe`: {pair:?} is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let settings = pairs.collect::<Result<_>>()?;
    let interfaces = program.handlers();
    let owner = format!("`--subscribe` of component {name}");
    let subscription = declared_subscription(&owner, name, &interfaces, &settings).map_err(|problems| {
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{}", all.join("; "))
    })?;
    Ok(Order::Deliver {
        plan: Plan::from(&subscription),
        is_batch: interfaces.iter().any(|i| i == "batch-handler"),
    })
}
