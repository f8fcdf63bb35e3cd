//! Webhooks of every scheme on a real wasmCloud host: posted, verified by the component with a secret from a secrets
//! backend, and found in the log with their provenance. What is forged leaves nothing there.

use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream;
use fanout_plan::{Attributes, EventType, TenantId, envelope};

use fanout_tests::http;
use fanout_tests::webhook_host::{WebhookHost, forge};
use webhook_source::samples::{SAMPLES, Sample};
use webhook_source::{Claim, Provenance, recheck};

struct Log(jetstream::stream::Stream);

impl Log {
    async fn of(host: &WebhookHost) -> Self {
        let client = async_nats::connect(host.nats()).await.unwrap();
        let stream = jetstream::new(client).get_stream("fanout_payments_log").await;
        Self(stream.unwrap())
    }

    async fn stored(&mut self) -> u64 {
        self.0.info().await.unwrap().state.last_sequence
    }

    /// An event as a consumer is given it, and when it was stored.
    async fn event(&self, offset: u64) -> (Attributes, Vec<u8>, i64) {
        let message = self.0.get_raw_message(offset).await.unwrap();
        let tokens: Vec<&str> = message.subject.split('.').collect();
        let tenant = TenantId::from_token(tokens[1]).unwrap();
        let event_type = EventType::from_tokens(&tokens[3..].join(".")).unwrap();
        let headers: Vec<_> = message
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
            .collect();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let attributes = envelope::from_headers(tenant.as_str(), Some(event_type.as_str()), headers).unwrap();
        let stored_at = i64::try_from(message.time.unix_timestamp_nanos()).unwrap();
        (attributes, message.payload.to_vec(), stored_at)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// Posts the sample's webhook, with something changed before or after it was signed.
async fn post(
    host: &WebhookHost,
    sample: &Sample,
    forge: Option<fn(&Sample, &mut http::Headers, &mut Vec<u8>)>,
) -> http::Answer {
    let signed = sample.signed(sample.body.as_bytes(), now());
    let mut headers = sample.all_headers(&signed);
    let mut body = signed.body.to_vec();
    if let Some(forge) = forge {
        forge(sample, &mut headers, &mut body);
    }
    http::post(&host.url(&sample.target()), &headers, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_schemes_webhook_becomes_events_with_their_provenance() {
    let host = WebhookHost::start();
    let mut log = Log::of(&host).await;
    let before = log.stored().await;
    for sample in SAMPLES {
        let answer = post(&host, &sample, Some(forge)).await;
        assert_eq!(answer.status, 401, "{}: {}", sample.scheme, answer.text());
    }
    assert_eq!(log.stored().await, before, "a forged webhook was stored");

    for sample in SAMPLES {
        let before = log.stored().await;
        let answer = post(&host, &sample, None).await;
        assert_eq!(answer.status, 200, "{}: {}", sample.scheme, answer.text());
        match sample.name() {
            "adyen" => assert_eq!(answer.text(), "[accepted]"),
            _ => assert!(answer.text().contains(r#""duplicate":false"#), "{}", answer.text()),
        }
        let stored = log.stored().await - before;
        assert_eq!(stored, sample.events.len() as u64, "{}", sample.scheme);
        for (offset, (tenant, event_type, id)) in (before + 1..).zip(sample.events) {
            let (attributes, data, stored_at) = log.event(offset).await;
            let event = attributes.raw();
            assert_eq!(
                (event.tenant.as_str(), event.event_type.as_str()),
                (*tenant, *event_type)
            );
            let digest = id.is_empty() && event.id.contains(&format!("{}:", sample.name()));
            assert!(digest || event.id == *id, "{}: {}", sample.scheme, event.id);
            assert_eq!(event.source, format!("/webhooks/{}", sample.name()));
            let extensions: Vec<_> = event.extensions.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let provenance = Provenance::of(&extensions).unwrap();
            assert_eq!((provenance.scheme, provenance.key.as_str()), (sample.scheme, "0"));
            assert!(provenance.verified_at.abs_diff(now()) < 120, "{provenance:?}");
            assert_eq!(provenance.signed_at.is_some(), sample.scheme.signs_time());
            if ["stripe", "adyen", "gocardless"].contains(&sample.name()) {
                let claim = Claim {
                    source: &event.source,
                    tenant: &event.tenant,
                    event_type: &event.event_type,
                    id: &event.id,
                    extensions: &extensions,
                    data: &data,
                    stored_at,
                };
                let proven = recheck(&sample.source(&[]), &claim).unwrap_or_else(|e| panic!("{}: {e}", sample.scheme));
                // The time that counts is the store's.
                assert_eq!(proven.verified_at, stored_at / 1_000_000_000);
                let expected = Provenance {
                    verified_at: proven.verified_at,
                    ..provenance
                };
                assert_eq!(proven, expected);
            }
        }
        // Sent again, as every sender does: known by its id, and stored once.
        let after = log.stored().await;
        let answer = post(&host, &sample, None).await;
        assert_eq!(answer.status, 200, "{}: {}", sample.scheme, answer.text());
        assert_eq!(log.stored().await, after, "{}: a repeat was stored", sample.scheme);
    }

    let challenge = host.url("/webhooks/braintree?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53");
    let answer = http::get(&challenge).await.unwrap();
    assert!(
        answer.status == 200 && answer.text().starts_with("integration_public_key|"),
        "{}",
        answer.text()
    );
    let unknown = http::post(&host.url("/webhooks/other"), &[], Vec::new()).await.unwrap();
    assert_eq!(unknown.status, 404);
    let said = host.stop();
    for sample in SAMPLES {
        assert!(
            !said.contains(sample.verifies_with),
            "the log holds the secret of {}",
            sample.scheme
        );
    }
}
