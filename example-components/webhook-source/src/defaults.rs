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
/// The id is taken from what is signed, always: an id that no signature covers lets a captured webhook come again under
/// another. Where the vendor's id stands in an unsigned header alone (GitHub, Shopify, Razorpay), it is the digest of the
/// body, which is the same in a repeat. Where an id is signed beside the body, it is that one.
pub fn of(scheme: Scheme) -> Defaults {
    match scheme {
        Scheme::Stripe => plain("pointer:/type", "pointer:/id", Some("pointer:/created")),
        Scheme::Github => plain("header:x-github-event", "digest", None),
        // One change can be the reason of webhooks of several topics with the same body, and each of them is an event.
        // Bodies of the newer form name their topic themselves.
        Scheme::Shopify => plain(
            "pointer:/topic pointer:/action || header:x-shopify-topic || header:shopify-topic",
            "pointer:/topic pointer:/action digest || header:x-shopify-topic digest || header:shopify-topic digest",
            None,
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
        // The body's own id is proven no further than a CRC-32 goes: one signature holds for many bodies, and so for many ids.
        // A repeat keeps the id of the transmission.
        Scheme::Paypal => plain("pointer:/event_type", "signed-id", Some("pointer:/create_time")),
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
        Scheme::Razorpay => plain("pointer:/event", "digest", Some("pointer:/created_at")),
        Scheme::Basic => plain("pointer:/event_type", "pointer:/id", Some("pointer:/occurred_at")),
        // Standard Webhooks, and the form of any scheme that is added: its id is signed, its body is JSON.
        _ => plain("pointer:/type", "signed-id", Some("pointer:/timestamp")),
    }
}

/// The headers that are the only place in which a vendor names a webhook's type. No signature covers them; there is no
/// other place to take the type from, and whoever sends a captured body again under another type finds its id used.
pub(crate) fn type_headers(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::Github => &["x-github-event"],
        Scheme::Shopify => &["x-shopify-topic", "shopify-topic"],
        _ => &[],
    }
}

/// The headers whose value is what the scheme's signature proves as the webhook's id.
pub(crate) fn id_headers(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::StandardWebhooks => &["webhook-id", "svix-id"],
        Scheme::Paypal => &["paypal-transmission-id"],
        _ => &[],
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
