//! Durations and sizes in settings: a whole number and its unit, such as `300s` or `256KiB`.

use std::time::Duration;

/// Reads a duration in `s`, `m`, `h` or `d`.
pub fn duration(text: &str) -> Option<Duration> {
    let seconds = scaled(text, &[("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)])?;
    Some(Duration::from_secs(seconds))
}

/// Reads a size in `B`, `KiB` or `MiB`.
pub fn size(text: &str) -> Option<usize> {
    let bytes = scaled(text, &[("KiB", 1 << 10), ("MiB", 1 << 20), ("B", 1)])?;
    usize::try_from(bytes).ok()
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_a_unit() {
        assert_eq!(duration("300s"), Some(Duration::from_secs(300)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3_600)));
        assert_eq!(duration("1d"), Some(Duration::from_secs(86_400)));
        assert_eq!(size("256KiB"), Some(262_144));
        assert_eq!(size("1MiB"), Some(1_048_576));
        assert_eq!(size("7B"), Some(7));
    }

    #[test]
    fn anything_else_is_nothing() {
        for text in [
            "",
            "s",
            "300",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1ms",
            "1S",
            "999999999999999999d",
            "99999999999999999999s",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
        for text in ["", "B", "1", "1KB", "1kib", "1GiB", "-1B", "18446744073709551615MiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }
}
