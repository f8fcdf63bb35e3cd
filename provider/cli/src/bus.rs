//! From a policy file to its bus.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result};
use fanout_plan::document::Document;
use fanout_plan::{Policy, Problem};
use fanout_provider::jetstream::Store;
use fanout_transport::Error;

use crate::args;
use crate::nats::Connection;

/// A policy or a request that is not legal, with every reason.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Vec<Problem>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for Refused {}

/// Reads a policy file; a problem of a setting says on which line it stands.
pub(crate) fn policy(path: &Path) -> Result<Policy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let file = path.display().to_string();
    let document = Document::parse(&text).map_err(|problems| {
        Refused(
            problems
                .into_iter()
                .map(|p| Problem::new(p.code, format!("{file}: {}", p.message)))
                .collect(),
        )
    })?;
    Policy::from_settings(&file, &document.settings).map_err(|problems| {
        let with_line = |p: Problem| {
            let line = p.setting.as_deref().and_then(|s| document.line(s));
            match (line, p.message.strip_prefix(&file)) {
                (Some(line), Some(rest)) => Problem {
                    message: format!("{file}:{line}{rest}"),
                    ..p
                },
                _ => p,
            }
        };
        Refused(problems.into_iter().map(with_line).collect()).into()
    })
}

/// Connects to the store of a policy's bus.
pub(crate) async fn connect(to: Connection, policy: Policy) -> Result<Store> {
    let shown = to.access.shown();
    let client = fanout_transport::connect(&to.access, "fanout").await.map_err(|e| {
        let what = why(&e, &shown);
        anyhow::Error::new(e).context(what)
    })?;
    let jetstream = to.jetstream.unwrap_or_else(|| policy.jetstream.clone());
    Ok(Store::new(client, Policy { jetstream, ..policy }))
}

/// What to look at when NATS, by its servers, is not connected to.
pub(crate) fn why(e: &Error, shown: &str) -> String {
    if matches!(e, Error::Connect { refused: true, .. }) {
        return format!(
            "NATS at {shown} does not let this user in: look at the URL's user and password, the flags `--nats-…`, or the context that is used"
        );
    }
    format!("can't connect to {shown}")
}

/// The store that a verb works on.
pub(crate) async fn store(args: &args::Store) -> Result<Store> {
    let policy = policy(&args.policy.policy)?;
    let store = connect(args.nats.connection()?, policy).await?;
    store.answers().await?;
    Ok(store)
}

/// The same, once the partitions of its log are known.
pub(crate) async fn store_with_layout(args: &args::Store) -> Result<Store> {
    let store = store(args).await?;
    let observed = store.observe().await?;
    Ok(store.with_layout(observed.topology.layout()))
}
