//! Posts webhooks as a payment provider does: signed anew for each try, again until a 2xx, a few at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::catalogue::Webhook;
use crate::http::{Answer, client, send};
use crate::signature::{Secret, now};

/// A payment provider goes on for days; a demo gives up earlier.
const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The component can't take it, or is not there yet: a host that has just been started knows no path.
fn is_for_now(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::NOT_FOUND)
}

/// The sender.
#[derive(Debug)]
pub(crate) struct Traffic {
    client: reqwest::Client,
    url: String,
    secret: Secret,
    concurrency: usize,
    under_way: AtomicU64,
}

/// What the ingress answers when an event is stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) position: Position,
    pub(crate) duplicate: bool,
}

/// Where an event is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Position {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
}

/// A webhook that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) receipt: Receipt,
    /// How often it was posted.
    pub(crate) posts: u64,
    /// How many posts were answered with a 5xx, 429 or 404.
    pub(crate) put_off: u64,
    /// How many posts got no answer.
    pub(crate) unanswered: u64,
    /// When it was first posted.
    pub(crate) first_post: Instant,
}

impl Traffic {
    /// A sender of Stripe's webhooks to the ingress at `url`.
    pub(crate) fn new(url: String, secret: Secret, concurrency: u32) -> Result<Self> {
        Ok(Self {
            client: client()?,
            url,
            secret,
            concurrency: concurrency as usize,
            under_way: AtomicU64::new(0),
        })
    }

    /// Posts all of them, each until it is accepted. Tells `progress` how many were. In the order given.
    pub(crate) async fn deliver(&self, webhooks: &[Webhook], progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<Accepted>> {
        let done = AtomicU64::new(0);
        stream::iter(webhooks)
            .map(async |webhook| {
                let accepted = self.deliver_one(webhook).await?;
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                anyhow::Ok(accepted)
            })
            .buffered(self.concurrency)
            .try_collect()
            .await
    }

    async fn deliver_one(&self, webhook: &Webhook) -> Result<Accepted> {
        let first_post = Instant::now();
        let (mut posts, mut put_off, mut unanswered) = (0, 0, 0);
        let mut pause = FIRST_PAUSE;
        loop {
            posts += 1;
            let why = match self.post_signed(&webhook.body).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let receipt = answer.json()?;
                    return Ok(Accepted {
                        receipt,
                        posts,
                        put_off,
                        unanswered,
                        first_post,
                    });
                }
                Ok(answer) if is_for_now(answer.status) => {
                    put_off += 1;
                    answer.to_string()
                }
                Ok(answer) => bail!("webhook {} was refused for good: {answer}", webhook.id),
                Err(error) => {
                    unanswered += 1;
                    format!("{error:#}")
                }
            };
            if first_post.elapsed() > GIVE_UP_AFTER {
                bail!("webhook {} was not accepted in {posts} posts: {why}", webhook.id);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// How many posts wait for their answer.
    pub(crate) fn under_way(&self) -> u64 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Posts each body with its signature, once, and returns the answers.
    pub(crate) async fn post_all(&self, posts: Vec<(Bytes, String)>) -> Result<Vec<Answer>> {
        stream::iter(posts)
            .map(|(body, signature)| self.post(body, signature))
            .buffered(self.concurrency)
            .try_collect()
            .await
    }

    /// A signature that the ingress takes.
    pub(crate) fn sign(&self, time: u64, body: &[u8]) -> String {
        self.secret.sign(time, body)
    }

    async fn post_signed(&self, body: &Bytes) -> Result<Answer> {
        self.post(body.clone(), self.sign(now(), body)).await
    }

    async fn post(&self, body: Bytes, signature: String) -> Result<Answer> {
        let request = self
            .client
            .post(&self.url)
            .header("content-type", "application/json; charset=utf-8")
            .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
            .header("stripe-signature", signature)
            .body(body);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let answer = send(request).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        answer
    }
}
