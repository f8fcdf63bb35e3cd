//! Signatures as text: one text for each value, so that no changed bit of a signature goes unnoticed.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Reads bytes in lower-case hexadecimal, exactly `N` of them.
pub(crate) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Reads bytes in canonical base64, exactly `N` of them, which may be up to 64.
pub(crate) fn base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The decoder asks for room for whole groups.
    let mut buffer = [0; 66];
    let len = STANDARD.decode_slice(text, &mut buffer).ok()?;
    buffer[..len].try_into().ok()
}

/// Writes bytes in base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_lower_case_and_of_full_length() {
        let text = "ab".repeat(32);
        assert_eq!(hex(&text), Some([0xab; 32]));
        assert_eq!(hex::<32>(&text.to_uppercase()), None);
        assert_eq!(hex::<32>(&text[2..]), None);
        assert_eq!(hex::<32>(&format!("{text}ab")), None);
        assert_eq!(hex::<32>(&text.replace('a', "g")), None);
        assert_eq!(hex::<32>(""), None);
    }

    #[test]
    fn base64_is_canonical_and_of_full_length() {
        let text = to_base64(&[0xab; 32]);
        assert_eq!(base64(&text), Some([0xab; 32]));
        assert_eq!(base64(&to_base64(&[0xab; 64])), Some([0xab; 64]));
        for text in [
            "",
            &text[4..],
            &format!("q6ur{text}"),
            &text.replace('=', ""),
            &text.replace("s=", "t="),
            &text.replace('q', "-"),
            &format!("{text} "),
            &to_base64(&[0; 67]),
        ] {
            assert_eq!(base64::<32>(text), None, "{text}");
        }
    }
}
