//! Webhooks in the real shape of Stripe's events (API version 2025-08-27, abridged to the fields that are always there).

use serde_json::{Map, Value, json};

use super::random::Random;

const API_VERSION: &str = "2025-08-27.basil";

/// Which event it is, with what the object in it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    SubscriptionCreated,
    SubscriptionUpdated,
    SubscriptionDeleted,
    InvoicePaid,
    ChargeSucceeded,
    PaymentIntentSucceeded,
    CustomerCreated,
}

impl Kind {
    /// How often each comes, in a hundred.
    pub(crate) const WEIGHTS: [(u64, Self); 7] = [
        (12, Self::SubscriptionCreated),
        (15, Self::SubscriptionUpdated),
        (4, Self::SubscriptionDeleted),
        (30, Self::InvoicePaid),
        (22, Self::ChargeSucceeded),
        (9, Self::PaymentIntentSucceeded),
        (8, Self::CustomerCreated),
    ];

    /// Stripe's name of the type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SubscriptionCreated => "customer.subscription.created",
            Self::SubscriptionUpdated => "customer.subscription.updated",
            Self::SubscriptionDeleted => "customer.subscription.deleted",
            Self::InvoicePaid => "invoice.paid",
            Self::ChargeSucceeded => "charge.succeeded",
            Self::PaymentIntentSucceeded => "payment_intent.succeeded",
            Self::CustomerCreated => "customer.created",
        }
    }

    /// True for the events that the subscription `entitlements` wants.
    pub(crate) fn is_subscription(self) -> bool {
        matches!(
            self,
            Self::SubscriptionCreated | Self::SubscriptionUpdated | Self::SubscriptionDeleted
        )
    }
}

/// What an event is about.
#[derive(Debug, Clone)]
pub(crate) struct Facts<'a> {
    pub(crate) kind: Kind,
    pub(crate) id: &'a str,
    pub(crate) tenant: &'a str,
    pub(crate) customer: &'a str,
    pub(crate) currency: &'a str,
    pub(crate) amount: i64,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

/// The event as Stripe posts it: JSON, indented by two.
pub(crate) fn event(facts: &Facts<'_>, random: &mut Random) -> Value {
    let object = match facts.kind {
        Kind::SubscriptionCreated => subscription(facts, "active", random),
        Kind::SubscriptionUpdated => {
            let status = random.weighted(&[(8, "active"), (1, "past_due"), (1, "trialing")]);
            subscription(facts, status.unwrap_or("active"), random)
        }
        Kind::SubscriptionDeleted => subscription(facts, "canceled", random),
        Kind::InvoicePaid => invoice(facts, random),
        Kind::ChargeSucceeded => charge(facts, random),
        Kind::PaymentIntentSucceeded => payment_intent(facts, random),
        Kind::CustomerCreated => customer(facts),
    };
    let mut data = Map::new();
    data.insert("object".to_owned(), object);
    if facts.kind == Kind::SubscriptionUpdated {
        data.insert(
            "previous_attributes".to_owned(),
            json!({ "cancel_at_period_end": false }),
        );
    }
    json!({
        "id": facts.id,
        "object": "event",
        "api_version": API_VERSION,
        "created": facts.created,
        "data": data,
        "livemode": false,
        "pending_webhooks": 1,
        "request": { "id": random.id("req"), "idempotency_key": random.id("idem") },
        "type": facts.kind.name(),
    })
}

fn metadata(facts: &Facts<'_>) -> Value {
    json!({ "tenant": facts.tenant, "cost_center": "platform" })
}

fn price(facts: &Facts<'_>, random: &mut Random) -> Value {
    let (id, nickname) = random
        .weighted(&[
            (5, ("price_1TeamMonthly0000000000000", "Team")),
            (3, ("price_1ScaleMonthly000000000000", "Scale")),
            (1, ("price_1EnterpriseYearly00000000", "Enterprise")),
        ])
        .unwrap_or(("price_1TeamMonthly0000000000000", "Team"));
    json!({
        "id": id,
        "object": "price",
        "active": true,
        "billing_scheme": "per_unit",
        "created": 1_700_000_000,
        "currency": facts.currency,
        "livemode": false,
        "lookup_key": nickname.to_lowercase(),
        "metadata": {},
        "nickname": nickname,
        "product": random.id("prod"),
        "recurring": { "interval": "month", "interval_count": 1, "meter": null, "trial_period_days": null, "usage_type": "licensed" },
        "tax_behavior": "exclusive",
        "tiers_mode": null,
        "transform_quantity": null,
        "type": "recurring",
        "unit_amount": facts.amount,
        "unit_amount_decimal": facts.amount.to_string(),
    })
}

fn subscription(facts: &Facts<'_>, status: &str, random: &mut Random) -> Value {
    let id = format!("sub_{}", facts.customer.trim_start_matches("cus_"));
    let period_end = facts.created + 30 * 86_400;
    let ended = (status == "canceled").then_some(facts.created);
    json!({
        "id": id,
        "object": "subscription",
        "application": null,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
        "billing_cycle_anchor": facts.created,
        "cancel_at": null,
        "cancel_at_period_end": false,
        "canceled_at": ended,
        "collection_method": "charge_automatically",
        "created": facts.created,
        "currency": facts.currency,
        "customer": facts.customer,
        "days_until_due": null,
        "default_payment_method": random.id("pm"),
        "description": null,
        "discounts": [],
        "ended_at": ended,
        "items": {
            "object": "list",
            "data": [{
                "id": random.id("si"),
                "object": "subscription_item",
                "created": facts.created,
                "current_period_start": facts.created,
                "current_period_end": period_end,
                "discounts": [],
                "metadata": {},
                "price": price(facts, random),
                "quantity": 1 + random.below(20),
                "subscription": id,
                "tax_rates": [],
            }],
            "has_more": false,
            "total_count": 1,
            "url": format!("/v1/subscription_items?subscription={id}"),
        },
        "latest_invoice": random.id("in"),
        "livemode": false,
        "metadata": metadata(facts),
        "next_pending_invoice_item_invoice": null,
        "pause_collection": null,
        "payment_settings": { "payment_method_options": null, "payment_method_types": null, "save_default_payment_method": "off" },
        "pending_update": null,
        "schedule": null,
        "start_date": facts.created,
        "status": status,
        "test_clock": null,
        "trial_end": null,
        "trial_start": null,
    })
}

fn invoice(facts: &Facts<'_>, random: &mut Random) -> Value {
    let subscription = format!("sub_{}", facts.customer.trim_start_matches("cus_"));
    let period = json!({ "start": facts.created, "end": facts.created + 30 * 86_400 });
    json!({
        "id": random.id("in"),
        "object": "invoice",
        "account_country": "DE",
        "account_name": "Example GmbH",
        "amount_due": facts.amount,
        "amount_overpaid": 0,
        "amount_paid": facts.amount,
        "amount_remaining": 0,
        "amount_shipping": 0,
        "attempt_count": 1,
        "attempted": true,
        "auto_advance": false,
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": facts.created,
        "currency": facts.currency,
        "customer": facts.customer,
        "customer_email": "billing@customer.example",
        "customer_name": "A Customer",
        "discounts": [],
        "due_date": null,
        "effective_at": facts.created,
        "ending_balance": 0,
        "hosted_invoice_url": "https://invoice.example/i/acct_1/live_1",
        "lines": {
            "object": "list",
            "data": [{
                "id": random.id("il"),
                "object": "line_item",
                "amount": facts.amount,
                "currency": facts.currency,
                "description": "1 × Team (at list price / month)",
                "discountable": true,
                "livemode": false,
                "metadata": {},
                "period": period,
                "quantity": 1,
                "taxes": [],
            }],
            "has_more": false,
            "total_count": 1,
            "url": "/v1/invoices/lines",
        },
        "livemode": false,
        "metadata": metadata(facts),
        "number": format!("{:08X}-{:04}", random.below(1 << 32), random.below(10_000)),
        "paid_out_of_band": false,
        "parent": {
            "type": "subscription_details",
            "subscription_details": { "metadata": metadata(facts), "subscription": subscription },
            "quote_details": null,
        },
        "period_end": facts.created,
        "period_start": facts.created.saturating_sub(30 * 86_400),
        "status": "paid",
        "status_transitions": {
            "finalized_at": facts.created,
            "marked_uncollectible_at": null,
            "paid_at": facts.created,
            "voided_at": null,
        },
        "subtotal": facts.amount,
        "total": facts.amount,
        "total_discount_amounts": [],
        "total_taxes": [],
        "webhooks_delivered_at": null,
    })
}

fn charge(facts: &Facts<'_>, random: &mut Random) -> Value {
    let id = random.id("ch");
    json!({
        "id": id,
        "object": "charge",
        "amount": facts.amount,
        "amount_captured": facts.amount,
        "amount_refunded": 0,
        "balance_transaction": random.id("txn"),
        "billing_details": {
            "address": { "city": null, "country": "DE", "line1": null, "line2": null, "postal_code": "10115", "state": null },
            "email": null,
            "name": "A Customer",
            "phone": null,
        },
        "calculated_statement_descriptor": "EXAMPLE",
        "captured": true,
        "created": facts.created,
        "currency": facts.currency,
        "customer": facts.customer,
        "description": "Subscription update",
        "disputed": false,
        "failure_code": null,
        "failure_message": null,
        "fraud_details": {},
        "livemode": false,
        "metadata": metadata(facts),
        "outcome": {
            "network_status": "approved_by_network",
            "reason": null,
            "risk_level": "normal",
            "risk_score": random.below(50),
            "seller_message": "Payment complete.",
            "type": "authorized",
        },
        "paid": true,
        "payment_intent": random.id("pi"),
        "payment_method": random.id("pm"),
        "payment_method_details": {
            "card": {
                "amount_authorized": facts.amount,
                "brand": "visa",
                "checks": { "address_line1_check": null, "address_postal_code_check": "pass", "cvc_check": "pass" },
                "country": "DE",
                "exp_month": 1 + random.below(12),
                "exp_year": 2029,
                "funding": "credit",
                "last4": "4242",
                "network": "visa",
            },
            "type": "card",
        },
        "receipt_email": null,
        "receipt_url": "https://pay.example/receipts/1",
        "refunded": false,
        "status": "succeeded",
        "transfer_group": null,
    })
}

fn payment_intent(facts: &Facts<'_>, random: &mut Random) -> Value {
    json!({
        "id": random.id("pi"),
        "object": "payment_intent",
        "amount": facts.amount,
        "amount_capturable": 0,
        "amount_received": facts.amount,
        "automatic_payment_methods": null,
        "canceled_at": null,
        "cancellation_reason": null,
        "capture_method": "automatic_async",
        "confirmation_method": "automatic",
        "created": facts.created,
        "currency": facts.currency,
        "customer": facts.customer,
        "description": "Subscription update",
        "last_payment_error": null,
        "latest_charge": random.id("ch"),
        "livemode": false,
        "metadata": metadata(facts),
        "next_action": null,
        "payment_method": random.id("pm"),
        "payment_method_types": ["card"],
        "setup_future_usage": "off_session",
        "status": "succeeded",
    })
}

fn customer(facts: &Facts<'_>) -> Value {
    json!({
        "id": facts.customer,
        "object": "customer",
        "address": null,
        "balance": 0,
        "created": facts.created,
        "currency": null,
        "default_source": null,
        "delinquent": false,
        "description": null,
        "email": "billing@customer.example",
        "invoice_prefix": "A1B2C3D4",
        "invoice_settings": { "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null },
        "livemode": false,
        "metadata": metadata(facts),
        "name": "A Customer",
        "next_invoice_sequence": 1,
        "phone": null,
        "preferred_locales": [],
        "shipping": null,
        "tax_exempt": "none",
        "test_clock": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_envelope_and_its_tenant() {
        for (_, kind) in Kind::WEIGHTS {
            let facts = Facts {
                kind,
                id: "evt_1",
                tenant: "acme",
                customer: "cus_1",
                currency: "eur",
                amount: 4_900,
                created: 1_760_000_000,
            };
            let event = event(&facts, &mut Random::new(1));
            assert_eq!(event["object"], "event", "{kind:?}");
            assert_eq!(event["type"], kind.name(), "{kind:?}");
            assert_eq!(event["created"], 1_760_000_000, "{kind:?}");
            assert_eq!(event["pending_webhooks"], 1, "{kind:?}");
            assert!(event["request"]["idempotency_key"].is_string(), "{kind:?}");
            assert_eq!(
                event.pointer("/data/object/metadata/tenant"),
                Some(&json!("acme")),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn weights_are_percentages() {
        assert_eq!(Kind::WEIGHTS.iter().map(|(weight, _)| weight).sum::<u64>(), 100);
    }
}
