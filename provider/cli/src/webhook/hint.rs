//! What commonly goes wrong between a sender and a file: tried, so that what is said is true.

use webhook_signature::{Refusal, RefusalKind, Scheme};

/// Says what would have verified. `check` verifies another body or URL with all else as it is.
pub(crate) fn find(
    scheme: Scheme,
    refusal: &Refusal,
    body: &[u8],
    url: Option<&str>,
    check: impl Fn(&[u8], Option<&str>) -> Result<(), Refusal>,
) -> Option<&'static str> {
    if refusal.kind() == RefusalKind::OutOfTime {
        return Some("the signature itself is right: give --now or --tolerance to check one of another time");
    }
    // A body that a key did sign may still be out of time.
    let signed =
        |body: &[u8], url| check(body, url).map_or_else(|refusal| refusal.kind() == RefusalKind::OutOfTime, |()| true);
    let without_newline = body
        .strip_suffix(b"\n")
        .map(|body| body.strip_suffix(b"\r").unwrap_or(body));
    if without_newline.is_some_and(|body| signed(body, url)) {
        return Some("it verifies without the newline at the end: the file is not the body as it came");
    }
    if signed(&[body, b"\n"].concat(), url) {
        return Some("it verifies with a newline at the end: the file is not the body as it came");
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body)
        && signed(value.to_string().as_bytes(), url)
    {
        return Some("it verifies as JSON without spaces: something has formatted the body since it came");
    }
    if let Some(url) = url {
        let other = match url.strip_suffix('/') {
            Some(shorter) => shorter.to_owned(),
            None => format!("{url}/"),
        };
        if signed(body, Some(&other)) {
            return Some("it verifies with the slash at the end of the URL the other way");
        }
    }
    if scheme == Scheme::Paypal && *refusal == Refusal::SignatureMismatch {
        return Some(
            "PayPal may have a new certificate: fetch the one that the header PAYPAL-CERT-URL names with \
             `fanout webhook certificate`, and verify with that",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(
        body: &[u8],
        url: Option<&str>,
        right: (&[u8], Option<&str>),
        found: Result<(), Refusal>,
    ) -> Option<&'static str> {
        find(Scheme::Square, &Refusal::SignatureMismatch, body, url, |body, url| {
            if (body, url) == right {
                found.clone()
            } else {
                Err(Refusal::SignatureMismatch)
            }
        })
    }

    #[test]
    fn what_would_have_verified_is_said() {
        let check = |body: &[u8], right: &[u8], word: &str| {
            for found in [
                Ok(()),
                Err(Refusal::Stale {
                    age_s: 9,
                    tolerance_s: 1,
                }),
            ] {
                let hint = hint(body, None, (right, None), found).unwrap_or_default();
                assert!(hint.contains(word), "{hint}");
            }
        };
        check(b"{}\n", b"{}", "without the newline");
        check(b"{}\r\n", b"{}", "without the newline");
        check(b"{}", b"{}\n", "with a newline");
        check(b"{ \"a\": 1 }", b"{\"a\":1}", "without spaces");
        let url = hint(
            b"{}",
            Some("https://e.org/a"),
            (b"{}", Some("https://e.org/a/")),
            Ok(()),
        );
        assert!(url.is_some_and(|hint| hint.contains("slash")));
        assert_eq!(hint(b"{}", None, (b"other", None), Ok(())), None);
        let nothing = |_: &[u8], _: Option<&str>| Err(Refusal::SignatureMismatch);
        let paypal = find(Scheme::Paypal, &Refusal::SignatureMismatch, b"{}", None, nothing);
        assert!(paypal.is_some_and(|hint| hint.contains("webhook certificate")));
    }
}
