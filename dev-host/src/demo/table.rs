//! The end of the story: every consumer's numbers beside what they must be, and each process's memory.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use super::catalogue::TENANTS;
use super::checks::Checks;
use super::ledger::{Account, Ledger};
use super::observe::{Audit, Handled, Invoices, Lines, Observer, Report};
use super::{BACKFILL, Story, memory};
use crate::cli::Demo;
use crate::console::Console;

/// What it means when no number is off.
pub(super) const PROVED: &str = "every accepted webhook is stored once; invoicing and analytics were given every one, \
    through an outage and a kill; what could not be handled is kept with its reasons; nothing was handled twice.";

const AT_ONCE: usize = 8;

/// What everyone has at the end.
pub(super) struct Outcome {
    stored: Vec<u64>,
    audit: Audit,
    invoices: Invoices,
    report: Report,
    dead: Vec<u64>,
    memory: Vec<(&'static str, u64)>,
}

/// Measures, and notes what must hold.
pub(super) async fn measure(story: &mut Story<'_>) -> Result<Outcome> {
    let observer = &story.observer;
    let stored = stream::iter(TENANTS)
        .then(|(_, tenant)| observer.stored(tenant))
        .try_collect()
        .await?;
    let letters = observer.dead_letters().await?;
    let dead_of = |tenant| letters.iter().filter(|letter| letter.tenant == tenant).count() as u64;
    let outcome = Outcome {
        stored,
        audit: observer.audit().await?,
        invoices: observer.invoices().await?,
        report: observer.report(BACKFILL).await?,
        dead: TENANTS.iter().map(|(_, tenant)| dead_of(*tenant)).collect(),
        memory: memory::of(story),
    };
    let checks = &mut story.checks;
    for (place, (tenant, account)) in story.ledger.accounts().enumerate() {
        outcome.check(checks, place, tenant, account);
    }
    memory::check(checks, &outcome.memory, story.stack);
    let wrong = wrong_entitlements(&story.ledger, observer).await?;
    checks.equal("customers whose entitlement is not from their newest event", 0, wrong);
    Ok(outcome)
}

/// How many customers have an entitlement that is not their newest event's, those aside whose newest may be missed.
async fn wrong_entitlements(ledger: &Ledger, observer: &Observer) -> Result<u64> {
    let settled = ledger.customers().filter(|(_, _, newest)| !newest.in_window);
    stream::iter(settled)
        .map(async |(tenant, customer, newest)| {
            let found = observer.entitlement(tenant, customer).await?;
            anyhow::Ok(u64::from(found != newest.event))
        })
        .buffer_unordered(AT_ONCE)
        .try_fold(0, async |sum, wrong| Ok(sum + wrong))
        .await
}

impl Outcome {
    fn check(&self, checks: &mut Checks, place: usize, tenant: &str, account: &Account) {
        let Handled { events, handled_twice } = self.audit.of(tenant);
        let Lines { lines, amounts } = self.invoices.of(tenant);
        checks.equal(
            format!("{tenant}: webhooks accepted"),
            account.webhooks,
            account.accepted,
        );
        checks.equal(format!("{tenant}: events stored"), account.accepted, self.stored[place]);
        checks.equal(format!("{tenant}: invoice lines"), account.invoices, lines);
        for (currency, paid) in &account.paid {
            let got = amounts.get(*currency).copied().unwrap_or(0);
            checks.equal(format!("{tenant}: {currency} invoiced"), *paid, got);
        }
        checks.at_most(
            format!("{tenant}: entitlement events handled"),
            account.entitlements,
            events,
        );
        let missed = account.entitlements.saturating_sub(events);
        checks.at_most(
            format!("{tenant}: entitlement events missed"),
            account.entitlements_in_window,
            missed,
        );
        checks.equal(format!("{tenant}: entitlement events handled twice"), 0, handled_twice);
        checks.equal(
            format!("{tenant}: events in analytics"),
            account.accepted,
            self.report.of(tenant),
        );
        checks.equal(format!("{tenant}: dead letters"), account.poison, self.dead[place]);
    }

    /// Prints the table.
    pub(super) fn print(&self, console: &Console, ledger: &Ledger) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            "tenant",
            "posts",
            "accepted",
            "dupli-\ncates",
            "on the\nbus",
            "invoicing\ngot / exp.",
            "entitlements\ngot / exp.",
            "missed,\nat most",
            "twice",
            "analytics\ngot / exp.",
            "dead\nletters",
        ]);
        for (place, (tenant, account)) in ledger.accounts().enumerate() {
            table.add_row(self.row(place, tenant, account));
        }
        table.add_row(self.total(ledger));
        for (place, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if place > 0 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        console.line(format!("\n{}\n", table.trim_fmt()));
        let memory = self
            .memory
            .iter()
            .map(|(name, megabytes)| format!("{name} {megabytes} MB"));
        console.line(format!("Memory: {}", memory.collect::<Vec<_>>().join(", ")));
    }

    fn row(&self, place: usize, tenant: &str, account: &Account) -> [String; 11] {
        let Handled { events, handled_twice } = self.audit.of(tenant);
        let missed = account.entitlements.saturating_sub(events);
        [
            tenant.to_owned(),
            account.posts.to_string(),
            account.accepted.to_string(),
            account.duplicates.to_string(),
            self.stored[place].to_string(),
            of(self.invoices.of(tenant).lines, account.invoices),
            of(events, account.entitlements),
            of(missed, account.entitlements_in_window),
            handled_twice.to_string(),
            of(self.report.of(tenant), account.accepted),
            self.dead[place].to_string(),
        ]
    }

    fn total(&self, ledger: &Ledger) -> [String; 11] {
        let sum = |number: fn(&Account) -> u64| ledger.total(number);
        let entitlements = sum(|account| account.entitlements);
        let twice: u64 = TENANTS
            .iter()
            .map(|(_, tenant)| self.audit.of(tenant).handled_twice)
            .sum();
        [
            "all".to_owned(),
            sum(|account| account.posts).to_string(),
            sum(|account| account.accepted).to_string(),
            sum(|account| account.duplicates).to_string(),
            self.stored.iter().sum::<u64>().to_string(),
            of(self.invoices.total(), sum(|account| account.invoices)),
            of(self.audit.total(), entitlements),
            of(
                entitlements.saturating_sub(self.audit.total()),
                sum(|account| account.entitlements_in_window),
            ),
            twice.to_string(),
            of(self.report.total(), sum(|account| account.accepted)),
            self.dead.iter().sum::<u64>().to_string(),
        ]
    }

    /// The same numbers for a program.
    pub(super) fn report(&self, ledger: &Ledger, checks: &Checks, demo: &Demo, ready: Duration) -> Value {
        let tenants = ledger.accounts().enumerate().map(|(place, (tenant, account))| {
            let Handled { events, handled_twice } = self.audit.of(tenant);
            let Lines { lines, amounts } = self.invoices.of(tenant);
            json!({
                "tenant": tenant,
                "webhooks": account.webhooks,
                "posts": account.posts,
                "accepted": account.accepted,
                "duplicates": account.duplicates,
                "stored": self.stored[place],
                "invoicing": { "expected": account.invoices, "got": lines, "paid": account.paid, "amounts": amounts },
                "entitlements": {
                    "expected": account.entitlements,
                    "got": events,
                    "missed": account.entitlements.saturating_sub(events),
                    "posted_around_the_kill": account.entitlements_in_window,
                    "handled_twice": handled_twice,
                },
                "analytics": { "expected": account.accepted, "got": self.report.of(tenant) },
                "dead_letters": { "expected": account.poison, "got": self.dead[place] },
            })
        });
        let memory: serde_json::Map<_, _> = self
            .memory
            .iter()
            .map(|(name, megabytes)| ((*name).to_owned(), json!(megabytes)))
            .collect();
        json!({
            "events": demo.events,
            "transport": demo.transport.name(),
            "seed": demo.seed,
            "ready_seconds": ready.as_secs_f64(),
            "tenants": tenants.collect::<Vec<_>>(),
            "analytics": {
                "replayed": self.report.replayed,
                "live": self.report.live,
                "caught_up_at": self.report.caught_up.as_ref().map(|caught_up| &caught_up.at),
            },
            "memory_mb": memory,
            "checks": checks,
            "off": checks.off(),
        })
    }
}

fn of(got: u64, expected: u64) -> String {
    format!("{got} / {expected}")
}
