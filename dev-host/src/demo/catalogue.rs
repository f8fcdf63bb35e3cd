//! The webhooks of a run: who is told what, and what each consumer should make of it.

use bytes::Bytes;
use serde_json::{Value, json};

use super::random::Random;
use super::stripe::{self, Facts, Kind};

/// The tenants, and how loud each is, in a hundred.
pub(crate) const TENANTS: [(u64, &str); 4] = [(45, "acme"), (30, "globex"), (15, "initech"), (10, "umbrella")];

/// How many customers each tenant has. Their subscriptions change in turn: a payment provider does not change one
/// twice within milliseconds, and entitlements, which reads before it writes, does not promise to survive that.
const CUSTOMERS: u64 = 60;

/// A webhook that is to be posted.
#[derive(Debug, Clone)]
pub(crate) struct Webhook {
    /// An index into [`TENANTS`].
    pub(crate) tenant: usize,
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) customer: String,
    pub(crate) invoice: Option<Paid>,
    pub(crate) body: Bytes,
}

/// What an invoice says was paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paid {
    pub(crate) currency: &'static str,
    pub(crate) amount: i64,
}

impl Webhook {
    /// The tenant's name.
    pub(crate) fn tenant_name(&self) -> &'static str {
        TENANTS[self.tenant].1
    }
}

/// Makes webhooks, one second apart, the last of `count` now.
#[derive(Debug)]
pub(crate) struct Catalogue {
    random: Random,
    clock: u64,
    /// Of each tenant, whose subscription changes next.
    turns: [u64; TENANTS.len()],
}

impl Catalogue {
    /// Starts from a seed. `now` is in seconds since 1970.
    pub(crate) fn new(seed: u64, now: u64, count: u64) -> Self {
        Self {
            random: Random::new(seed),
            clock: now.saturating_sub(count),
            turns: [0; TENANTS.len()],
        }
    }

    /// The next `count` webhooks.
    pub(crate) fn take(&mut self, count: u64) -> Vec<Webhook> {
        (0..count).map(|_| self.webhook(None)).collect()
    }

    /// An invoice that says nothing of what was paid: no number of attempts helps.
    pub(crate) fn invoice_without_amount(&mut self) -> Webhook {
        self.poison(0, |invoice| {
            invoice.as_object_mut().map(|fields| fields.remove("amount_paid"));
        })
    }

    /// An invoice in a currency that has no exchange rate, today.
    pub(crate) fn invoice_without_rate(&mut self) -> Webhook {
        self.poison(1, |invoice| invoice["currency"] = json!("xts"))
    }

    fn poison(&mut self, tenant: usize, spoil: impl FnOnce(&mut Value)) -> Webhook {
        let mut webhook = self.webhook(Some((tenant, Kind::InvoicePaid)));
        webhook.invoice = None;
        if let Ok(mut event) = serde_json::from_slice::<Value>(&webhook.body) {
            spoil(&mut event["data"]["object"]);
            webhook.body = text(&event);
        }
        webhook
    }

    fn webhook(&mut self, fixed: Option<(usize, Kind)>) -> Webhook {
        let tenants = [
            (TENANTS[0].0, 0),
            (TENANTS[1].0, 1),
            (TENANTS[2].0, 2),
            (TENANTS[3].0, 3),
        ];
        let tenant = self.random.weighted(&tenants).unwrap_or(0);
        let kind = self.random.weighted(&Kind::WEIGHTS).unwrap_or(Kind::InvoicePaid);
        let (tenant, kind) = fixed.unwrap_or((tenant, kind));
        let id = self.random.id("evt");
        let customer = self.customer(tenant, kind);
        let currency = if self.random.percent(70) { "eur" } else { "usd" };
        let amount = 100 * (9 + i64::try_from(self.random.below(490)).unwrap_or(0));
        self.clock += 1;
        let facts = Facts {
            kind,
            id: &id,
            tenant: TENANTS[tenant].1,
            customer: &customer,
            currency,
            amount,
            created: self.clock,
        };
        let body = text(&stripe::event(&facts, &mut self.random));
        Webhook {
            tenant,
            invoice: (kind == Kind::InvoicePaid).then_some(Paid { currency, amount }),
            id,
            kind,
            customer,
            body,
        }
    }

    fn customer(&mut self, tenant: usize, kind: Kind) -> String {
        let number = if kind.is_subscription() {
            self.turns[tenant] += 1;
            self.turns[tenant] % CUSTOMERS
        } else {
            self.random.below(CUSTOMERS)
        };
        format!("cus_{}{number:04}", TENANTS[tenant].1)
    }
}

fn text(event: &Value) -> Bytes {
    format!("{event:#}").into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_webhooks() {
        let bodies = |seed| {
            Catalogue::new(seed, 1_760_000_000, 50)
                .take(50)
                .into_iter()
                .map(|webhook| webhook.body)
                .collect::<Vec<_>>()
        };
        assert_eq!(bodies(7), bodies(7));
        assert_ne!(bodies(7), bodies(8));
    }

    #[test]
    fn ids_differ_and_all_tenants_and_kinds_come() {
        let webhooks = Catalogue::new(7, 1_760_000_000, 1_000).take(1_000);
        let ids: HashSet<_> = webhooks.iter().map(|webhook| &webhook.id).collect();
        assert_eq!(ids.len(), 1_000);
        let tenants: HashSet<_> = webhooks.iter().map(Webhook::tenant_name).collect();
        assert_eq!(tenants.len(), TENANTS.len());
        let kinds: HashSet<_> = webhooks.iter().map(|webhook| webhook.kind.name()).collect();
        assert_eq!(kinds.len(), Kind::WEIGHTS.len());
        assert!(
            webhooks
                .iter()
                .all(|webhook| webhook.invoice.is_some() == (webhook.kind == Kind::InvoicePaid))
        );
    }

    #[test]
    fn poison_is_an_invoice_with_the_one_fault() {
        let mut catalogue = Catalogue::new(7, 1_760_000_000, 2);
        let parse = |webhook: &Webhook| serde_json::from_slice::<Value>(&webhook.body).expect("JSON");
        let without_amount = parse(&catalogue.invoice_without_amount());
        assert_eq!(without_amount["type"], "invoice.paid");
        assert!(without_amount.pointer("/data/object/amount_paid").is_none());
        assert!(without_amount.pointer("/data/object/amount_due").is_some());
        let without_rate = parse(&catalogue.invoice_without_rate());
        assert_eq!(without_rate.pointer("/data/object/currency"), Some(&json!("xts")));
        assert!(without_rate.pointer("/data/object/amount_paid").is_some());
    }
}
