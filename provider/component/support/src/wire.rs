//! Values as wRPC writes them: integers as LEB128, lists and texts by their length, variants by their number.
//!
//! What is read comes from a bus, and is bounded all the same: nothing is allocated for more values than there are bytes left.

/// A value that can be written.
pub trait Encode {
    /// Appends the value.
    fn encode(&self, out: &mut Vec<u8>);
}

/// A value that can be read.
pub trait Decode: Sized {
    /// Reads the value.
    ///
    /// # Errors
    /// When the bytes are no such value.
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// Bytes that are no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

/// Writes values, such as the parameters of a call.
pub fn encode(value: &impl Encode) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    value.encode(&mut out);
    out
}

/// Reads a value that is all there is.
///
/// # Errors
/// When the bytes are no such value, or more than one.
pub fn decode<T: Decode>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut reader = Reader(bytes);
    let value = T::decode(&mut reader)?;
    match reader.0 {
        [] => Ok(value),
        _ => Err(Malformed),
    }
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number that counts what follows, each of which takes a byte at least.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(u64::decode(self)?).map_err(|_| Malformed)?;
        (count <= self.0.len()).then_some(count).ok_or(Malformed)
    }

    /// The number of a variant's case.
    ///
    /// # Errors
    /// When there is no number.
    pub fn case(&mut self) -> Result<u32, Malformed> {
        u32::decode(self)
    }
}

/// The number of a variant's case.
pub fn encode_case(case: u32, out: &mut Vec<u8>) {
    case.encode(out);
}

impl Encode for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            out.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
}

impl Decode for u64 {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = from.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has one bit.
            if shift == 63 && bits > 1 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

impl Encode for u32 {
    fn encode(&self, out: &mut Vec<u8>) {
        u64::from(*self).encode(out);
    }
}

impl Decode for u32 {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        u64::decode(from)?.try_into().map_err(|_| Malformed)
    }
}

impl Encode for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        let mut rest = *self;
        loop {
            let byte = (rest & 0x7f) as u8;
            rest >>= 7;
            // What is left is the sign, which the last byte shows.
            if (rest == 0 && byte & 0x40 == 0) || (rest == -1 && byte & 0x40 != 0) {
                out.push(byte);
                return;
            }
            out.push(byte | 0x80);
        }
    }
}

impl Decode for i64 {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut value = 0_i64;
        for shift in (0..64).step_by(7) {
            let byte = from.byte()?;
            value |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let is_negative = byte & 0x40 != 0;
                return Ok(match (is_negative, shift + 7 < 64) {
                    (true, true) => value | (-1 << (shift + 7)),
                    _ => value,
                });
            }
        }
        Err(Malformed)
    }
}

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Decode for bool {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl Encode for str {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.len() as u64).encode(out);
        out.extend_from_slice(self.as_bytes());
    }
}

impl Encode for String {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Decode for String {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = Vec::<u8>::decode(from)?;
        Self::from_utf8(bytes).map_err(|_| Malformed)
    }
}

/// `list<u8>`.
impl Encode for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.len() as u64).encode(out);
        out.extend_from_slice(self);
    }
}

impl Decode for Vec<u8> {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = from.count()?;
        Ok(from.take(count)?.to_vec())
    }
}

impl<T: Encode> Encode for [T] {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.len() as u64).encode(out);
        for value in self {
            value.encode(out);
        }
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_slice().encode(out);
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        // Grown as values come: a value is larger here than there.
        let count = from.count()?;
        let mut values = Self::new();
        for _ in 0..count {
            values.push(T::decode(from)?);
        }
        Ok(values)
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match bool::decode(from)? {
            true => Some(T::decode(from)?),
            false => None,
        })
    }
}

impl<T: Decode, E: Decode> Decode for Result<T, E> {
    fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match bool::decode(from)? {
            false => Ok(T::decode(from)?),
            true => Err(E::decode(from)?),
        })
    }
}

impl<T: Encode, E: Encode> Encode for Result<T, E> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_err().encode(out);
        match self {
            Ok(value) => value.encode(out),
            Err(value) => value.encode(out),
        }
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

macro_rules! tuples {
    ($(($($name:ident $place:tt),*))*) => {$(
        impl<$($name: Encode),*> Encode for ($($name,)*) {
            #[allow(unused_variables, reason = "the empty one writes nothing")]
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$place.encode(out);)*
            }
        }
    )*};
}

tuples! {
    ()
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
}

impl Decode for () {
    fn decode(_: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_the_bytes_of_leb128() {
        for (number, bytes) in [
            (0_i64, vec![0]),
            (63, vec![0x3f]),
            (64, vec![0xc0, 0]),
            (-1, vec![0x7f]),
            (-64, vec![0x40]),
            (-65, vec![0xbf, 0x7f]),
        ] {
            assert_eq!(encode(&number), bytes, "{number}");
        }
        for number in [
            0,
            1,
            -1,
            1 << 40,
            -(1 << 40),
            i64::MAX,
            i64::MIN,
            1_760_000_000_000_000_000,
        ] {
            assert_eq!(decode::<i64>(&encode(&number)), Ok(number));
        }
        for number in [0, 127, 128, 300, u64::MAX] {
            assert_eq!(decode::<u64>(&encode(&number)), Ok(number));
        }
    }

    #[test]
    fn what_is_no_value_is_refused_and_no_memory_is_taken_for_it() {
        // A list of four thousand million texts, in five bytes.
        assert_eq!(decode::<Vec<String>>(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Err(Malformed));
        assert_eq!(decode::<String>(&[2, b'a']), Err(Malformed));
        assert_eq!(decode::<String>(&[1, 0xff]), Err(Malformed));
        assert_eq!(decode::<bool>(&[2]), Err(Malformed));
        assert_eq!(decode::<bool>(&[1, 1]), Err(Malformed), "more than one value");
        assert_eq!(decode::<u64>(&[0x80; 11]), Err(Malformed));
        assert_eq!(decode::<u32>(&encode(&u64::MAX)), Err(Malformed));
    }
}
