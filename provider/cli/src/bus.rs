//! From a policy file to its bus.

use std::fmt;

use anyhow::{Context as _, Result};
use fanout_plan::document::Document;
use fanout_plan::planner::Observed;
use fanout_plan::{Code, Policy, Problem, SubscriptionName};
use fanout_provider::jetstream::{Store, StoreError};
use fanout_transport::{Error, causes};

use crate::args;
use crate::diagnostic::PolicyRefused;
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

/// Reads a policy file.
pub(crate) fn policy(of: &args::PolicyFile) -> Result<Policy> {
    let path = &of.policy;
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let file = path.display().to_string();
    let refused = |problems| PolicyRefused::new(&file, &text, problems);
    let mut document = Document::parse(&text).map_err(refused)?;
    if let Some(place) = &of.place {
        document.settings.insert("place".to_owned(), place.to_string());
    }
    Policy::from_settings(&file, &document.settings).map_err(|problems| {
        let owner = format!("{file}: ");
        let located = problems.into_iter().map(|problem| {
            let message = problem
                .message
                .strip_prefix(&owner)
                .unwrap_or(&problem.message)
                .to_owned();
            document.locate(Problem { message, ..problem })
        });
        refused(located.collect()).into()
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
            "NATS at {shown} does not let this user in: check the URL's user and password, the flags `--nats-…`, or the context that is used"
        );
    }
    format!("NATS at {shown} is not reached")
}

/// The store that a verb works on.
pub(crate) async fn store(args: &args::Store) -> Result<Store> {
    let policy = policy(&args.policy)?;
    let store = connect(args.nats.connection()?, policy).await?;
    store.answers().await?;
    Ok(store)
}

/// The same, once the partitions of its log are known, and what it holds.
pub(crate) async fn observed(args: &args::Store) -> Result<(Store, Observed)> {
    let store = store(args).await?;
    let observed = store.observe().await?;
    Ok((store.with_layout(observed.topology.layout()), observed))
}

/// What the store did not do, with its code; `None` where the error says its own.
pub(crate) fn store_unavailable(error: &anyhow::Error) -> Option<Problem> {
    match error.downcast_ref()? {
        StoreError::Refused(_) | StoreError::NoJetStream(_) => None,
        _ => Some(Problem::new(Code::StoreUnavailable, causes(&**error))),
    }
}

/// Refuses a name that no subscription of the bus has, nor had when what is kept of it was written.
pub(crate) async fn known(store: &Store, name: &SubscriptionName) -> Result<()> {
    let registry = store.observe().await?.registry;
    let is_known = registry.contains_key(name) || registry.values().any(|r| r.id().name == *name);
    match is_known {
        true => Ok(()),
        false => Err(unknown(store, name).into()),
    }
}

/// A bus has no such subscription.
pub(crate) fn unknown(store: &Store, name: &SubscriptionName) -> Refused {
    let bus = &store.policy().bus;
    Refused(vec![Problem::new(
        Code::UnknownSubscription,
        format!("bus {bus} has no subscription {name}: `fanout status` lists those that it has"),
    )])
}
