//! Act 6: a rule of the operator's, not of a component's code: of all events, those alone that say that a large amount was paid.

use anyhow::Result;
use serde_json::{Value, json};

use super::catalogue::Webhook;
use super::observe::{ASK_EVERY, CATCH_UP_LIMIT};
use super::stripe::Kind;
use super::{RULE, Story};
use crate::wait::{Check, until};

/// From which amount on, in the currency's smallest unit.
const AMOUNT: i64 = 25_000;

/// The rule, as an event pattern. The payload is Stripe's event, whose own `data` holds the invoice.
fn pattern() -> Value {
    json!({
        "type": [Kind::InvoicePaid.name()],
        "data": { "data": { "object": { "amount_paid": [{ "numeric": [">=", AMOUNT] }] } } },
    })
}

/// Whether a webhook is one for which the rule is, by what was posted.
pub(super) fn is_for(webhook: &Webhook) -> bool {
    let body: Value = serde_json::from_slice(&webhook.body).unwrap_or_default();
    let amount = body.pointer("/data/object/amount_paid").and_then(Value::as_i64);
    webhook.kind == Kind::InvoicePaid && amount.is_some_and(|amount| amount >= AMOUNT)
}

impl Story<'_> {
    /// Subscribes analytics by the rule, and waits until it caught up.
    pub(super) async fn rule_on_an_amount(&mut self) -> Result<()> {
        self.act("A rule on an amount");
        let stored = self.observer.stored_in_all().await?;
        let invoices = self.ledger.total(|account| account.invoices);
        let large = self.ledger.total(|account| account.large);
        self.observer.begin_rule(RULE, &pattern()).await?;
        self.console.timed(format!(
            "analytics asked for invoices of {AMOUNT} or more: {large} of {stored} events"
        ));
        let report = until("the rule to catch up", CATCH_UP_LIMIT, ASK_EVERY, async || {
            let report = self.observer.report(RULE).await?;
            Ok(match report.caught_up {
                Some(_) => Check::Found(report),
                None => Check::NotYet(format!("{} of {large} counted", report.total())),
            })
        })
        .await?;
        let read = report.caught_up.as_ref().map_or(0, |caught_up| caught_up.replayed);
        self.console.timed(format!(
            "it was given {}, for which the bus read {read}: the server passed over what is no invoice",
            report.total()
        ));
        self.checks.equal(
            "events that the rule is for, as analytics counted them",
            large,
            report.total(),
        );
        self.checks
            .equal("events that the bus read for the rule", invoices, read);
        self.rule_by_tenant(|tenant| report.of(tenant));
        Ok(())
    }

    /// What came after the rule was made: again those that it is for, and no others.
    pub(super) async fn rule_held_live(&mut self) -> Result<()> {
        let large = self.ledger.total(|account| account.large);
        let report = until(
            "the rule to be done with what came live",
            CATCH_UP_LIMIT,
            ASK_EVERY,
            async || {
                let status = self.observer.subscription(RULE).await?;
                let report = self.observer.report(RULE).await?;
                // What it leaves out waits with the rest until it was read.
                let is_done =
                    (status.pending, status.in_flight, status.waiting_for_retry) == (Some(0), Some(0), Some(0));
                Ok(if is_done && report.total() >= large {
                    Check::Found(report)
                } else {
                    Check::NotYet(format!("{} of {large} counted", report.total()))
                })
            },
        )
        .await?;
        self.console.timed(format!(
            "by the rule on an amount analytics was given {} of them live",
            report.live
        ));
        self.checks.equal(
            "events that the rule is for, live ones with them",
            large,
            report.total(),
        );
        self.rule_by_tenant(|tenant| report.of(tenant));
        Ok(())
    }

    fn rule_by_tenant(&mut self, counted: impl Fn(&str) -> u64) {
        for (tenant, account) in self.ledger.accounts() {
            self.checks.equal(
                format!("events of {tenant} that the rule is for"),
                account.large,
                counted(tenant),
            );
        }
    }
}
