//! What the parameters of a function look like on the wire, so that they can be judged before anything is made of them.
//!
//! A decoder takes memory for what a peer claims: an empty string is one byte on the wire and dozens decoded, a list of
//! them a hundredfold. So the bytes are walked first, by a shape that has the limit of each list. The
//! walk takes no memory that depends on the bytes; it can stop where they end and go on when more have come.

use crate::Error;

/// The longest number on the wire: 64 bits, seven a byte.
const MAX_NUMBER_BYTES: usize = 10;

/// A type as wRPC encodes its values.
#[derive(Debug)]
pub enum Shape {
    /// `bool`, `u8`, `s8`.
    Byte,
    /// Any other integer; an enumeration.
    Number,
    /// `string`, `list<u8>`: bytes behind their number.
    Bytes,
    /// `option`.
    Option(&'static Shape),
    /// A record, a tuple, or parameters one after another.
    Fields(&'static [Shape]),
    /// A variant or a result: what each case holds.
    Cases(&'static [Option<&'static Shape>]),
    /// A list.
    List {
        /// What its elements are called, in the plural.
        of: &'static str,
        /// How many of them there may be.
        most: u32,
        /// One of them.
        item: &'static Shape,
    },
}

/// A list that is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// What its elements are called.
    pub of: &'static str,
    /// How many there are, as the sender claims.
    pub count: u32,
    /// How many there may be.
    pub most: u32,
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walked {
    /// More has to come.
    Part,
    /// All of it is here, in this many bytes.
    Whole(usize),
    TooMany(TooMany),
}

/// A walk over values of one shape.
#[derive(Debug)]
pub(crate) struct Walk {
    /// What is left to pass, the next last. No deeper than the shape.
    left: Vec<Left>,
    at: usize,
}

#[derive(Clone, Copy, Debug)]
enum Left {
    One(&'static Shape),
    Fields(&'static [Shape]),
    Items(u32, &'static Shape),
    Bytes(usize),
}

impl Walk {
    pub(crate) fn new(shape: &'static Shape) -> Self {
        Self {
            left: vec![Left::One(shape)],
            at: 0,
        }
    }

    /// Goes on, over all bytes that have come since the beginning.
    pub(crate) fn on(&mut self, bytes: &[u8]) -> Result<Walked, Error> {
        while let Some(next) = self.left.pop() {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let shape = match next {
                Left::One(shape) => shape,
                Left::Fields([]) | Left::Items(0, _) => continue,
                Left::Fields([first, others @ ..]) => {
                    self.left.push(Left::Fields(others));
                    first
                }
                Left::Items(count, item) => {
                    self.left.push(Left::Items(count - 1, item));
                    item
                }
                Left::Bytes(count) => {
                    let here = count.min(rest.len());
                    self.at += here;
                    if here < count {
                        self.left.push(Left::Bytes(count - here));
                        return Ok(Walked::Part);
                    }
                    continue;
                }
            };
            let (value, used) = match shape {
                Shape::Fields(fields) => {
                    self.left.push(Left::Fields(fields));
                    continue;
                }
                Shape::Byte | Shape::Option(_) => match rest.first() {
                    Some(byte) => (u64::from(*byte), 1),
                    None => return Ok(self.stop(shape)),
                },
                _ => match number(rest)? {
                    Some(number) => number,
                    None => return Ok(self.stop(shape)),
                },
            };
            self.at += used;
            match shape {
                Shape::Byte | Shape::Number | Shape::Fields(_) => {}
                Shape::Bytes => self.left.push(Left::Bytes(length(value)? as usize)),
                Shape::Option(some) => match value {
                    0 => {}
                    1 => self.left.push(Left::One(some)),
                    _ => return Err(Error::Protocol("an option that is neither there nor absent")),
                },
                Shape::Cases(cases) => {
                    let case = usize::try_from(value).ok().and_then(|case| cases.get(case));
                    let case = case.ok_or(Error::Protocol("a variant has no such case"))?;
                    self.left.extend(case.map(Left::One));
                }
                Shape::List { of, most, item } => {
                    let (count, most) = (length(value)?, *most);
                    if count > most {
                        return Ok(Walked::TooMany(TooMany { of, count, most }));
                    }
                    self.left.push(Left::Items(count, item));
                }
            }
        }
        Ok(Walked::Whole(self.at))
    }

    /// This one is not all there.
    fn stop(&mut self, shape: &'static Shape) -> Walked {
        self.left.push(Left::One(shape));
        Walked::Part
    }
}

/// A number at the front of `bytes` and how long it is; `None` if its end is not there.
pub(crate) fn number(bytes: &[u8]) -> Result<Option<(u64, usize)>, Error> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().take(MAX_NUMBER_BYTES).enumerate() {
        // Of the tenth byte, one bit counts; the sign of a signed number may fill the others.
        value |= u64::from(byte & 0x7f)
            .checked_shl(7 * u32::try_from(i).unwrap_or(u32::MAX))
            .unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() >= MAX_NUMBER_BYTES {
        return Err(Error::Protocol("a number has more than 64 bits"));
    }
    Ok(None)
}

fn length(value: u64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| Error::Protocol("a length has more than 32 bits"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use tokio_util::codec::Decoder as _;
    use wrpc_transport::Decode;

    use super::*;
    use crate::values::encode;

    type Value = (
        Vec<(String, Option<u64>, Vec<String>)>,
        Result<i64, u8>,
        bool,
        bytes::Bytes,
    );

    const SHAPE: Shape = Shape::Fields(&[
        Shape::List {
            of: "records",
            most: 10,
            item: &Shape::Fields(&[
                Shape::Bytes,
                Shape::Option(&Shape::Number),
                Shape::List {
                    of: "texts",
                    most: 3,
                    item: &Shape::Bytes,
                },
            ]),
        },
        Shape::Cases(&[Some(&Shape::Number), Some(&Shape::Byte)]),
        Shape::Byte,
        Shape::Bytes,
    ]);

    fn value() -> impl Strategy<Value = Value> {
        (
            vec((".{0,5}", option::of(any::<u64>()), vec(".{0,3}", 0..4)), 0..11),
            prop_oneof![any::<i64>().prop_map(Ok), any::<u8>().prop_map(Err)],
            any::<bool>(),
            vec(any::<u8>(), 0..300).prop_map(bytes::Bytes::from),
        )
    }

    /// The size of what a decoder would make of it.
    fn walk(bytes: &[u8]) -> Result<Walked, Error> {
        Walk::new(&SHAPE).on(bytes)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_walked_to_its_end(value in value(), step in 1_usize..40) {
            let bytes = encode(value).expect("encodable");
            prop_assert_eq!(walk(&bytes).expect("well formed"), Walked::Whole(bytes.len()));
            let mut walk = Walk::new(&SHAPE);
            for end in (0..bytes.len()).step_by(step) {
                prop_assert_eq!(walk.on(&bytes[..end]).expect("well formed"), Walked::Part);
            }
            prop_assert_eq!(walk.on(&bytes).expect("well formed"), Walked::Whole(bytes.len()));
        }

        #[test]
        fn what_is_walked_to_its_end_is_what_a_decoder_takes(bytes in vec(any::<u8>(), 0..60)) {
            let walked = walk(&bytes);
            let mut decoder = <Value as Decode>::Decoder::default();
            let mut rest = BytesMut::from(&bytes[..]);
            if let Ok(Some(_)) = decoder.decode(&mut rest) {
                match walked {
                    Ok(Walked::Whole(used)) => prop_assert_eq!(used, bytes.len() - rest.len()),
                    Ok(Walked::TooMany(_)) => {}
                    other => prop_assert!(false, "{other:?}, and a decoder takes it"),
                }
            }
        }
    }

    #[test]
    fn a_long_list_is_found_by_its_first_bytes() {
        let texts = TooMany {
            of: "texts",
            count: 4,
            most: 3,
        };
        assert_eq!(walk(b"\x01\x00\x00\x04").expect("counted"), Walked::TooMany(texts));
        let records = TooMany {
            of: "records",
            count: u32::MAX,
            most: 10,
        };
        assert_eq!(
            walk(b"\xff\xff\xff\xff\x0f").expect("counted"),
            Walked::TooMany(records)
        );
        assert!(walk(b"\xff\xff\xff\xff\x1f").is_err(), "more than 32 bits");
        assert!(walk(b"\x00\x02").is_err(), "no such case");
        assert!(walk(b"\x01\x00\x02").is_err(), "no such option");
        assert!(walk(&[0x80; 10]).is_err(), "a number without end");
    }
}
