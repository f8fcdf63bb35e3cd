//! What commonly goes wrong between a sender and a file: tried, so that what is said is true.

use std::borrow::Cow;

use webhook_signature::{InvalidKey, InvalidKeys, Keys, Refusal, RefusalKind, Scheme};

use super::attempt::{Attempt, is_out_of_time};
use super::layout;

/// The parameter that takes the place of the request's URL.
const URL: &str = "notification-url";

/// Says what would have verified.
pub(super) fn find(attempt: &Attempt<'_>, keys: &Keys, refusal: &Refusal) -> Option<Cow<'static, str>> {
    if is_out_of_time(refusal) {
        return Some("the signature itself is right: give --now or --tolerance to check one of another time".into());
    }
    let found = body(attempt, keys)
        .or_else(|| url(attempt))
        .or_else(|| secret(attempt))
        .map(Cow::Borrowed)
        .or_else(|| other_scheme(attempt));
    if found.is_some() || refusal.kind() == RefusalKind::Malformed {
        return found;
    }
    untried(attempt, refusal).map(Cow::Borrowed)
}

/// Says what is wrong with a secret that can't be read at all.
pub(super) fn unreadable(attempt: &Attempt<'_>, error: &InvalidKeys) -> Option<&'static str> {
    if let InvalidKeys::Key {
        source: InvalidKey::Short,
        ..
    } = error
    {
        return Some("--allow-short-secret takes it all the same");
    }
    secret(attempt)
}

/// What may have become of the body since it came.
fn body(attempt: &Attempt<'_>, keys: &Keys) -> Option<&'static str> {
    let body = &*attempt.body;
    let signed = |body: &[u8]| attempt.with_body(body.to_vec()).is_signed_by(keys);
    let without_newline = body
        .strip_suffix(b"\n")
        .map(|body| body.strip_suffix(b"\r").unwrap_or(body));
    if without_newline.is_some_and(signed) {
        return Some("it verifies without the newline at the end: the file is not the body as it came");
    }
    if signed(&[body, b"\n"].concat()) {
        return Some("it verifies with a newline at the end: the file is not the body as it came");
    }
    const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
    if body.strip_prefix(BYTE_ORDER_MARK).is_some_and(signed) {
        return Some("it verifies without the byte order mark at its beginning: an editor put that before it");
    }
    let text = String::from_utf8_lossy(body);
    if text.contains("\r\n") && signed(text.replace("\r\n", "\n").as_bytes()) {
        return Some("it verifies with newlines alone: something has put a carriage return before each of them");
    }
    if !text.contains('\r') && text.contains('\n') && signed(text.replace('\n', "\r\n").as_bytes()) {
        return Some("it verifies with carriage returns before its newlines: something has taken those away");
    }
    if layout::finds(body, signed) {
        return Some(
            "it verifies as JSON that is laid out otherwise, such as without spaces: something has formatted the body since \
             it came",
        );
    }
    None
}

/// What the URL may be instead.
fn url(attempt: &Attempt<'_>) -> Option<&'static str> {
    if !attempt.scheme.covers_url() {
        return None;
    }
    let parameter = attempt.parameters.iter().position(|(name, _)| *name == URL);
    let given = match parameter {
        Some(index) => &attempt.parameters[index].1,
        None => attempt.url.as_ref()?,
    };
    let signed = |url: String| {
        let mut other = attempt.clone();
        match parameter {
            Some(index) => other.parameters[index].1 = url.into(),
            None => other.url = Some(url.into()),
        }
        other.is_signed()
    };
    let other_slash = match given.strip_suffix('/') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{given}/"),
    };
    if signed(other_slash) {
        return Some("it verifies with the slash at the end of the URL the other way");
    }
    let other_scheme = match given.split_once("://") {
        Some(("http", rest)) => Some(format!("https://{rest}")),
        Some(("https", rest)) => Some(format!("http://{rest}")),
        _ => None,
    };
    if other_scheme.is_some_and(signed) {
        return Some("it verifies with http and https the other way: it is the URL that the sender was given");
    }
    if let Some((before, _)) = given.split_once('?')
        && signed(before.to_owned())
    {
        return Some("it verifies without what follows the `?` in the URL");
    }
    None
}

/// What may stand in the file beside the secret.
fn secret(attempt: &Attempt<'_>) -> Option<&'static str> {
    if attempt.scheme == Scheme::Paypal {
        return None;
    }
    let secret = &*attempt.secret;
    let signed = |secret: String| attempt.with_secret(secret).is_signed();
    let each_line = |change: &dyn Fn(&str) -> String| {
        let lines: Vec<_> = secret.lines().map(change).filter(|line| !line.is_empty()).collect();
        lines.join("\n")
    };
    if secret.starts_with('\u{feff}') && signed(secret.trim_start_matches('\u{feff}').to_owned()) {
        return Some("it verifies with the secret without the byte order mark before it");
    }
    if signed(each_line(&|line| line.trim().to_owned())) {
        return Some("it verifies without the blanks or empty lines around the secret: a secret counts as it stands");
    }
    if signed(secret.split_whitespace().collect::<Vec<_>>().join("\n")) {
        return Some("it verifies with one of the words in the secret's file: several secrets are several lines");
    }
    let unquoted = |line: &str| {
        let line = line.trim();
        let inner = |quote| line.strip_prefix(quote)?.strip_suffix(quote);
        inner('"').or_else(|| inner('\'')).unwrap_or(line).to_owned()
    };
    if signed(each_line(&unquoted)) {
        return Some("it verifies with the secret without the quotes around it");
    }
    if signed(each_line(&|line| {
        line.split_once('=').map_or("", |(_, value)| value).to_owned()
    })) {
        return Some(
            "it verifies with what follows the `=` in the secret's file: the file holds the secret and nothing else",
        );
    }
    if signed(each_line(&|line| line.trim_start_matches("v1,").to_owned())) {
        return Some("it verifies without the `v1,` before the secret");
    }
    let marked = |line: &str| match line.strip_prefix("whsec_") {
        Some(rest) => rest.to_owned(),
        None => format!("whsec_{line}"),
    };
    if signed(each_line(&marked)) {
        return Some("it verifies with `whsec_` before the secret the other way");
    }
    None
}

/// Whether the webhook is one of another scheme.
fn other_scheme(attempt: &Attempt<'_>) -> Option<Cow<'static, str>> {
    let is_signed = |scheme: &Scheme| {
        let known = |name: &str| scheme.parameters().iter().any(|parameter| parameter.name == name);
        let mut other = attempt.clone();
        other.scheme = *scheme;
        other.parameters.retain(|(name, _)| known(name));
        *scheme != attempt.scheme && other.is_signed()
    };
    let scheme = Scheme::ALL.into_iter().find(is_signed)?;
    Some(format!("it verifies as one of another scheme: --scheme {scheme}").into())
}

/// What could not be tried, and is common where nothing else fits.
fn untried(attempt: &Attempt<'_>, refusal: &Refusal) -> Option<&'static str> {
    let has = |name: &str| {
        attempt
            .headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    match attempt.scheme {
        Scheme::Github if has("x-hub-signature") && !has("x-hub-signature-256") => {
            Some("X-Hub-Signature is GitHub's older signature, by SHA-1: give X-Hub-Signature-256, which comes with it")
        }
        Scheme::Paypal if *refusal == Refusal::SignatureMismatch => Some(
            "PayPal may have a new certificate: fetch the one that the header PAYPAL-CERT-URL names with \
             `fanout webhook certificate`, and verify with that",
        ),
        Scheme::Adyen | Scheme::Braintree | Scheme::Basic => None,
        _ if *refusal == Refusal::SignatureMismatch && layout::is_for_people(&attempt.body) => Some(
            "no key signed these bytes. The body is JSON that stands in lines or with spaces: if something has formatted it \
             since it came, verify the bytes as they came",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use webhook_signature::{SigningKey, Unsigned, sign};

    use super::*;

    const SECRET: &str = "a secret for tests only";
    const URL_SENT: &str = "https://e.org/a/";
    const BODY: &str = r#"{"z":1,"a":[true]}"#;
    const NOW: i64 = 1_767_225_600;

    /// What a sender sent, and what somebody has in hand of it.
    struct Sent {
        scheme: Scheme,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    }

    impl Sent {
        fn with(scheme: Scheme, secret: &str, body: &str) -> Self {
            let key = SigningKey::parse(scheme, secret).unwrap();
            let webhook = Unsigned {
                id: "msg_1",
                timestamp: NOW,
                body: body.as_bytes(),
                url: Some(URL_SENT),
            };
            let signed = sign(&key, &webhook).unwrap();
            Self {
                scheme,
                headers: signed.headers,
                body: signed.body.into_owned(),
            }
        }

        /// The hint for what was changed of it.
        fn hint(&self, secret: &str, change: impl FnOnce(&mut Attempt<'_>)) -> String {
            let mut attempt = Attempt {
                scheme: self.scheme,
                secret: secret.into(),
                parameters: Vec::new(),
                headers: self
                    .headers
                    .iter()
                    .map(|(name, value)| (*name, value.as_bytes()))
                    .collect(),
                url: Some(URL_SENT.into()),
                body: self.body.as_slice().into(),
                now: NOW,
                tolerance: Duration::from_secs(300),
                allow_short_secret: false,
            };
            change(&mut attempt);
            let keys = match attempt.keys() {
                Ok(keys) => keys,
                Err(error) => return unreadable(&attempt, &error).unwrap_or_default().to_owned(),
            };
            let refusal = webhook_signature::verify(&keys, &attempt.request(), attempt.now, attempt.tolerance);
            find(&attempt, &keys, &refusal.unwrap_err())
                .unwrap_or_default()
                .into_owned()
        }
    }

    #[test]
    fn what_became_of_the_body_is_said() {
        for late in [0, 9_999] {
            let sent = |body| Sent::with(Scheme::Stripe, SECRET, body);
            for (body, in_hand, word) in [
                (BODY, "{\"z\":1,\"a\":[true]}\n", "without the newline"),
                (BODY, "{\"z\":1,\"a\":[true]}\r\n", "without the newline"),
                ("{}\n", "{}", "with a newline"),
                (BODY, "\u{feff}{\"z\":1,\"a\":[true]}", "byte order mark"),
                ("a\nb\n", "a\r\nb\r\n", "newlines alone"),
                ("a\r\nb", "a\nb", "carriage returns before"),
                (
                    BODY,
                    "{\n  \"z\": 1,\n  \"a\": [\n    true\n  ]\n}",
                    "formatted the body",
                ),
                (BODY, "{\"a\":[true],\"z\":1}", "formatted the body"),
                (BODY, "{ \"a\": [ true ], \"z\": 2 }", "if something has formatted it"),
                (BODY, "{\"z\":2}", ""),
            ] {
                let hint = sent(body).hint(SECRET, |attempt| {
                    attempt.body = in_hand.as_bytes().into();
                    // A body that a key did sign may be out of time too.
                    attempt.now = NOW + late;
                });
                assert!(
                    hint.contains(word) && word.is_empty() == hint.is_empty(),
                    "{in_hand:?}: {hint:?}"
                );
            }
        }
        let late = Sent::with(Scheme::Stripe, SECRET, BODY).hint(SECRET, |attempt| attempt.now += 301);
        assert!(late.contains("--tolerance"), "{late}");
    }

    #[test]
    fn the_url_is_tried_where_it_was_given() {
        let sent = Sent::with(Scheme::Square, SECRET, BODY);
        for (url, word) in [
            ("https://e.org/a", "slash"),
            ("http://e.org/a/", "http and https"),
            ("https://e.org/a/?x=y", "`?`"),
            ("https://e.org/b/", ""),
        ] {
            let given = sent.hint(SECRET, |attempt| attempt.url = Some(url.into()));
            let parameter = sent.hint(SECRET, |attempt| attempt.parameters = vec![(URL, url.into())]);
            for hint in [given, parameter] {
                assert!(
                    hint.contains(word) && word.is_empty() == hint.is_empty(),
                    "{url}: {hint:?}"
                );
            }
        }
    }

    #[test]
    fn what_stands_beside_the_secret_is_said_and_the_secret_is_not() {
        let standard = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let stripe = "whsec_0123456789abcdef";
        for (scheme, secret, file, word) in [
            (
                Scheme::Github,
                SECRET,
                " a secret for tests only \n",
                "counts as it stands",
            ),
            (
                Scheme::Github,
                SECRET,
                "a secret for tests only\n\n",
                "counts as it stands",
            ),
            (
                Scheme::Github,
                SECRET,
                "\u{feff}a secret for tests only\n",
                "byte order mark",
            ),
            (Scheme::Github, SECRET, "\"a secret for tests only\"", "quotes"),
            (Scheme::Github, SECRET, "SECRET=a secret for tests only\n", "`=`"),
            (
                Scheme::Stripe,
                stripe,
                "whsec_a_newer_secret_000 whsec_0123456789abcdef\n",
                "several lines",
            ),
            (Scheme::Stripe, stripe, "0123456789abcdef", "`whsec_`"),
            (
                Scheme::StandardWebhooks,
                standard,
                "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "`v1,`",
            ),
            (
                Scheme::StandardWebhooks,
                standard,
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw \n",
                "counts as it stands",
            ),
            (Scheme::Github, "another secret for tests", SECRET, ""),
        ] {
            let hint = Sent::with(scheme, secret, BODY).hint(file, |_| {});
            assert!(
                hint.contains(word) && word.is_empty() == hint.is_empty(),
                "{file:?}: {hint:?}"
            );
            assert!(!hint.contains("MfKQ") && !hint.contains("0123"), "{hint}");
        }
        let short = Sent::with(Scheme::Github, SECRET, BODY).hint("short", |_| {});
        assert!(short.contains("--allow-short-secret"), "{short}");
    }

    #[test]
    fn another_scheme_is_said() {
        let hexadecimal = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056";
        let sent = Sent::with(Scheme::AdyenBalance, hexadecimal, BODY);
        let hint = sent.hint(hexadecimal, |attempt| attempt.scheme = Scheme::Github);
        assert!(hint.ends_with("--scheme adyen-balance"), "{hint}");
        let old = Sent::with(Scheme::Github, SECRET, BODY).hint(SECRET, |attempt| {
            attempt.headers = vec![("X-Hub-Signature", b"sha1=00")];
        });
        assert!(old.contains("X-Hub-Signature-256"), "{old}");
    }
}
