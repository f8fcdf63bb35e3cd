//! What invoicing demands of an event before it writes money into the books, if it is set to.
//!
//! With `require-provenance: true` in its configuration, an event counts only if the payment provider's own signature is
//! checked again here, from the evidence in the event: neither the ingress nor the bus is trusted with it. It needs the
//! same `source.NAME.…` settings and secrets as the ingress, and the ingress needs `evidence: keep` for those sources.
//!
//! What stands where nothing is signed is not proven, whatever holds besides: a source whose tenant is in the path, or whose
//! type is in an unsigned header, writes no money here.

use component_support::delivery::Rejection;
use webhook_source::{Claim, Secrets, Source, recheck, setting::Settings};

/// The setting.
const REQUIRE: &str = "require-provenance";
/// What the ingress puts before a source's name.
const SOURCES: &str = "/webhooks/";

/// Checks an event of a source, if that is demanded.
///
/// What is broken here can be mended and is tried again; what is not proven never will be, and is a dead letter.
pub fn check(settings: &Settings, secrets: &impl Secrets, claim: &Claim<'_>) -> Result<(), Rejection> {
    if !is_required(settings)? {
        return Ok(());
    }
    let name = claim
        .source
        .strip_prefix(SOURCES)
        .ok_or_else(|| Rejection::DeadLetter("not proven: the event comes from no webhook".to_owned()))?;
    let source = Source::find(settings, name, secrets)
        .map_err(|error| Rejection::Retry(format!("provenance can't be checked: {error}")))?
        .ok_or_else(|| {
            Rejection::Retry(format!(
                "provenance can't be checked: there are no settings source.{name}.…"
            ))
        })?;
    let proven = recheck(&source, claim).map_err(|error| Rejection::DeadLetter(format!("not proven: {error}")))?;
    // When it happened is the publisher's word in either case, and nothing here is asked of it.
    match proven.unsigned.iter().find(|part| *part != "event-time") {
        None => Ok(()),
        Some(part) => Err(Rejection::DeadLetter(format!(
            "not proven: no signature covers the {part} of a webhook of {name}"
        ))),
    }
}

fn is_required(settings: &Settings) -> Result<bool, Rejection> {
    let value = settings
        .iter()
        .find(|(key, _)| key == REQUIRE)
        .map(|(_, value)| value.trim());
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        // To go on without the check would be the one wrong way to read a misspelt demand for it.
        Some(_) => Err(Rejection::Retry(format!("{REQUIRE} is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};
    use webhook_source::{
        Event, Webhook,
        samples::{SAMPLES, Sample, SampleSecrets},
    };

    use super::*;

    const NOW: i64 = 1_767_225_600;

    fn event(evidence: &str) -> Event {
        event_of(&SAMPLES[0], &[("evidence", evidence)])
    }

    fn event_of(sample: &Sample, more: &[(&str, &str)]) -> Event {
        let signed = sample.signed(sample.body.as_bytes(), NOW);
        let mut headers = HeaderMap::new();
        for (name, value) in sample.all_headers(&signed) {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let webhook = Webhook {
            path_tenant: sample.path.strip_prefix('/'),
            headers: &headers,
            body: &signed.body,
        };
        sample.source(more).events(webhook, NOW).unwrap().remove(0)
    }

    fn checked(require: Option<&str>, event: &Event) -> Result<(), Rejection> {
        let mut settings: Settings = SAMPLES.iter().flat_map(Sample::source_settings).collect();
        settings.extend(require.map(|value| (REQUIRE.to_owned(), value.to_owned())));
        let extensions: Vec<_> = event.extensions.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let claim = Claim {
            source: &event.source,
            tenant: &event.tenant,
            event_type: &event.event_type,
            id: &event.id,
            extensions: &extensions,
            data: &event.data,
            stored_at: NOW * 1_000_000_000,
        };
        check(&settings, &SampleSecrets, &claim)
    }

    #[test]
    fn what_is_proven_counts_and_nothing_else_does() {
        let proven = event("keep");
        assert_eq!(checked(Some("true"), &proven), Ok(()));
        for change in [
            |event: &mut Event| event.data.push(b' '),
            |event: &mut Event| event.tenant = "globex".to_owned(),
            |event: &mut Event| event.extensions.clear(),
            |event: &mut Event| event.source = "billing".to_owned(),
        ] {
            let mut other = proven.clone();
            change(&mut other);
            let refused = checked(Some("true"), &other);
            assert!(
                matches!(&refused, Err(Rejection::DeadLetter(why)) if why.starts_with("not proven: ")),
                "{refused:?}"
            );
            assert_eq!(checked(None, &other), Ok(()));
        }
        assert!(checked(Some("true"), &event("none")).is_err());
    }

    #[test]
    fn a_tenant_or_a_type_that_nobody_signed_is_not_proven() {
        for (scheme, part) in [("github", "tenant"), ("shopify", "tenant")] {
            let sample = SAMPLES.into_iter().find(|sample| sample.name() == scheme).unwrap();
            let event = event_of(&sample, &[("evidence", "keep")]);
            let expected = format!("not proven: no signature covers the {part} of a webhook of {scheme}");
            assert_eq!(checked(Some("true"), &event), Err(Rejection::DeadLetter(expected)));
        }
    }

    #[test]
    fn what_the_operator_can_mend_is_tried_again() {
        let mut other = event("keep");
        assert!(matches!(checked(Some("yes"), &other), Err(Rejection::Retry(_))));
        other.source = "/webhooks/other".to_owned();
        let refused = checked(Some("true"), &other);
        assert!(
            matches!(&refused, Err(Rejection::Retry(why)) if why.contains("source.other")),
            "{refused:?}"
        );
    }
}
