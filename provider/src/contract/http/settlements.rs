//! `inbox.settle` over HTTP.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanout_wit::INBOX;
use fanout_wit::types::{self as wit, Rejection, RetryDelay, SettleError, SettlementOutcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer;
use super::call::{Call, JsonBody};
use super::problem::Refused;

/// What became of deliveries.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settlements {
    /// At most 1,000, of any of the caller's subscriptions.
    #[schemars(length(max = 1000))]
    #[serde(deserialize_with = "super::lists::items")]
    settlements: Vec<Settlement>,
}

/// What became of one delivery.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settlement {
    /// The token that the delivery came with, or the last that `extended` gave.
    token: String,
    /// What became of it.
    verdict: Verdict,
    /// Why, for the operator; of `retry`, `retry-now`, `retry-after` and `dead-letter`. 1,024 bytes are kept.
    #[serde(default)]
    reason: Option<String>,
    /// Of `retry-after`: milliseconds from now, at most 86,400,000 (one day); a longer delay is shortened to that.
    #[serde(default)]
    delay_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// It is handled, and settled for good.
    Handled,
    /// It was refused: again by the bus's schedule. Counts as an attempt, as the next three do.
    Retry,
    /// Again without waiting.
    RetryNow,
    /// Again after `delay_ms`.
    RetryAfter,
    /// Never again: it becomes a dead letter.
    DeadLetter,
    /// It takes longer: the lease begins anew, under another token.
    StillWorking,
    /// It was not tried: it is delivered again, and that counts as no attempt.
    Released,
}

/// What came of a settlement.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Settled {
    /// Whether it is settled, or its lease began anew.
    outcome: Outcome,
    /// Of `extended`: what settles it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Settled,
    Extended,
}

impl Settlement {
    /// In the contract's types. A token that is none stays one that is nobody's: the bus says so, for each by itself.
    fn of_contract(self, i: usize) -> Result<wit::Settlement, Refused> {
        let refuse = |what: &str| Refused::invalid_request(format!("settlement {i}: {what}"));
        let takes_reason = matches!(
            self.verdict,
            Verdict::Retry | Verdict::RetryNow | Verdict::RetryAfter | Verdict::DeadLetter
        );
        if self.reason.is_some() && !takes_reason {
            return Err(refuse("this verdict takes no `reason`"));
        }
        if self.delay_ms.is_some() != (self.verdict == Verdict::RetryAfter) {
            return Err(refuse("`retry-after` takes a `delay_ms`, and no other verdict does"));
        }
        let reason = self.reason.unwrap_or_default();
        let rejected = wit::Verdict::Rejected;
        Ok(wit::Settlement {
            token: URL_SAFE_NO_PAD.decode(&self.token).unwrap_or_default().into(),
            verdict: match self.verdict {
                Verdict::Handled => wit::Verdict::Handled,
                Verdict::Retry => rejected(Rejection::Retry(reason)),
                Verdict::RetryNow => rejected(Rejection::RetryNow(reason)),
                Verdict::RetryAfter => rejected(Rejection::RetryAfter(RetryDelay {
                    delay_ms: self.delay_ms.unwrap_or_default(),
                    reason,
                })),
                Verdict::DeadLetter => rejected(Rejection::DeadLetter(reason)),
                Verdict::StillWorking => wit::Verdict::StillWorking,
                Verdict::Released => wit::Verdict::Released,
            },
        })
    }
}

/// `POST /v1/settlements`
pub(super) async fn settle(call: Call, JsonBody(body): JsonBody<Settlements>) -> Result<Response, Refused> {
    call.parameters(&[])?;
    let settlements = body.settlements.into_iter().enumerate();
    let settlements: Vec<_> = settlements
        .map(|(i, settlement)| settlement.of_contract(i))
        .collect::<Result<_, _>>()?;
    let count = settlements.len();
    let answers: Vec<Result<SettlementOutcome, SettleError>> = call.invoke(INBOX, "settle", (settlements,)).await?;
    let results = answer::of_each(count, answers)?.into_iter().map(|answer| {
        Ok(match answer? {
            SettlementOutcome::Settled => Settled {
                outcome: Outcome::Settled,
                token: None,
            },
            SettlementOutcome::Extended(token) => Settled {
                outcome: Outcome::Extended,
                token: Some(URL_SAFE_NO_PAD.encode(&token)),
            },
        })
    });
    Ok(answer::many("settlements", "taken", results.collect()))
}
