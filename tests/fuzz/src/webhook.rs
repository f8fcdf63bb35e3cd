//! Webhooks: no input makes the verifier panic, and none is proven but the one that was signed.
//!
//! For each scheme one webhook is signed with one key, and it is the seed. Whatever the fuzzer makes of it, an input that
//! verifies must prove exactly what that webhook proved: the same body or payload, the same id and time. Another one would
//! be a forgery, and is reported as a crash. Where each item is signed by itself, a sender's items can be left out, repeated
//! and put in another order by whoever passes them on; each must be one that was signed.

use std::{sync::OnceLock, time::Duration};

use samples::Sample;
use webhook_signature::{Keys, Proven, Request, Scheme, Unsigned, Verified, braintree, sign, verify as verify_webhook};

#[path = "../../../example-components/webhook-signature/tests/samples/mod.rs"]
mod samples;

const NOW: i64 = 1_767_225_600;
const URL: &str = "https://example.com/webhooks/fuzz";

/// A sender's and a receiver's side of one scheme, and what the one signed webhook proves.
struct World {
    keys: Keys,
    proven: String,
    items: Vec<String>,
    body: Vec<u8>,
}

/// Verifies an input as a webhook of this scheme.
pub fn verify(scheme: Scheme, data: &[u8]) {
    verify_of(|| Sample::new(scheme, SECRET), data);
}

/// Verifies an input as one of Standard Webhooks by Ed25519.
pub fn verify_asymmetric(data: &[u8]) {
    verify_of(Sample::asymmetric, data);
}

fn verify_of(sample: impl Fn() -> Sample, data: &[u8]) {
    static WORLD: OnceLock<World> = OnceLock::new();
    // One process fuzzes one sender.
    let world = WORLD.get_or_init(|| World::new(&sample()));
    let parts = Parts::of(data);
    let headers: Vec<_> = parts.headers.iter().map(|(name, value)| (*name, *value)).collect();
    let request = Request::new(&headers, parts.body).with_url(parts.url);
    let Ok(verified) = verify_webhook(&world.keys, &request, NOW, Duration::from_secs(300)) else {
        return;
    };
    assert_eq!(show(&verified), world.proven, "a forged webhook was verified");
    let items = show_items(&verified);
    assert_eq!(
        items.is_empty(),
        world.items.is_empty(),
        "a forged webhook was verified"
    );
    for item in items {
        assert!(world.items.contains(&item), "a forged item was verified: {item}");
    }
    // PayPal signs no more of the body than its CRC-32, and says so.
    if let Proven::Body(body) = verified.proven {
        assert_eq!(body, world.body, "a forged body was verified");
    }
}

/// Reads an input as a challenge of Braintree's and, on the next lines, as a payload: what is signed for whoever asks is no
/// webhook, and signs no payload but itself.
pub fn challenge(data: &[u8]) {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        Sample::new(Scheme::Braintree, SECRET)
            .keys()
            .expect("the sample has keys")
    });
    let text = String::from_utf8_lossy(data);
    let (challenge, payload) = text.split_once('\n').unwrap_or((&text, &text));
    let Some(answer) = braintree::answer_challenge(keys, challenge) else {
        return;
    };
    for payload in [payload, challenge] {
        let form = challenge_form(&answer, payload);
        let verified = verify_webhook(keys, &Request::new(&[], form.as_bytes()), NOW, Duration::ZERO);
        assert!(verified.is_err(), "the answer to a challenge was verified as a webhook");
    }
}

fn challenge_form(answer: &str, payload: &str) -> String {
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    format!("bt_signature={}&bt_payload={}", escaped(answer), escaped(payload))
}

/// Reads an input as secrets and a parameter: the first byte chooses the scheme, a zero byte separates the two.
pub fn keys(data: &[u8]) {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let scheme = Scheme::ALL[usize::from(*choice) % Scheme::ALL.len()];
    let text = String::from_utf8_lossy(text);
    let (secrets, parameter) = text.split_once('\0').unwrap_or((&text, ""));
    let parameters: Vec<_> = scheme
        .parameters()
        .iter()
        .map(|known| (known.name, parameter))
        .collect();
    if let Ok(keys) = Keys::with_parameters(scheme, secrets, &parameters) {
        // A line is a key, and a part of one is none.
        assert!(scheme == Scheme::Paypal || keys.len() == secrets.split_inclusive('\n').count());
        let request = Request::new(&[], b"{}").with_url(URL);
        let verified = verify_webhook(&keys, &request, NOW, Duration::ZERO);
        assert!(verified.is_err(), "a webhook without a signature was verified");
    }
}

/// The signed webhook of a scheme, as an input.
pub fn seed(scheme: Scheme) -> Vec<u8> {
    seed_of(&Sample::new(scheme, SECRET))
}

/// Adyen's without its last item, as anyone can make it of the whole one.
///
/// # Panics
/// Panics when the sample has one item.
pub fn seed_one_item() -> Vec<u8> {
    let whole = String::from_utf8(seed(Scheme::Adyen)).expect("it is text");
    let (first, _) = whole
        .split_once(r#"},{"NotificationRequestItem""#)
        .expect("the sample has two items");
    format!("{first}}}]}}").into_bytes()
}

/// The one that is signed by Ed25519.
pub fn seed_asymmetric() -> Vec<u8> {
    seed_of(&Sample::asymmetric())
}

/// A challenge of Braintree's, as an input of its target, and its answer as a webhook.
pub fn seed_challenge() -> (Vec<u8>, Vec<u8>) {
    let challenge = "20f9f8ed05f77439fe955c977e4c8a53";
    let keys = Sample::new(Scheme::Braintree, SECRET)
        .keys()
        .expect("the sample has keys");
    let answer = braintree::answer_challenge(&keys, challenge).expect("it is a challenge");
    let webhook = format!("{URL}\n\n{}", challenge_form(&answer, challenge));
    (format!("{challenge}\n{challenge}").into_bytes(), webhook.into_bytes())
}

/// The signed webhook of a scheme whose headers have other names too: under those, and under both.
pub fn seeds_renamed(scheme: Scheme) -> Option<[Vec<u8>; 2]> {
    let (from, to) = match scheme {
        Scheme::StandardWebhooks => ("\nwebhook-", "\nsvix-"),
        Scheme::Shopify => ("\nx-shopify-", "\nshopify-"),
        _ => return None,
    };
    let seed = String::from_utf8(seed(scheme)).ok()?;
    let renamed = seed.replace(from, to);
    let (head, _) = renamed.split_once("\n\n")?;
    let both = format!("{head}\n{}", seed.split_once('\n')?.1);
    Some([renamed.into_bytes(), both.into_bytes()])
}

fn seed_of(sample: &Sample) -> Vec<u8> {
    let body = samples::body(sample.scheme, "fuzz");
    let webhook = Unsigned {
        id: "msg_1",
        timestamp: NOW,
        body: &body,
        url: Some(URL),
    };
    let signed = sign(&sample.signing_key(), &webhook).expect("the sample can be signed");
    let mut seed = format!("{URL}\n").into_bytes();
    for (name, value) in &signed.headers {
        seed.extend(format!("{name}: {value}\n").bytes());
    }
    seed.push(b'\n');
    seed.extend(signed.body.iter());
    seed
}

const SECRET: &str = "00112233445566778899aabbccddeeff";

impl World {
    fn new(sample: &Sample) -> Self {
        let keys = sample.keys().expect("the sample has keys");
        let seed = seed_of(sample);
        let parts = Parts::of(&seed);
        let request = Request::new(&parts.headers, parts.body).with_url(parts.url);
        let verified = verify_webhook(&keys, &request, NOW, Duration::ZERO).expect("the seed verifies");
        let proven = show(&verified);
        let items = show_items(&verified);
        let body = parts.body.to_vec();
        Self {
            keys,
            proven,
            items,
            body,
        }
    }
}

/// All of what is proven but the body itself, and items.
fn show(verified: &Verified<'_>) -> String {
    let proven = match &verified.proven {
        Proven::Body(_) => "the body".to_owned(),
        Proven::Checksum(_) => "a checksum of the body".to_owned(),
        Proven::Items(_) => "items".to_owned(),
        other => format!("{other:?}"),
    };
    format!(
        "{:?} {} {:?} {:?} {proven}",
        verified.scheme, verified.key, verified.id, verified.timestamp
    )
}

/// What is proven of each item: its place in the body is not.
fn show_items(verified: &Verified<'_>) -> Vec<String> {
    let items = verified.proven.items().iter();
    items.map(|item| format!("{} {:?}", item.key, item.fields)).collect()
}

/// A webhook as text: a line with the URL, lines with headers, an empty line, the body.
struct Parts<'a> {
    url: &'a str,
    headers: Vec<(&'a str, &'a [u8])>,
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(data: &'a [u8]) -> Self {
        let (head, body) = match data.windows(2).position(|pair| pair == b"\n\n") {
            Some(end) => (&data[..end], &data[end + 2..]),
            None => (data, &b""[..]),
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let url = lines
            .next()
            .and_then(|line| std::str::from_utf8(line).ok())
            .unwrap_or_default();
        let headers = lines.filter_map(|line| {
            let colon = line.windows(2).position(|pair| pair == b": ")?;
            Some((std::str::from_utf8(&line[..colon]).ok()?, &line[colon + 2..]))
        });
        Self {
            url,
            headers: headers.collect(),
            body,
        }
    }
}
