use proptest::{prelude::*, sample::Index};
use webhook_signature::Scheme;

use super::*;
use crate::{
    Event,
    samples::{self, SAMPLES, Sample},
};

const NOW: i64 = 1_767_225_600;

fn kept(sample: &Sample) -> Vec<Event> {
    let signed = sample.signed(sample.body.as_bytes(), NOW);
    let mut headers = HeaderMap::new();
    for (name, value) in sample.all_headers(&signed) {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    // What is not needed is not kept.
    headers.append("x-other", HeaderValue::from_static("other"));
    let webhook = Webhook {
        path_tenant: sample.path.strip_prefix('/'),
        headers: &headers,
        body: &signed.body,
    };
    sample.source(&[("evidence", "keep")]).events(webhook, NOW).unwrap()
}

fn check(sample: &Sample, event: &Event, more: &[(&str, &str)]) -> Result<Provenance, Unproven> {
    check_at(sample, event, more, NOW)
}

fn check_at(sample: &Sample, event: &Event, more: &[(&str, &str)], stored_at_s: i64) -> Result<Provenance, Unproven> {
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
        stored_at: stored_at_s * 1_000_000_000,
    };
    recheck(&sample.source(more), &claim)
}

/// Every scheme whose signature proves something later on.
fn signing() -> impl Iterator<Item = Sample> {
    SAMPLES
        .into_iter()
        .filter(|sample| sample.scheme.coverage().proves_later())
}

#[test]
fn what_was_verified_is_verified_again() {
    for sample in signing() {
        for event in kept(&sample) {
            let proven = check(&sample, &event, &[]).unwrap_or_else(|error| panic!("{}: {error}", sample.scheme));
            assert_eq!(
                (proven.scheme, proven.key.as_str(), proven.verified_at),
                (sample.scheme, "0", NOW)
            );
            assert!(event.extensions.iter().all(|(_, value)| !value.contains("x-other")));
        }
    }
}

#[test]
fn another_tenant_type_or_id_is_not_proven() {
    for sample in signing() {
        for event in kept(&sample) {
            let other = |change: fn(&mut Event)| {
                let mut event = event.clone();
                change(&mut event);
                check(&sample, &event, &[]).unwrap_err()
            };
            assert_eq!(
                other(|event| event.tenant.push('2')),
                Unproven::Another { what: "tenant" }
            );
            assert_eq!(
                other(|event| event.source.push('2')),
                Unproven::Another { what: "source" }
            );
            assert_eq!(
                other(|event| event.event_type.push('2')),
                Unproven::Another { what: "event type" }
            );
            assert_eq!(other(|event| event.id.push('2')), Unproven::Another { what: "id" });
        }
    }
}

#[test]
fn an_item_can_not_pass_for_another() {
    for scheme in [Scheme::Adyen, Scheme::Gocardless] {
        let sample = samples::of(scheme);
        let mut events = kept(&sample);
        let second = events.remove(1);
        let mut mixed = events.remove(0);
        for (name, value) in &mut mixed.extensions {
            if name == "webhookpart" {
                *value = value.replace("/0", "/1");
            }
        }
        assert_eq!(check(&sample, &mixed, &[]), Err(Unproven::Another { what: "tenant" }));
        mixed
            .extensions
            .iter_mut()
            .filter(|(name, _)| name == "webhookpart")
            .for_each(|(_, value)| *value = "/9".to_owned());
        assert_eq!(check(&sample, &mixed, &[]), Err(Unproven::Another { what: "part" }));
        assert!(check(&sample, &second, &[]).is_ok());
    }
}

#[test]
fn without_evidence_nothing_is_proven() {
    let sample = samples::of(Scheme::Stripe);
    let event = kept(&sample).remove(0);
    let without = |prefix: &str| {
        let mut event = event.clone();
        event.extensions.retain(|(name, _)| !name.starts_with(prefix));
        check(&sample, &event, &[]).unwrap_err()
    };
    assert_eq!(without("webhookevidence"), Unproven::NoEvidence);
    assert_eq!(
        without("webhook"),
        Unproven::NoProvenance(NoProvenance::Missing("webhookscheme"))
    );
    let github = samples::of(Scheme::Github);
    let other = check(&github, &event, &[]).unwrap_err();
    assert_eq!(
        other.to_string(),
        "the event was verified as stripe, and its source signs as github"
    );
}

/// What the event says of when it was verified is its publisher's word: the store's time is asked.
#[test]
fn an_old_webhook_is_not_proven_whatever_its_publisher_says_of_the_time() {
    for sample in signing().filter(|sample| sample.scheme.signs_time()) {
        let mut event = kept(&sample).remove(0);
        let tolerance = i64::try_from(sample.source(&[]).tolerance.as_secs()).unwrap();
        let on_the_way = i64::try_from(ON_THE_WAY.as_secs()).unwrap();
        assert!(check_at(&sample, &event, &[], NOW + tolerance + on_the_way).is_ok());
        let late = NOW + tolerance + on_the_way + 1;
        for said in ["2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"] {
            for (name, value) in &mut event.extensions {
                if name == "webhookverified" {
                    *value = said.to_owned();
                }
            }
            let refused = check_at(&sample, &event, &[], late).unwrap_err();
            assert!(matches!(refused, Unproven::Refused(_)), "{}: {refused}", sample.scheme);
        }
        let proven = check_at(&sample, &event, &[], NOW + 1).unwrap();
        assert_eq!(proven.verified_at, NOW + 1);
    }
}

#[test]
fn a_checksum_and_a_password_prove_nothing_later_on() {
    for sample in SAMPLES.iter().filter(|sample| !sample.scheme.coverage().proves_later()) {
        // As if somebody had made its evidence.
        let mut event = kept(&samples::of(Scheme::Stripe)).remove(0);
        event.source = sample.source(&[]).event_source();
        event.extensions[0].1 = sample.name().to_owned();
        assert_eq!(
            check(sample, &event, &[]),
            Err(Unproven::ProvesNothing { scheme: sample.name() })
        );
    }
}

#[test]
fn a_tenant_of_the_path_is_proven_as_far_as_the_list_goes_and_said_to_be_unsigned() {
    let sample = Sample {
        path: "/one",
        ..samples::of(Scheme::Github)
    };
    let settings = [("evidence", "keep"), ("tenants", "one=acme, two=globex")];
    let signed = sample.signed(sample.body.as_bytes(), NOW);
    let mut headers = HeaderMap::new();
    for (name, value) in sample.all_headers(&signed) {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    let webhook = Webhook {
        path_tenant: Some("one"),
        headers: &headers,
        body: &signed.body,
    };
    let mut event = sample.source(&settings).events(webhook, NOW).unwrap().remove(0);
    assert_eq!(event.tenant, "acme");
    let proven = check(&sample, &event, &settings).unwrap();
    assert_eq!(proven.unsigned, ["tenant", "event-type"]);
    event.tenant = "others".to_owned();
    assert_eq!(
        check(&sample, &event, &settings),
        Err(Unproven::Another { what: "tenant" })
    );
    // Who publishes it for another that is listed changes what the path would have said: that is what `unsigned` is for.
    event.tenant = "globex".to_owned();
    assert!(
        check(&sample, &event, &settings)
            .unwrap()
            .unsigned
            .contains(&"tenant".to_owned())
    );
}

#[test]
fn a_revoked_key_proves_nothing() {
    let sample = samples::of(Scheme::Stripe);
    let event = kept(&sample).remove(0);
    let other_key = Sample {
        verifies_with: "whsec_of_another_sender",
        ..sample
    };
    let settings: Vec<_> = other_key
        .source_settings()
        .into_iter()
        .map(|(key, value)| match key.as_str() {
            "source.stripe.secret-name" => ("source.stripe.secret".to_owned(), other_key.verifies_with.to_owned()),
            _ => (key, value),
        })
        .collect();
    let source = Source::find(&settings, "stripe", &samples::SampleSecrets)
        .unwrap()
        .unwrap();
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
    let mismatch = webhook_signature::Refusal::SignatureMismatch;
    assert_eq!(
        recheck(&source, &claim),
        Err(Unproven::Refused(Refusal::Signature(mismatch)))
    );
}

proptest! {
    /// A changed bit anywhere in the data or in what is said of it never proves something else.
    #[test]
    fn a_changed_bit_is_not_proven_or_says_the_same(which in 0..SAMPLES.len(), at in any::<Index>(), in_data in any::<bool>()) {
        let sample = SAMPLES[which];
        prop_assume!(sample.scheme.coverage().proves_later());
        let event = kept(&sample).remove(0);
        let mut changed = event.clone();
        if in_data {
            let bit = at.index(changed.data.len() * 8);
            changed.data[bit / 8] ^= 1 << (bit % 8);
        } else {
            let index = at.index(changed.extensions.len());
            changed.extensions[index].1.push('0');
        }
        if let Ok(proven) = check(&sample, &changed, &[]) {
            // What is proven is what was: the rest is not covered, such as Adyen's other fields.
            let right = check(&sample, &event, &[]).unwrap();
            prop_assert_eq!((proven.scheme, proven.key, proven.part), (right.scheme, right.key, right.part));
        }
    }
}
