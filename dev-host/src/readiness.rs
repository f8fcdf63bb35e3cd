//! When the parts are ready: every link is where it belongs, the bus took its policy, and every endpoint answers.
//!
//! wadm's `Deployed` is not that: it can precede a provider's connection, and a link that got lost on the way
//! (see [`crate::links`]) counts as put. So this asks everyone, and renews the links of those who are missing some.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::bus;
use crate::endpoints::Endpoints;
use crate::http;
use crate::links::{self, Link};
use crate::manifest::Application;

const LIMIT: Duration = Duration::from_secs(60);
const CHECK_EVERY: Duration = Duration::from_millis(25);

/// How long a link may be missing while all else stands still. After that it is renewed, and after each renewal it is
/// given twice as long, so that a slow machine gets there too.
const PATIENCE: Duration = Duration::from_millis(200);

/// What to do about links that are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Renew them. Only while the application starts: to delete a link is to end its subscription.
    Renew,
    /// Wait for them.
    Await,
}

/// What a check found.
#[derive(Debug)]
enum Check {
    Ready,
    /// Not ready, why, and the links that may be lost.
    NotYet(String, Vec<Link>),
}

/// Waits until everything that the manifest names is ready.
pub(crate) async fn wait(
    client: &async_nats::Client,
    application: &Application,
    endpoints: &Endpoints,
    missing: Missing,
) -> Result<()> {
    let http = http::client()?;
    let deadline = Instant::now() + LIMIT;
    let mut suspicion = Suspicion::default();
    loop {
        let (why, suspects) = match check(client, application, endpoints, &http).await? {
            Check::Ready => return Ok(()),
            Check::NotYet(why, suspects) => (why, suspects),
        };
        if Instant::now() >= deadline {
            return Err(anyhow!("waited {} s for the parts to be ready: {why}", LIMIT.as_secs()));
        }
        if missing == Missing::Renew {
            for link in suspicion.confirmed(suspects) {
                info!(%why, %link, "renewing a link");
                link.renew(client).await?;
            }
        }
        sleep(CHECK_EVERY).await;
    }
}

/// The same links missing for a while, and nothing else moving.
#[derive(Debug)]
struct Suspicion {
    suspects: Vec<Link>,
    since: Instant,
    patience: Duration,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            suspects: Vec::new(),
            since: Instant::now(),
            patience: PATIENCE,
        }
    }
}

impl Suspicion {
    /// Takes what a check suspects. Returns the links that are to be renewed.
    fn confirmed(&mut self, suspects: Vec<Link>) -> &[Link] {
        if suspects != self.suspects {
            self.suspects = suspects;
            self.since = Instant::now();
        }
        if self.since.elapsed() < self.patience {
            return &[];
        }
        self.since = Instant::now();
        self.patience *= 2;
        &self.suspects
    }
}

async fn check(
    client: &async_nats::Client,
    application: &Application,
    endpoints: &Endpoints,
    http: &reqwest::Client,
) -> Result<Check> {
    let wanted = application.links();
    let known = links::known(client).await?;
    let unknown: Vec<Link> = wanted.iter().filter(|link| !known.contains(link)).cloned().collect();
    if let Some(first) = unknown.first() {
        return Ok(Check::NotYet(format!("the host has no link {first}"), unknown));
    }
    if application.has(bus::PROVIDER) {
        let of_bus = wanted.iter().filter(|link| link.touches(bus::PROVIDER));
        if let not_yet @ Check::NotYet(..) = check_bus(client, of_bus).await? {
            return Ok(not_yet);
        }
    }
    for endpoint in endpoints
        .all()
        .filter(|endpoint| application.mentions(endpoint.authority()))
    {
        let why = match http::send(http.get(endpoint.probe())).await {
            Ok(answer) if !answer.status.is_server_error() => continue,
            Ok(answer) => format!("{} answers {answer}", endpoint.name()),
            Err(error) => format!("{} does not answer: {error:#}", endpoint.name()),
        };
        let suspects = wanted
            .iter()
            .filter(|link| link.touches(endpoint.component()) && link.namespace == "wasi");
        return Ok(Check::NotYet(why, suspects.cloned().collect()));
    }
    Ok(Check::Ready)
}

async fn check_bus<'a>(client: &async_nats::Client, wanted: impl Iterator<Item = &'a Link>) -> Result<Check> {
    let status = match bus::status(client, bus::status_subject()).await {
        Ok(status) => status,
        Err(error) => return Ok(Check::NotYet(format!("{error:#}"), Vec::new())),
    };
    if let Some(refusal) = bus::refusal(&status) {
        return Err(anyhow!(refusal));
    }
    let missing: Vec<Link> = wanted.filter(|link| !bus::has(&status, link)).cloned().collect();
    if let Some(first) = missing.first() {
        return Ok(Check::NotYet(format!("the bus has no link {first}"), missing));
    }
    Ok(match bus::waiting(&status) {
        Some(why) => Check::NotYet(why, Vec::new()),
        None => Check::Ready,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(target: &str) -> Link {
        Link {
            source: "bus".into(),
            target: target.into(),
            name: "default".into(),
            namespace: "fanout".into(),
            package: "bus".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_link_that_stays_missing_is_renewed_and_less_often_each_time() {
        let mut suspicion = Suspicion::default();
        let half = PATIENCE / 2;
        assert!(suspicion.confirmed(vec![link("a"), link("b")]).is_empty());
        tokio::time::advance(half).await;
        assert!(
            suspicion.confirmed(vec![link("a")]).is_empty(),
            "one came: the others are given time"
        );
        tokio::time::advance(half).await;
        assert!(suspicion.confirmed(vec![link("a")]).is_empty());
        tokio::time::advance(half).await;
        assert_eq!(suspicion.confirmed(vec![link("a")]), [link("a")]);
        tokio::time::advance(PATIENCE).await;
        assert!(suspicion.confirmed(vec![link("a")]).is_empty());
        tokio::time::advance(PATIENCE).await;
        assert_eq!(suspicion.confirmed(vec![link("a")]), [link("a")]);
    }
}
