//! Sets of small numbers: of the alternatives of a pattern, and of its fields.

/// A set of numbers below a size that it was made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(Box<[u64]>);

const BITS: usize = 64;

impl Set {
    /// The empty one, for numbers below `size`.
    pub(super) fn none(size: usize) -> Self {
        Self(vec![0; size.div_ceil(BITS)].into())
    }

    /// All numbers below `size`.
    pub(super) fn all(size: usize) -> Self {
        let mut set = Self::none(size);
        for i in 0..size {
            set.insert(i);
        }
        set
    }

    pub(super) fn insert(&mut self, i: usize) {
        if let Some(word) = self.0.get_mut(i / BITS) {
            *word |= 1 << (i % BITS);
        }
    }

    pub(super) fn remove(&mut self, i: usize) {
        if let Some(word) = self.0.get_mut(i / BITS) {
            *word &= !(1 << (i % BITS));
        }
    }

    pub(super) fn holds(&self, i: usize) -> bool {
        self.0.get(i / BITS).is_some_and(|word| word >> (i % BITS) & 1 == 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many machine words it takes, which is what one operation costs.
    pub(super) fn words(&self) -> usize {
        self.0.len()
    }

    /// Becomes the other, which is of the same size.
    pub(super) fn set(&mut self, other: &Self) {
        self.0.copy_from_slice(&other.0);
    }

    pub(super) fn clear(&mut self) {
        self.0.fill(0);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.each(other, |mine, theirs| mine | theirs);
    }

    pub(super) fn keep(&mut self, other: &Self) {
        self.each(other, |mine, theirs| mine & theirs);
    }

    pub(super) fn take_out(&mut self, other: &Self) {
        self.each(other, |mine, theirs| mine & !theirs);
    }

    fn each(&mut self, other: &Self, operation: impl Fn(u64, u64) -> u64) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = operation(*mine, *theirs);
        }
    }

    /// The numbers, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(i, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(i * BITS + bit as usize)
            })
        })
    }
}
