//! Adyen's standard webhooks: in each item of the body `additionalData.hmacSignature`, HMAC-SHA256 in base64 over
//! `pspReference:originalReference:merchantAccountCode:merchantReference:value:currency:eventCode:success`.
//! <https://docs.adyen.com/development-resources/webhooks/secure-webhooks/verify-hmac-signatures>
//!
//! Only these eight fields of an item are proven; every other one, such as `reason` or `eventDate`, may have been changed
//! by whoever stands between Adyen and here, and [`Proven::Items`] leaves it out. All items must be signed, or none counts.
//!
//! Adyen joins the fields without escaping, so that `a:b` in one field is signed as `a` and `b` in two are. Of one signed text
//! only one reading is taken: the event's code, which can hold no `:`, says which field may. In a report
//! (`REPORT_AVAILABLE`) that is `pspReference`, the report's file name, which has times in it; in any other event
//! `merchantReference`, which is the merchant's. A `:` in another field is refused, whoever signed it.
//!
//! A field that stands in an item twice is refused, as two readers could see two values. A byte order mark before the body is
//! passed over: no signature covers it.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, de};

use crate::{
    Coverage, InvalidKey, Item, Keys, Proven, Refusal, Request, Scheme, Signed, SigningKey, Unsignable, Unsigned,
    Verified, encoding,
    key::{self, Key},
    mac::Tags,
    scheme::Rules,
    signing,
};

pub(crate) const RULES: Rules = Rules {
    name: "adyen",
    tolerance: None,
    covers_id: false,
    covers_url: false,
    coverage: Coverage::Items,
    headers: &[],
    parameters: &[],
    keys: |secrets, _| key::each(secrets, key),
    signing_key: |secret| signing::symmetric(key(secret)),
    verify,
    sign,
};

/// Reads a key as the Customer Area shows it: in hexadecimal.
pub(crate) fn key(secret: &str) -> Result<Key, InvalidKey> {
    let malformed = InvalidKey::Malformed {
        expected: "a key in hexadecimal",
    };
    Key::mac(&hex::decode(secret).map_err(|_| malformed)?)
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn verify<'a>(keys: &Keys, request: &Request<'a>, _: i64) -> Result<Verified<'a>, Refusal> {
    let json = request.body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(request.body);
    let notification: Notification<'a> = serde_json::from_slice(json).map_err(|error| Refusal::MalformedBody {
        problem: if error.is_data() {
            "it has no `notificationItems` of the form that Adyen signs"
        } else {
            "it is no JSON"
        },
    })?;
    let items = notification.notification_items.into_iter().enumerate();
    let items: Vec<_> = items
        .map(|(place, wrapped)| wrapped.item.verify(place, keys))
        .collect::<Result<_, _>>()?;
    let first = items.first().ok_or(Refusal::MalformedBody {
        problem: "it holds no item",
    })?;
    Ok(Verified {
        scheme: Scheme::Adyen,
        key: first.key,
        id: None,
        timestamp: None,
        proven: Proven::Items(items),
    })
}

/// Puts a signature into each item.
fn sign<'a>(key: &SigningKey, webhook: &Unsigned<'a>) -> Result<Signed<'a>, Unsignable> {
    let invalid = |problem| move |_| Unsignable::InvalidBody { problem };
    let notification: Notification<'_> =
        serde_json::from_slice(webhook.body).map_err(invalid("it has no `notificationItems` of Adyen's form"))?;
    let mut body: serde_json::Value = serde_json::from_slice(webhook.body).map_err(invalid("it is no JSON"))?;
    for (place, wrapped) in notification.notification_items.iter().enumerate() {
        let fields = wrapped
            .item
            .fields()
            .map_err(|problem| Unsignable::InvalidBody { problem })?;
        let signature = key.mac().tag(&parts(&fields));
        body["notificationItems"][place]["NotificationRequestItem"]["additionalData"]["hmacSignature"] =
            encoding::to_base64(&signature).into();
    }
    Ok(Signed {
        headers: Vec::new(),
        body: Cow::Owned(body.to_string().into_bytes()),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification<'a> {
    #[serde(borrow)]
    notification_items: Vec<Wrapped<'a>>,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(rename = "NotificationRequestItem", borrow)]
    item: SignedItem<'a>,
}

/// The fields that are signed, and the signature. A second field of the same name is an error of serde's.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignedItem<'a> {
    #[serde(borrow, default)]
    psp_reference: Scalar<'a>,
    #[serde(borrow, default)]
    original_reference: Scalar<'a>,
    #[serde(borrow, default)]
    merchant_account_code: Scalar<'a>,
    #[serde(borrow, default)]
    merchant_reference: Scalar<'a>,
    #[serde(borrow, default)]
    amount: Amount<'a>,
    #[serde(borrow, default)]
    event_code: Scalar<'a>,
    #[serde(borrow, default)]
    success: Scalar<'a>,
    #[serde(borrow, default)]
    additional_data: AdditionalData<'a>,
}

#[derive(Default, Deserialize)]
struct Amount<'a> {
    #[serde(borrow, default)]
    value: Scalar<'a>,
    #[serde(borrow, default)]
    currency: Scalar<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdditionalData<'a> {
    #[serde(borrow, default)]
    hmac_signature: Option<Scalar<'a>>,
}

type Fields<'a> = [(&'static str, Cow<'a, str>); 8];

const PSP_REFERENCE: &str = "/pspReference";
const MERCHANT_REFERENCE: &str = "/merchantReference";
/// The code of an event that says that a report is there.
const REPORT: &str = "REPORT_AVAILABLE";

impl<'a> SignedItem<'a> {
    fn fields(&self) -> Result<Fields<'a>, &'static str> {
        let fields = [
            (PSP_REFERENCE, &self.psp_reference),
            ("/originalReference", &self.original_reference),
            ("/merchantAccountCode", &self.merchant_account_code),
            (MERCHANT_REFERENCE, &self.merchant_reference),
            ("/amount/value", &self.amount.value),
            ("/amount/currency", &self.amount.currency),
            ("/eventCode", &self.event_code),
            ("/success", &self.success),
        ];
        let free = if self.event_code.0 == REPORT {
            PSP_REFERENCE
        } else {
            MERCHANT_REFERENCE
        };
        let ambiguous = |(name, value): &(&str, &Scalar<'_>)| *name != free && value.0.contains(':');
        if fields.iter().any(ambiguous) {
            return Err("a field of an item holds a `:` that makes its signature ambiguous");
        }
        Ok(fields.map(|(name, value)| (name, value.0.clone())))
    }

    fn verify(self, place: usize, keys: &Keys) -> Result<Item<'a>, Refusal> {
        let pointer = format!("/notificationItems/{place}/NotificationRequestItem");
        let signature = self
            .additional_data
            .hmac_signature
            .as_ref()
            .ok_or(Refusal::MissingField {
                field: "additionalData.hmacSignature",
            })?;
        let tag = encoding::base64(&signature.0).ok_or(Refusal::MalformedField {
            field: "additionalData.hmacSignature",
            problem: "it is not 32 bytes in base64",
        })?;
        let fields = self.fields().map_err(|problem| Refusal::MalformedBody { problem })?;
        let key = Tags::from(tag)
            .made_by(keys, &parts(&fields))
            .ok_or(Refusal::ItemMismatch { item: place + 1 })?;
        Ok(Item {
            pointer,
            key,
            fields: fields.into(),
        })
    }
}

/// The bytes that are signed, in parts.
fn parts<'a>(fields: &'a Fields<'_>) -> [&'a [u8]; 15] {
    std::array::from_fn(|index| match index % 2 {
        0 => fields[index / 2].1.as_bytes(),
        _ => b":",
    })
}

/// A text, a whole number, or true or false, as the text that is signed; absent and null are the empty text.
#[derive(Default)]
struct Scalar<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> de::Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number, true, false or null")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Scalar(Cow::Borrowed(if flag { "true" } else { "false" })))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Scalar(Cow::Owned(number.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Scalar(Cow::Owned(number.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::default())
    }
}

#[cfg(test)]
mod tests;
