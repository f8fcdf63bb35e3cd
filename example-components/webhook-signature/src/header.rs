//! Reading a header that a signature depends on.

use crate::{Refusal, Request};

/// The longest header value that is looked at.
const MAX_LEN: usize = 4096;

/// The value of a header that must be there once, in visible ASCII.
///
/// A repeated header is refused: a proxy in front may have looked at the other one.
pub(crate) fn only<'a>(request: &Request<'a>, header: &'static str) -> Result<&'a str, Refusal> {
    let mut values = values(request, header);
    let value = values.next().ok_or(Refusal::MissingHeader { header })?;
    if values.next().is_some() {
        return Err(Refusal::RepeatedHeader { header });
    }
    text(header, value)
}

/// The one of several names of a header that came: a vendor calls it otherwise than before. Both at once are refused, as who
/// looked at the one may not have seen the other.
pub(crate) fn one_of(request: &Request<'_>, names: &'static [&'static str]) -> Result<&'static str, Refusal> {
    let mut present = names.iter().copied().filter(|name| is_present(request, name));
    match (present.next(), present.next()) {
        (Some(header), None) => Ok(header),
        (Some(header), Some(other)) => Err(Refusal::MixedHeaders { header, other }),
        (None, _) => Err(Refusal::MissingHeader {
            header: names.first().copied().unwrap_or_default(),
        }),
    }
}

/// The values of a header that may come more than once, each in visible ASCII.
pub(crate) fn each<'a>(request: &Request<'a>, header: &'static str) -> impl Iterator<Item = Result<&'a str, Refusal>> {
    values(request, header).map(move |value| text(header, value))
}

/// Whether the header is there.
fn is_present(request: &Request<'_>, header: &str) -> bool {
    values(request, header).next().is_some()
}

fn values<'a>(request: &Request<'a>, header: &str) -> impl Iterator<Item = &'a [u8]> {
    request
        .headers
        .iter()
        .filter(move |(name, _)| name.eq_ignore_ascii_case(header))
        .map(|&(_, value)| value)
}

fn text<'a>(header: &'static str, value: &'a [u8]) -> Result<&'a str, Refusal> {
    let malformed = |problem| Refusal::MalformedHeader { header, problem };
    if value.len() > MAX_LEN {
        return Err(malformed("it is longer than 4,096 bytes"));
    }
    if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(malformed("it holds characters other than visible ASCII"));
    }
    std::str::from_utf8(value).map_err(|_| malformed("it holds characters other than visible ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "x-signature";

    fn check(headers: &[(&str, &[u8])]) -> Result<String, Refusal> {
        only(&Request::new(headers, b""), NAME).map(str::to_owned)
    }

    #[test]
    fn a_header_is_found_in_any_case() {
        assert_eq!(check(&[("host", b"a"), ("X-Signature", b"abc")]), Ok("abc".to_owned()));
    }

    #[test]
    fn a_header_must_be_there_once() {
        assert_eq!(check(&[("host", b"a")]), Err(Refusal::MissingHeader { header: NAME }));
        for second in ["abc", "other"] {
            let twice = [(NAME, "abc".as_bytes()), ("X-SIGNATURE", second.as_bytes())];
            assert_eq!(check(&twice), Err(Refusal::RepeatedHeader { header: NAME }), "{second}");
        }
    }

    #[test]
    fn of_two_names_one_is_there() {
        const NAMES: &[&str] = &["x-signature", "signature"];
        let check = |headers: &[(&str, &[u8])]| one_of(&Request::new(headers, b""), NAMES);
        assert_eq!(check(&[("Signature", b"a"), ("host", b"b")]), Ok("signature"));
        assert_eq!(check(&[("X-Signature", b"a")]), Ok("x-signature"));
        assert_eq!(check(&[]), Err(Refusal::MissingHeader { header: NAME }));
        let other = "signature";
        for value in [&b"a"[..], b""] {
            assert_eq!(
                check(&[("signature", b"a"), ("x-signature", value)]),
                Err(Refusal::MixedHeaders { header: NAME, other })
            );
        }
    }

    #[test]
    fn a_header_is_short_visible_ascii() {
        for value in [&[b'a'; MAX_LEN + 1][..], b"a\n", b"a\0", b"\xff", "é".as_bytes()] {
            let refusal = check(&[(NAME, value)]).unwrap_err();
            assert!(
                matches!(refusal, Refusal::MalformedHeader { header: NAME, .. }),
                "{refusal:?}"
            );
        }
        assert!(check(&[(NAME, &[b'a'; MAX_LEN])]).is_ok());
    }
}
