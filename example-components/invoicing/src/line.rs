//! An invoice line.

use component_support::{
    delivery::{Delivery, Rejection},
    key,
    stripe::StripeEvent,
};
use serde::{Deserialize, Serialize};

/// What one invoice event adds to the books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The invoice's id.
    pub invoice: String,
    /// The currency, in lower case.
    pub currency: String,
    /// The amount paid, in the currency's smallest unit.
    pub amount: i64,
    /// The customer, if the invoice names one.
    pub customer: Option<String>,
    /// The day on which it happened, in UTC.
    pub day: String,
}

/// XTS is the currency that ISO 4217 keeps for tests: it has no rate, today or ever.
const WITHOUT_RATE: &str = "xts";

impl Line {
    /// Reads an invoice event.
    ///
    /// A body that is no invoice will never be one: it is dead-lettered with what is missing. A currency without a rate may
    /// have one later: it is tried again.
    pub fn of(delivery: &Delivery<'_>) -> Result<Self, Rejection> {
        let no_invoice = |what: String| Rejection::DeadLetter(format!("no invoice: {what}"));
        let event = StripeEvent::parse(delivery.data).map_err(|error| no_invoice(error.to_string()))?;
        let (invoice, currency, amount) = match (
            event.text("/id"),
            event.text("/currency"),
            event.integer("/amount_paid"),
        ) {
            (Some(invoice), Some(currency), Some(amount)) => (invoice, currency, amount),
            (invoice, currency, amount) => {
                let found = [
                    ("id", invoice.is_some()),
                    ("currency", currency.is_some()),
                    ("amount_paid", amount.is_some()),
                ];
                let missing: Vec<_> = found
                    .iter()
                    .filter(|(_, found)| !found)
                    .map(|(name, _)| format!("data.object.{name}"))
                    .collect();
                return Err(no_invoice(format!("missing {}", missing.join(", "))));
            }
        };
        let currency = currency.to_ascii_lowercase();
        if currency == WITHOUT_RATE {
            return Err(Rejection::Retry("no exchange rate for XTS".to_owned()));
        }
        Ok(Self {
            invoice: invoice.to_owned(),
            currency,
            amount,
            customer: event.text("/customer").map(str::to_owned),
            day: delivery.day(),
        })
    }
}

/// Where the line of an event is kept. An event has one line, however often it is delivered; two events of two sources have
/// two, also where they have one id.
pub fn key(delivery: &Delivery<'_>) -> String {
    key::join(&[LINES, delivery.tenant, delivery.source, delivery.id])
}

/// The first segment of every line's key.
pub(crate) const LINES: &str = "lines";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(data: &[u8]) -> Result<Line, Rejection> {
        Line::of(&Delivery {
            subscription: "invoicing",
            tenant: "acme",
            event_type: "invoice.paid",
            id: "evt_1",
            source: "/webhooks/stripe",
            time: Some(1_767_225_600_000_000_000),
            published_at: 0,
            replayed: false,
            data,
        })
    }

    fn invoice() -> Value {
        json!({"data": {"object": {"id": "in_1", "currency": "EUR", "amount_paid": 1250, "customer": "cus_1"}}})
    }

    #[test]
    fn an_invoice_is_a_line() {
        let line = read(invoice().to_string().as_bytes()).unwrap();
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"invoice":"in_1","currency":"eur","amount":1250,"customer":"cus_1","day":"2026-01-01"}"#
        );
    }

    #[test]
    fn a_currency_without_a_rate_is_tried_again() {
        for currency in ["xts", "XTS"] {
            let mut data = invoice();
            data["data"]["object"]["currency"] = currency.into();
            let refused = read(data.to_string().as_bytes());
            assert_eq!(refused, Err(Rejection::Retry("no exchange rate for XTS".to_owned())));
        }
    }

    #[test]
    fn what_is_no_invoice_is_dead_lettered_with_all_that_is_missing() {
        let check = |data: &str, reason: &str| {
            assert_eq!(
                read(data.as_bytes()),
                Err(Rejection::DeadLetter(format!("no invoice: {reason}"))),
                "{data}"
            );
        };
        check(
            r#"{"data": {"object": {"id": "in_1", "currency": "eur", "amount_paid": "12"}}}"#,
            "missing data.object.amount_paid",
        );
        check(
            r#"{"data": {"object": {"currency": ""}}}"#,
            "missing data.object.id, data.object.currency, data.object.amount_paid",
        );
        check(r#"{"data": {}}"#, "the data has no object at data.object");
        check("not json", "the data is no JSON: expected ident at line 1 column 2");
    }

    proptest! {
        #[test]
        fn no_data_makes_it_panic(data in any::<Vec<u8>>()) {
            prop_assert!(matches!(read(&data), Err(Rejection::DeadLetter(_))));
        }
    }
}
