//! Where each scheme's vendor puts the parts of an event, for what a source's settings leave open.

use webhook_signature::Scheme;

/// The places of a scheme, as settings would name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Where the event's type is.
    pub event_type: &'static str,
    /// Where the event's id is.
    pub event_id: &'static str,
    /// When it happened, if the vendor says.
    pub event_time: Option<&'static str>,
    /// Where the items are, if a webhook holds many.
    pub items: Option<&'static str>,
}

const fn plain(event_type: &'static str, event_id: &'static str, event_time: Option<&'static str>) -> Defaults {
    Defaults {
        event_type,
        event_id,
        event_time,
        items: None,
    }
}

/// The defaults of a scheme.
///
/// The id is taken from what is signed wherever the vendor puts one there: an id that no signature covers lets a captured
/// webhook come again under another. GitHub and Shopify have theirs in a header alone.
pub fn of(scheme: Scheme) -> Defaults {
    match scheme {
        Scheme::Stripe => plain("pointer:/type", "pointer:/id", Some("pointer:/created")),
        Scheme::Github => plain("header:x-github-event", "header:x-github-delivery", None),
        // One event can be the reason of webhooks of several topics, and each of them is an event here.
        Scheme::Shopify => plain(
            "header:x-shopify-topic",
            "header:x-shopify-topic header:x-shopify-event-id",
            Some("header:x-shopify-triggered-at"),
        ),
        Scheme::Square => plain("pointer:/type", "pointer:/event_id", Some("pointer:/created_at")),
        Scheme::Paddle => plain("pointer:/event_type", "pointer:/event_id", Some("pointer:/occurred_at")),
        // Two notifications with the same event code and reference are the same, says Adyen; the outcome is added, as it
        // may be corrected. All of it is signed, which the notification's time is not.
        Scheme::Adyen => plain(
            "pointer:/eventCode",
            "pointer:/pspReference pointer:/eventCode pointer:/success",
            None,
        ),
        // No id for each webhook: repeats have the same body.
        Scheme::AdyenBalance => plain("pointer:/type", "digest", Some("pointer:/timestamp")),
        Scheme::Paypal => plain("pointer:/event_type", "pointer:/id", Some("pointer:/create_time")),
        Scheme::Braintree => plain(
            "pointer:/notification/kind",
            "digest",
            Some("pointer:/notification/timestamp"),
        ),
        Scheme::Mollie => plain("pointer:/type", "pointer:/id", Some("pointer:/createdAt")),
        Scheme::Gocardless => Defaults {
            event_type: "pointer:/resource_type pointer:/action",
            event_id: "pointer:/id",
            event_time: Some("pointer:/created_at"),
            items: Some("/events/*"),
        },
        // The vendor's id is in the header x-razorpay-event-id, which is not signed; repeats have the same body.
        Scheme::Razorpay => plain("pointer:/event", "digest", Some("pointer:/created_at")),
        Scheme::Basic => plain("pointer:/event_type", "pointer:/id", Some("pointer:/occurred_at")),
        // Standard Webhooks, and the form of any scheme that is added: its id is signed, its body is JSON.
        _ => plain("pointer:/type", "header:webhook-id", Some("pointer:/timestamp")),
    }
}

/// The fields of Adyen's items that its signature covers, by their pointers; nothing else of an item is proven.
pub(crate) const SIGNED_FIELDS: [&str; 8] = [
    "/pspReference",
    "/originalReference",
    "/merchantAccountCode",
    "/merchantReference",
    "/amount/value",
    "/amount/currency",
    "/eventCode",
    "/success",
];
