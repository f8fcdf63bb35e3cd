//! What the ingress reads besides signatures: settings, places, and the bodies of verified webhooks.

use http::{HeaderMap, HeaderName, HeaderValue};
use webhook_signature::Scheme;
use webhook_source::document::{Format, Node, Unreadable};
use webhook_source::samples::{SAMPLES, Sample, SampleSecrets};
use webhook_source::{Claim, Source, Webhook, items::Items, place::Places, recheck};

const NOW: i64 = 1_767_225_600;

/// Settings of a source, a line each: `scheme=stripe`.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let settings = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (format!("source.s.{key}"), value.to_owned()))
        .collect();
    match Source::find(&settings, "s", &SampleSecrets) {
        Ok(Some(source)) => {
            let places = [
                Some(&source.tenant),
                Some(&source.event_type),
                Some(&source.event_id),
                source.event_time.as_ref(),
            ];
            for places in places.into_iter().flatten() {
                assert_eq!(places.to_string().parse::<Places>().as_ref(), Ok(places));
            }
            if let Some(items) = &source.items {
                assert_eq!(items.to_string().parse::<Items>().as_ref(), Ok(items));
            }
        }
        Ok(None) => {}
        Err(error) => assert!(!error.problems().is_empty()),
    }
}

/// A document: the first byte says in what it is written. JSON that another reader takes is taken here, unless it says two
/// things.
pub fn document(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let formats = [Format::Json, Format::Form, Format::Xml];
    let format = formats[usize::from(*kind) % formats.len()];
    let read = format.read(bytes);
    if format != Format::Json {
        return;
    }
    match (serde_json::from_slice::<serde_json::Value>(bytes), read) {
        (Ok(value), Ok(node)) => {
            let fields = value.as_object().into_iter().flatten();
            for (name, field) in fields {
                let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                let text = node.pointer(&pointer).and_then(Node::text);
                if let Some(expected) = field.as_str() {
                    assert_eq!(text, Some(expected));
                }
            }
        }
        (Ok(_), Err(error)) => assert!(
            error.is_ambiguous() || matches!(error, Unreadable::TooMany { .. }),
            "{error}"
        ),
        (Err(_), _) => {}
    }
}

/// A body that was signed: the first byte says by which scheme, the second whether the evidence is kept. Whatever becomes
/// an event can be verified again.
pub fn events(data: &[u8]) {
    let [which, keep, body @ ..] = data else { return };
    let sample = SAMPLES[usize::from(*which) % SAMPLES.len()];
    // Only what Adyen could have sent can be signed as Adyen does.
    if sample.scheme == Scheme::Adyen {
        return;
    }
    let keep = keep % 2 == 1 && sample.scheme.coverage().proves_later();
    let source = sample.source(&[("evidence", if keep { "keep" } else { "none" })]);
    for event in received(&sample, &source, body) {
        for text in [&event.tenant, &event.event_type, &event.id, &event.source] {
            assert!(!text.is_empty() && !text.chars().any(char::is_control));
        }
        assert!(event.extensions.len() <= 32);
        if keep {
            let extensions: Vec<_> = event
                .extensions
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let claim = Claim {
                source: &event.source,
                tenant: &event.tenant,
                event_type: &event.event_type,
                id: &event.id,
                extensions: &extensions,
                data: &event.data,
                stored_at: NOW * 1_000_000_000,
            };
            recheck(&source, &claim).expect("what was verified is verified again");
        }
    }
}

fn received(sample: &Sample, source: &Source, body: &[u8]) -> Vec<webhook_source::Event> {
    let signed = sample.signed(body, NOW);
    let mut headers = HeaderMap::new();
    for (name, value) in sample.all_headers(&signed) {
        let name: HeaderName = name.parse().expect("a sample's headers are right");
        headers.append(
            name,
            HeaderValue::try_from(value).expect("a sample's headers are right"),
        );
    }
    let webhook = Webhook {
        path_tenant: sample.path.strip_prefix('/'),
        headers: &headers,
        body: &signed.body,
    };
    source.events(webhook, NOW).unwrap_or_default()
}
