//! What was posted and answered, for each tenant: the numbers that the consumers' own are held against.

use std::collections::{BTreeMap, HashMap};

use super::catalogue::{TENANTS, Webhook};
use super::rule;
use super::traffic::Accepted;

/// A tenant's numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    /// Different webhooks.
    pub(crate) webhooks: u64,
    /// Posts with a good signature: first ones, repeats and retries.
    pub(crate) posts: u64,
    /// Webhooks with a receipt.
    pub(crate) accepted: u64,
    /// Receipts that said "a duplicate".
    pub(crate) duplicates: u64,
    /// Events for the subscription `entitlements`.
    pub(crate) entitlements: u64,
    /// Those of them that were first posted in the window around the kill.
    pub(crate) entitlements_in_window: u64,
    /// Events for the subscription `invoicing` that it can handle.
    pub(crate) invoices: u64,
    /// What those say was paid, by currency.
    pub(crate) paid: BTreeMap<&'static str, i64>,
    /// Events for which the rule on an amount is.
    pub(crate) large: u64,
    /// Events that no handling helps.
    pub(crate) poison: u64,
}

/// The newest subscription event of a customer.
#[derive(Debug, Clone)]
pub(crate) struct Newest {
    pub(crate) event: String,
    /// True when it may have been missed.
    pub(crate) in_window: bool,
}

/// All tenants' numbers.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: [Account; TENANTS.len()],
    customers: HashMap<(usize, String), Newest>,
}

impl Ledger {
    /// Notes a webhook that was accepted. They are noted in the order they were made, so that the last one noted of a
    /// customer is the newest.
    pub(crate) fn note(&mut self, webhook: &Webhook, accepted: &Accepted, in_window: bool) {
        let account = &mut self.accounts[webhook.tenant];
        account.webhooks += 1;
        account.accepted += 1;
        account.posts += accepted.posts;
        account.duplicates += u64::from(accepted.receipt.duplicate);
        account.large += u64::from(rule::is_for(webhook));
        if webhook.kind.is_subscription() {
            account.entitlements += 1;
            account.entitlements_in_window += u64::from(in_window);
            let newest = Newest {
                event: webhook.id.clone(),
                in_window,
            };
            self.customers
                .insert((webhook.tenant, webhook.customer.clone()), newest);
        }
        if let Some(paid) = &webhook.invoice {
            account.invoices += 1;
            *account.paid.entry(paid.currency).or_default() += paid.amount;
        }
    }

    /// Notes a webhook that was posted again after it had been accepted.
    pub(crate) fn note_repeat(&mut self, webhook: &Webhook, accepted: &Accepted) {
        let account = &mut self.accounts[webhook.tenant];
        account.posts += accepted.posts;
        account.duplicates += u64::from(accepted.receipt.duplicate);
    }

    /// Notes that a webhook which was accepted is poison to invoicing.
    pub(crate) fn note_poison(&mut self, webhook: &Webhook) {
        self.accounts[webhook.tenant].poison += 1;
    }

    /// Each tenant's name and numbers.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = (&'static str, &Account)> {
        TENANTS
            .iter()
            .zip(&self.accounts)
            .map(|((_, name), account)| (*name, account))
    }

    /// The sum of a number over all tenants.
    pub(crate) fn total(&self, number: impl Fn(&Account) -> u64) -> u64 {
        self.accounts.iter().map(number).sum()
    }

    /// Each customer's tenant, id and newest subscription event.
    pub(crate) fn customers(&self) -> impl Iterator<Item = (&'static str, &str, &Newest)> {
        self.customers
            .iter()
            .map(|((tenant, customer), newest)| (TENANTS[*tenant].1, customer.as_str(), newest))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::catalogue::Catalogue;
    use super::super::traffic::{Position, Receipt};
    use super::*;

    fn accepted(duplicate: bool) -> Accepted {
        let position = Position {
            partition: 0,
            offset: 1,
        };
        Accepted {
            receipt: Receipt { position, duplicate },
            posts: 2,
            put_off: 1,
            unanswered: 0,
            first_post: Instant::now(),
        }
    }

    #[test]
    fn totals_are_what_was_noted() {
        let webhooks = Catalogue::new(7, 1_760_000_000, 200).take(200);
        let mut ledger = Ledger::default();
        for webhook in &webhooks {
            ledger.note(webhook, &accepted(false), true);
        }
        ledger.note_repeat(&webhooks[0], &accepted(true));
        assert_eq!(ledger.total(|account| account.accepted), 200);
        assert_eq!(ledger.total(|account| account.posts), 402);
        assert_eq!(ledger.total(|account| account.duplicates), 1);
        let subscriptions = webhooks.iter().filter(|webhook| webhook.kind.is_subscription()).count() as u64;
        assert_eq!(ledger.total(|account| account.entitlements), subscriptions);
        assert_eq!(ledger.total(|account| account.entitlements_in_window), subscriptions);
        let paid: i64 = webhooks
            .iter()
            .filter_map(|webhook| webhook.invoice.as_ref())
            .map(|paid| paid.amount)
            .sum();
        let noted: i64 = ledger.accounts().flat_map(|(_, account)| account.paid.values()).sum();
        assert_eq!(noted, paid);
        assert!(ledger.customers().count() > 20);
    }
}
