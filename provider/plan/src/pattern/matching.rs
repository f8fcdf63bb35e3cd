//! Matching: one pass over an event, which finds the alternatives of the pattern that match.
//!
//! For each field of the pattern and its value in the event there are two sets of alternatives. *Absent* are those that find
//! nothing there, and want nothing: all of their values at and below the field may be absent, and are. *Present* are those
//! that match with at least one value that is there. In an object both are put together from its members. In an array,
//! what is present has to be so in one element, so that fields of one element are never mixed with those of another; what
//! is absent has to be absent in all. So `exists: false` beside a field that matches is judged in the element that matched.
//!
//! An array in an array counts as its elements. A key that comes twice in an object counts as the last.

use std::collections::BTreeMap;

use super::View;
use super::json::{Reader, Scalar, Token, without_mark};
use super::parse::DATA;
use super::set::Set;
use super::tree::{Node, Tree};

/// A pass over one event.
pub(super) struct Run<'p> {
    tree: &'p Tree,
    slots: Vec<Slot>,
    /// The members of the objects that are being read which the pattern names.
    members: Vec<usize>,
    /// Of each alternative, in how many members it found what it needs. All zero between objects.
    found: Vec<u32>,
    /// The object that is being read, and how many were begun.
    object: u64,
    begun: u64,
    /// All alternatives.
    full: Set,
    steps: u64,
    /// What was seen of each field, when that is asked for.
    pub(super) observed: Option<Vec<Observed>>,
}

/// What is known of a field at the value that was read last.
struct Slot {
    absent: Set,
    present: Set,
    /// Of each leaf, whether a value was accepted.
    accepted: Vec<bool>,
    /// The object that it was found in last.
    object: u64,
    work: Work,
}

/// Sets that are needed while an object is put together; kept, so that no memory is taken for each object.
#[derive(Default)]
struct Work {
    none: Set,
    all: Set,
    some: Set,
    one: Set,
}

/// What was seen of a field in the whole event.
#[derive(Clone, Default)]
pub(super) struct Observed {
    /// Of each leaf, whether any value was accepted.
    pub(super) accepted: Vec<bool>,
    /// The first of its values, as JSON writes them.
    pub(super) shown: Vec<String>,
    /// How many values it has.
    pub(super) values: u64,
    /// What stands there that has no value of its own: an object, or an empty array.
    pub(super) hollow: Option<&'static str>,
    /// Whether the payload could not be read for it.
    pub(super) no_json: bool,
}

impl<'p> Run<'p> {
    pub(super) fn new(tree: &'p Tree) -> Self {
        let none = || Set::none(tree.alternatives);
        let slot = |node: &Node| Slot {
            absent: none(),
            present: none(),
            accepted: vec![false; node.leaves.len()],
            object: 0,
            work: Work {
                none: none(),
                all: none(),
                some: none(),
                one: none(),
            },
        };
        Self {
            tree,
            slots: tree.nodes.iter().map(slot).collect(),
            members: Vec::new(),
            found: vec![0; tree.alternatives],
            object: 0,
            begun: 0,
            full: Set::all(tree.alternatives),
            steps: 0,
            observed: None,
        }
    }

    /// The same, which also notes what it sees.
    pub(super) fn observing(tree: &'p Tree) -> Self {
        let observed = |node: &Node| Observed {
            accepted: vec![false; node.leaves.len()],
            ..Observed::default()
        };
        Self {
            observed: Some(tree.nodes.iter().map(observed).collect()),
            ..Self::new(tree)
        }
    }

    /// How many steps it has taken: tokens read, comparisons tried, words of sets.
    #[cfg(test)]
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    pub(super) fn matches(&mut self, event: View<'_>) -> bool {
        let root = self.tree.root();
        self.object = 1;
        self.begun = 1;
        self.begin(0);
        let mut left = self.full.clone();
        for (key, child) in root.fields.iter().filter(|(key, _)| &***key != DATA) {
            match event.attribute(key) {
                Some(text) => {
                    self.begin(*child);
                    self.scalar(*child, &Scalar::Text(text));
                    self.end(*child, true);
                    self.member(*child);
                    let slot = &mut self.slots[*child];
                    slot.work.one.set(&slot.absent);
                    slot.work.one.add(&slot.present);
                    left.keep(&slot.work.one);
                }
                None => left.take_out(&self.tree.nodes[*child].strict),
            }
        }
        if left.is_empty() && self.observed.is_none() {
            return false;
        }
        if let Some(child) = root.fields.get(DATA) {
            self.data(*child, event.data);
        }
        self.put_together(0, 0);
        let slot = &self.slots[0];
        !(slot.absent.is_empty() && slot.present.is_empty())
    }

    /// The payload, which is the value of a field if it is JSON.
    fn data(&mut self, at: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let text = std::str::from_utf8(data).ok();
        let reader = text.and_then(|text| Reader::new(without_mark(text)).ok());
        if let Some(mut reader) = reader {
            if let Some(first) = reader.token() {
                self.value(at, first, &mut reader);
            }
        } else {
            let slot = &mut self.slots[at];
            slot.present.clear();
            slot.absent.set(&self.full);
            slot.absent.take_out(&self.tree.nodes[at].used);
            if let Some(observed) = &mut self.observed {
                observed.iter_mut().for_each(|field| field.no_json = true);
            }
        }
        self.member(at);
    }

    /// A member of the object that is being read; the last of its key counts.
    fn member(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        if slot.object != self.object {
            slot.object = self.object;
            self.members.push(at);
        }
    }

    /// A value whose first token was read, to its end.
    fn value(&mut self, at: usize, first: Token<'_>, reader: &mut Reader<'_>) {
        let node = &self.tree.nodes[at];
        self.begin(at);
        let mut open = 0_usize;
        let mut some = false;
        let mut hollow = "an empty array";
        let mut next = Some(first);
        while let Some(token) = next {
            self.steps += 1;
            match token {
                Token::ArrayStart => open += 1,
                Token::ArrayEnd => open = open.saturating_sub(1),
                Token::ObjectStart => {
                    hollow = "an object";
                    match node.fields.is_empty() {
                        true => reader.pass_rest(),
                        false => self.object(at, reader),
                    }
                }
                Token::Scalar(scalar) => {
                    some = true;
                    self.scalar(at, &scalar);
                }
                Token::ObjectEnd => break,
            }
            if open == 0 {
                break;
            }
            next = reader.token();
        }
        if !some && let Some(observed) = self.observed.as_mut().and_then(|all| all.get_mut(at)) {
            observed.hollow = Some(hollow);
        }
        self.end(at, some);
    }

    /// An object that is the value of a field or an element of it, to its end.
    fn object(&mut self, at: usize, reader: &mut Reader<'_>) {
        let node = &self.tree.nodes[at];
        let outer = self.object;
        self.begun += 1;
        self.object = self.begun;
        let first = self.members.len();
        // What is overwritten was not there: it is not noted.
        let last = self.observed.is_some().then(|| last_members(node, reader.clone()));
        while let Some(Token::Scalar(Scalar::Text(key))) = reader.token() {
            self.steps += 1;
            let at_key = reader.begins();
            let counts = |child: &&usize| last.as_ref().is_none_or(|last| last.get(*child) == Some(&at_key));
            let Some(token) = reader.token() else { break };
            match node.fields.get(&*key).filter(counts) {
                Some(child) => {
                    self.value(*child, token, reader);
                    self.member(*child);
                }
                None if matches!(token, Token::ObjectStart | Token::ArrayStart) => reader.pass_rest(),
                None => {}
            }
        }
        self.put_together(at, first);
        self.object = outer;
    }

    /// Before the first value of a field.
    fn begin(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.absent.set(&self.tree.nodes[at].nothing_below);
        slot.present.clear();
        slot.accepted.fill(false);
    }

    /// A value of a field that is no object.
    fn scalar(&mut self, at: usize, scalar: &Scalar<'_>) {
        let slot = &mut self.slots[at];
        for (leaf, accepted) in self.tree.nodes[at].leaves.iter().zip(&mut slot.accepted) {
            *accepted = *accepted || leaf.values.accept(scalar, &mut self.steps);
        }
        if let Some(observed) = self.observed.as_mut().and_then(|all| all.get_mut(at)) {
            observed.values += 1;
            if observed.shown.len() < super::explain::MAX_VALUES {
                observed.shown.push(super::explain::shown(scalar));
            }
            for (ever, now) in observed.accepted.iter_mut().zip(&slot.accepted) {
                *ever |= now;
            }
        }
    }

    /// Behind the last value of a field: what its own values say, with what was found below it.
    fn end(&mut self, at: usize, some: bool) {
        let leaves = &self.tree.nodes[at].leaves;
        if leaves.is_empty() {
            return;
        }
        let slot = &mut self.slots[at];
        let Work {
            none,
            all,
            some: present,
            one,
        } = &mut slot.work;
        none.set(&self.full);
        present.clear();
        for (leaf, accepted) in leaves.iter().zip(&slot.accepted) {
            if *accepted {
                present.add(&leaf.alternatives);
            }
            if some || !leaf.values.absent {
                none.take_out(&leaf.alternatives);
            }
            self.steps += leaf.alternatives.words() as u64;
        }
        all.set(none);
        all.add(present);
        one.set(&slot.absent);
        one.add(&slot.present);
        all.keep(one);
        slot.present.add(present);
        slot.present.keep(all);
        slot.absent.keep(none);
    }

    /// Adds an object to what is known of its field, by its members from the one numbered `first`.
    fn put_together(&mut self, at: usize, first: usize) {
        let node = &self.tree.nodes[at];
        let mut work = std::mem::take(&mut self.slots[at].work);
        work.none.set(&node.nothing_below);
        work.all.set(&self.full);
        work.some.clear();
        for child in &self.members[first..] {
            let slot = &self.slots[*child];
            work.none.keep(&slot.absent);
            work.one.set(&slot.absent);
            work.one.add(&slot.present);
            work.all.keep(&work.one);
            work.some.add(&slot.present);
            self.steps += work.all.words() as u64;
        }
        work.all.keep(&work.some);
        if !work.all.is_empty() {
            // An alternative is out that needs a value in a member that is not there.
            for child in &self.members[first..] {
                work.one.set(&work.all);
                work.one.keep(&self.tree.nodes[*child].strict);
                for alternative in work.one.iter() {
                    self.found[alternative] += 1;
                    self.steps += 1;
                }
            }
            work.one.set(&work.all);
            for alternative in work.one.iter() {
                if self.found[alternative] != node.needs[alternative] {
                    work.all.remove(alternative);
                }
                self.found[alternative] = 0;
            }
        }
        self.members.truncate(first);
        let slot = &mut self.slots[at];
        slot.absent.keep(&work.none);
        slot.present.add(&work.all);
        slot.work = work;
    }
}

/// Where the key of each field that the pattern names stands last in an object whose beginning was read. Of objects within
/// objects each is read again for each that it is in, which the depth of a pattern bounds.
fn last_members(node: &Node, mut reader: Reader<'_>) -> BTreeMap<usize, usize> {
    let mut last = BTreeMap::new();
    while let Some(Token::Scalar(Scalar::Text(key))) = reader.token() {
        let at = reader.begins();
        if let Some(child) = node.fields.get(&*key) {
            last.insert(*child, at);
        }
        match reader.token() {
            Some(Token::ObjectStart | Token::ArrayStart) => reader.pass_rest(),
            Some(_) => {}
            None => break,
        }
    }
    last
}
