//! Numbers of JSON, compared by their decimal value: 300, 300.0 and 3.0e2 are one number, and no digit is lost.

use std::cmp::Ordering;

/// The exponents that a number of a pattern may have, as `f64` has them: from 1e-324 up to 1.8e308.
const EXPONENTS: std::ops::RangeInclusive<i64> = -323..=309;

/// Beyond this an exponent is not counted on. No pattern holds such a number, so that it is only known to be larger, or
/// nearer to zero, than each that a pattern holds.
const FARTHEST: i64 = 1 << 60;

/// A decimal number: its sign, and 0.d₁d₂d₃… times ten to its exponent. Zero has no digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Decimal {
    negative: bool,
    exponent: i64,
    /// Without zeros at either end.
    digits: Box<[u8]>,
}

impl Decimal {
    /// The value of a number as JSON writes it.
    pub(super) fn of(number: &str) -> Self {
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        let leading = digits().take_while(|d| *d == b'0').count();
        let mut digits: Vec<u8> = digits().skip(leading).collect();
        digits.truncate(digits.iter().rposition(|d| *d != b'0').map_or(0, |last| last + 1));
        if digits.is_empty() {
            return Self {
                negative: false,
                exponent: 0,
                digits: Box::default(),
            };
        }
        let point = i64::try_from(whole.len()).unwrap_or(FARTHEST) - i64::try_from(leading).unwrap_or(FARTHEST);
        Self {
            negative,
            exponent: exponent_of(exponent) + point,
            digits: digits.into(),
        }
    }

    /// Whether a pattern may hold it.
    pub(super) fn is_in_range(&self) -> bool {
        EXPONENTS.contains(&self.exponent)
    }

    /// Zero lies between the negative and the positive.
    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }
}

/// An exponent as it is written, no farther than [`FARTHEST`].
fn exponent_of(written: &str) -> i64 {
    let far = if written.starts_with('-') { -FARTHEST } else { FARTHEST };
    written.parse().unwrap_or(far).clamp(-FARTHEST, FARTHEST)
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sign().cmp(&other.sign()).then_with(|| {
            let magnitudes = (self.exponent, &self.digits).cmp(&(other.exponent, &other.digits));
            if self.negative {
                magnitudes.reverse()
            } else {
                magnitudes
            }
        })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// From one number to another; an end that is `None` is open for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The lowest, and whether it is one of them.
    pub(super) from: Option<(Decimal, bool)>,
    /// The highest, and whether it is one of them.
    pub(super) to: Option<(Decimal, bool)>,
}

impl Range {
    /// Whether a number is one of these.
    pub(super) fn holds(&self, number: &Decimal) -> bool {
        let above = self.from.as_ref().is_none_or(|(from, also)| match number.cmp(from) {
            Ordering::Less => false,
            Ordering::Equal => *also,
            Ordering::Greater => true,
        });
        above
            && self.to.as_ref().is_none_or(|(to, also)| match number.cmp(to) {
                Ordering::Less => true,
                Ordering::Equal => *also,
                Ordering::Greater => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_number_is_written_in_many_ways() {
        for same in [
            &["300", "300.0", "3.0e2", "3E+2", "0.3e3", "30000e-2"][..],
            &["0", "-0", "0.0", "0e999999999999999999999", "-0.00e-7"],
            &["-1.50", "-15e-1", "-0.15E1"],
            &["0.001", "1e-3"],
            &["9007199254740993", "9.007199254740993e15"],
        ] {
            for other in same {
                assert_eq!(Decimal::of(same[0]), Decimal::of(other), "{} and {other}", same[0]);
            }
        }
    }

    #[test]
    fn the_order_is_that_of_the_values() {
        let rising = [
            "-1e999999999999999999999",
            "-1e308",
            "-10.5",
            "-10",
            "-0.1",
            "-1e-400",
            "0",
            "1e-99999999999999999999",
            "1e-324",
            "0.1",
            "0.10000000000000000000000001",
            "1",
            "9.99",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e308",
            "1e99999999999999999999",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (j, b) in rising.iter().enumerate() {
                assert_eq!(Decimal::of(a).cmp(&Decimal::of(b)), i.cmp(&j), "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_pattern_holds_what_a_double_can_reach() {
        for (number, may) in [
            ("1e-324", true),
            ("1e-325", false),
            ("1E-320", true),
            ("1.7e308", true),
            ("1e310", false),
            ("0", true),
        ] {
            assert_eq!(Decimal::of(number).is_in_range(), may, "{number}");
        }
    }

    proptest! {
        #[test]
        fn integers_compare_as_integers(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(Decimal::of(&a.to_string()).cmp(&Decimal::of(&b.to_string())), a.cmp(&b));
        }

        #[test]
        fn a_number_is_the_same_with_its_point_moved(whole in any::<i32>(), shift in 0_u32..12) {
            let moved = format!("{}e-{shift}", i128::from(whole) * 10_i128.pow(shift));
            prop_assert_eq!(Decimal::of(&whole.to_string()), Decimal::of(&moved));
        }
    }
}
