use super::*;
use crate::testing::Case;

/// The example of Adyen's documentation and of its libraries for Ruby, Go and others.
const SECRET: &str = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
const BODY: &str = include_str!("../../tests/vectors/adyen.json");
const OTHER: &str = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00";

fn good() -> Case {
    Case::new(Scheme::Adyen, SECRET, &[], BODY)
}

/// The fields of an item.
type Fields = Vec<(String, String)>;

/// The items that a body proves: which key signed them, and their fields.
fn proven(secret: &str, body: &str) -> Result<Vec<(usize, Fields)>, Refusal> {
    let keys = Keys::parse(Scheme::Adyen, secret).unwrap();
    let verified = crate::verify(&keys, &Request::new(&[], body.as_bytes()), 0, std::time::Duration::ZERO)?;
    assert_eq!(
        (verified.id, verified.timestamp, verified.proven.bytes()),
        (None, None, None)
    );
    let items = verified.proven.items().iter().enumerate().map(|(place, item)| {
        assert_eq!(
            item.pointer,
            format!("/notificationItems/{place}/NotificationRequestItem")
        );
        let fields = item
            .fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_string()));
        (item.key, fields.collect())
    });
    Ok(items.collect())
}

fn signed(items: &str) -> String {
    let body = format!(r#"{{"notificationItems":[{items}]}}"#);
    let case = good().with_body(body);
    String::from_utf8(case.sign(SECRET, "", 0).body.into_owned()).unwrap()
}

fn item(fields: &str) -> String {
    format!(r#"{{"NotificationRequestItem":{{{fields}}}}}"#)
}

#[test]
fn the_documented_example_is_verified_and_only_its_signed_fields_are_proven() {
    let fields = [
        ("/pspReference", "7914073381342284"),
        ("/originalReference", ""),
        ("/merchantAccountCode", "TestMerchant"),
        ("/merchantReference", "TestPayment-1407325143704"),
        ("/amount/value", "1130"),
        ("/amount/currency", "EUR"),
        ("/eventCode", "AUTHORISATION"),
        ("/success", "true"),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(proven(SECRET, BODY), Ok(vec![(0, fields.to_vec())]));
    assert_eq!(proven(&SECRET.to_lowercase(), BODY), proven(SECRET, BODY));
}

/// Adyen's own library for Java, HMACValidatorTest: an amount in quotes, and a reference with a colon and backslashes, which
/// is signed as it is.
#[test]
fn the_vectors_of_the_vendors_library_are_verified() {
    let report = include_str!("../../tests/vectors/adyen-report.json");
    let key = "9064450A8892A093D9E97EFCC9639DE31B74F3A7803135555A3C96F5A57915D6";
    assert_eq!(proven(key, report).unwrap().len(), 1);
    let colon = include_str!("../../tests/vectors/adyen-colon.json");
    let key = "74F490DD33F7327BAECC88B2947C011FC02D014A473AAA33A8EC93E4DC069174";
    let items = proven(key, colon).unwrap();
    assert_eq!(items[0].1[3].1, r"\:/\/slashes are fun");
}

#[test]
fn what_is_made_is_what_the_vendor_makes() {
    let unsigned = BODY.replace("coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0=", "");
    assert_ne!(unsigned, BODY);
    let case = good().with_body(unsigned);
    let made = case.sign(SECRET, "", 0).body.into_owned();
    assert!(
        made.windows(44)
            .any(|part| part == b"coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0=")
    );
    assert_eq!(
        proven(SECRET, std::str::from_utf8(&made).unwrap()),
        proven(SECRET, BODY)
    );
}

#[test]
fn every_signed_field_is_signed() {
    for (before, after) in [
        (r#""pspReference": "7"#, r#""pspReference": "8"#),
        (r#""pspReference""#, r#""originalReference": "x", "pspReference""#),
        ("TestMerchant", "TestMerchan"),
        ("TestPayment", "RealPayment"),
        ("1130", "1131"),
        ("1130", "-1130"),
        (r#""currency": "EUR""#, r#""currency": "USD""#),
        (r#""currency": "EUR""#, r#""currency": "EUR ""#),
        ("AUTHORISATION", "CAPTURE"),
        (r#""success": "true""#, r#""success": "false""#),
        (r#""success": "true""#, r#""success": false"#),
        (r#""success": "true""#, r#""success": null"#),
        (r#""pspReference": "7914073381342284","#, ""),
        ("coq", "coR"),
    ] {
        let changed = BODY.replace(before, after);
        assert_ne!(changed, BODY, "{before}");
        assert_eq!(
            proven(SECRET, &changed),
            Err(Refusal::ItemMismatch { item: 1 }),
            "{before} -> {after}"
        );
    }
    assert_eq!(proven(OTHER, BODY), Err(Refusal::ItemMismatch { item: 1 }));
}

#[test]
fn another_way_to_write_the_same_fields_proves_the_same() {
    for (before, after) in [
        ("1130", r#""1130""#),
        (r#""success": "true""#, r#""success": true"#),
        ("AUTHORISATION", r"AUTHORI\u0053ATION"),
        (r#""paymentMethod": "visa""#, r#""paymentMethod": "not signed""#),
        (r#""eventCode""#, r#""originalReference": null, "eventCode""#),
    ] {
        let changed = BODY.replace(before, after);
        assert_ne!(changed, BODY, "{before}");
        assert_eq!(proven(SECRET, &changed), proven(SECRET, BODY), "{before} -> {after}");
    }
}

#[test]
fn all_items_are_proven_or_none() {
    let items = ["1", "2", "3"].map(|reference| item(&format!(r#""pspReference":"{reference}""#)));
    let body = signed(&items.join(","));
    let keys = format!("{OTHER}\n{SECRET}");
    let proven_items = proven(&keys, &body).unwrap();
    let references: Vec<_> = proven_items
        .iter()
        .map(|(key, fields)| (*key, fields[0].1.as_str()))
        .collect();
    assert_eq!(references, [(1, "1"), (1, "2"), (1, "3")]);

    let forged = body.replace(r#""pspReference":"3""#, r#""pspReference":"4""#);
    assert_eq!(proven(&keys, &forged), Err(Refusal::ItemMismatch { item: 3 }));
    let unsigned = BODY.replace("]\n}", &format!(",{}]}}", item(r#""pspReference":"1""#)));
    assert_ne!(unsigned, BODY);
    let refusal = proven(SECRET, &unsigned);
    assert_eq!(
        refusal,
        Err(Refusal::MissingField {
            field: "additionalData.hmacSignature"
        })
    );
}

#[test]
fn a_part_of_one_field_can_not_become_a_part_of_another() {
    // Signed as merchant's reference `a:b:5`, value 7. The same bytes as reference `a`, value `b:5:7`, and so on.
    let body = signed(&item(
        r#""merchantReference":"a:b:5","amount":{"value":7,"currency":"EUR"}"#,
    ));
    assert!(proven(SECRET, &body).is_ok());
    for (reference, account, value) in [("a", "", "b:5:7"), ("b:5", ":a", "7"), ("5", ":a:b", "7")] {
        let forged = body
            .replace("a:b:5", reference)
            .replace(r#""value":7"#, &format!(r#""value":"{value}""#))
            .replace(
                r#""merchantReference""#,
                &format!(r#""merchantAccountCode":"{account}","merchantReference""#),
            );
        let refusal = proven(SECRET, &forged).unwrap_err();
        assert!(
            matches!(refusal, Refusal::MalformedBody { .. }),
            "{forged}: {refusal:?}"
        );
    }
}

/// Every reading of what was signed but the one that was signed: each field of eight, with a border at another colon.
fn other_readings(signed: [&str; 8]) -> Vec<[String; 8]> {
    let text = signed.join(":");
    let parts: Vec<_> = text.split(':').collect();
    // Where the seven borders are among the colons.
    let colons = parts.len() - 1;
    let mut readings = Vec::new();
    for chosen in 0_u32..1 << colons {
        if chosen.count_ones() != 7 {
            continue;
        }
        let mut fields = vec![parts[0].to_owned()];
        for (colon, part) in parts[1..].iter().enumerate() {
            if chosen >> colon & 1 == 1 {
                fields.push((*part).to_owned());
            } else if let Some(last) = fields.last_mut() {
                last.push(':');
                last.push_str(part);
            }
        }
        let fields: [String; 8] = fields.try_into().unwrap();
        if fields != signed.map(str::to_owned) {
            readings.push(fields);
        }
    }
    readings
}

fn item_of(fields: &[impl AsRef<str>; 8], signature: &str) -> String {
    let [psp, original, account, reference, value, currency, code, success] = fields.each_ref().map(AsRef::as_ref);
    serde_json::json!({ "NotificationRequestItem": {
        "pspReference": psp, "originalReference": original, "merchantAccountCode": account,
        "merchantReference": reference, "amount": { "value": value, "currency": currency }, "eventCode": code,
        "success": success, "additionalData": { "hmacSignature": signature },
    } })
    .to_string()
}

/// A report's file name has times in it; a merchant's reference has what the merchant likes. Of what is signed, nothing but what
/// was meant is proven.
#[test]
fn a_field_that_holds_colons_is_proven_and_no_other_reading_of_it_is() {
    let report = "report_2026-05-26T00:00:00_2026-05-27T23:59:59.csv";
    for fields in [
        [report, "", "AcmeECOM", "", "0", "EUR", REPORT, "true"],
        ["a:b", "", "", "", "0", "EUR", REPORT, "true"],
        [":", "", "", "", "", "", REPORT, ""],
        ["psp", "original", "Acme", "a:b:c", "5", "EUR", "CAPTURE", "true"],
        ["", "", "", "::", "", "", "", ""],
    ] {
        let Key::Mac(mac) = key(SECRET).unwrap() else {
            panic!("the key is one of HMAC")
        };
        let signature = encoding::to_base64(&mac.tag(&[fields.join(":").as_bytes()]));
        let body = |item: String| format!(r#"{{"notificationItems":[{item}]}}"#);
        let items = proven(SECRET, &body(item_of(&fields, &signature))).unwrap();
        let values: Vec<_> = items[0].1.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, fields);

        let readings = other_readings(fields);
        assert!(!readings.is_empty());
        for reading in readings {
            let refused = proven(SECRET, &body(item_of(&reading, &signature)));
            assert!(
                matches!(refused, Err(Refusal::MalformedBody { .. })),
                "{fields:?} passes for {reading:?}: {refused:?}"
            );
        }
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    assert_eq!(proven(SECRET, &format!("\u{feff}{BODY}")), proven(SECRET, BODY));
    assert!(proven(SECRET, &format!("\u{feff}\u{feff}{BODY}")).is_err());
}

#[test]
fn what_is_not_in_form_is_refused() {
    for body in [
        "",
        "x",
        "[]",
        "{}",
        r#"{"notificationItems":[]}"#,
        r#"{"notificationItems":{}}"#,
        r#"{"notificationItems":[{}]}"#,
        r#"{"notificationItems":[null]}"#,
        &BODY.replace("1130", "1130.0"),
        &BODY.replace("1130", "1e3"),
        &BODY.replace("1130", "[]"),
        &BODY.replace("1130", "18446744073709551616"),
        &BODY.replace(r#""eventCode""#, r#""eventCode": "CAPTURE", "eventCode""#),
        &BODY.replace(r#""hmacSignature""#, r#""hmacSignature": "", "hmacSignature""#),
        &BODY.replace(r#""live""#, r#""notificationItems": [], "live""#),
        &BODY[..BODY.len() - 3],
        &format!("{BODY}{{}}"),
    ] {
        let refusal = proven(SECRET, body).unwrap_err();
        assert!(matches!(refusal, Refusal::MalformedBody { .. }), "{body}: {refusal:?}");
    }
    for signature in [
        "",
        "coqCmt",
        "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0",
        "notValidSign",
    ] {
        let body = BODY.replace("coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0=", signature);
        let refusal = proven(SECRET, &body).unwrap_err();
        assert!(
            matches!(refusal, Refusal::MalformedField { .. }),
            "{signature}: {refusal:?}"
        );
    }
}

#[test]
fn a_body_without_items_can_not_be_signed() {
    let key = SigningKey::parse(Scheme::Adyen, SECRET).unwrap();
    for body in [
        "",
        "{}",
        r#"{"notificationItems":[{"NotificationRequestItem":{"pspReference":"a:b"}}]}"#,
    ] {
        let webhook = Unsigned {
            body: body.as_bytes(),
            ..Unsigned::default()
        };
        let refusal = crate::sign(&key, &webhook);
        assert!(
            matches!(refusal, Err(Unsignable::InvalidBody { .. })),
            "{body}: {refusal:?}"
        );
    }
}

#[test]
fn a_key_is_hexadecimal() {
    for secret in ["BadKey", "0", "0g"] {
        assert!(matches!(key(secret), Err(InvalidKey::Malformed { .. })), "{secret}");
    }
    assert_eq!(key("").err(), Some(InvalidKey::Empty));
}
