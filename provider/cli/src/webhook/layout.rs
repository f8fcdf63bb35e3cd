//! JSON as other programs lay it out: what a signed body may have looked like before something wrote it anew.
//!
//! What is written anew holds the same values. Texts, numbers and the order of keys are tried as they stand first, then as the
//! common writers have them. Every body that is tried is one that could have been sent: nothing here is guessed at random.

use std::fmt::Write as _;

/// No body longer than this is laid out anew: each is written and signed some hundred times.
const MAX_BODY: usize = 256 << 10;
/// The most orders of keys that are tried beside the one that stands and the alphabet's.
const MAX_ORDERS: usize = 5_040;
/// The longest body whose keys are tried in every order.
const MAX_ORDERED: usize = 16 << 10;

/// A value, borrowed from the text it stands in.
enum Node<'a> {
    /// A number, true, false or null, as it is written.
    Word(&'a str),
    /// A text with its quotes, as it is written.
    Text(&'a str),
    List(Vec<Node<'a>>),
    Object(Vec<(&'a str, Node<'a>)>),
}

/// How a program writes between values.
#[derive(Clone, Copy)]
struct Layout {
    between: &'static str,
    colon: &'static str,
    /// What begins a line for each depth; nothing if all stands in one line.
    indent: Option<&'static str>,
    newline: &'static str,
}

/// How a program writes texts.
#[derive(Clone, Copy, PartialEq)]
enum Texts {
    /// As they stand.
    Same,
    /// Without an escape that is not needed: JavaScript, Ruby, Rust.
    Plain,
    /// What is not ASCII escaped: Python.
    Ascii,
    /// That, and `/` as `\/`: PHP.
    AsciiAndSlash,
    /// `<`, `>` and `&` escaped: Go, Rails.
    Html,
}

const fn in_line(between: &'static str, colon: &'static str) -> Layout {
    Layout {
        between,
        colon,
        indent: None,
        newline: "",
    }
}

const fn in_lines(indent: &'static str, newline: &'static str) -> Layout {
    Layout {
        between: ",",
        colon: ": ",
        indent: Some(indent),
        newline,
    }
}

const LAYOUTS: [Layout; 8] = [
    in_line(",", ":"),
    in_line(", ", ": "),
    in_line(",", ": "),
    in_lines("  ", "\n"),
    in_lines("    ", "\n"),
    in_lines("\t", "\n"),
    in_lines("  ", "\r\n"),
    in_lines("    ", "\r\n"),
];

const TEXTS: [Texts; 5] = [
    Texts::Same,
    Texts::Plain,
    Texts::Ascii,
    Texts::AsciiAndSlash,
    Texts::Html,
];

/// Whether one of the ways in which programs write this body is the one that `is_signed`.
pub(super) fn finds(body: &[u8], is_signed: impl Fn(&[u8]) -> bool) -> bool {
    let Some(mut tree) = tree(body) else { return false };
    if written_ways(&tree, &is_signed) {
        return true;
    }
    // Something that sorts has lost the order that was signed: of few keys, every order is tried.
    if body.len() <= MAX_ORDERED
        && let Some(orders) = tree.orders().filter(|orders| *orders <= MAX_ORDERS)
    {
        for _ in 0..orders {
            tree.next_order();
            for layout in &LAYOUTS[..3] {
                if is_signed(write(&tree, *layout, Texts::Same).as_bytes()) {
                    return true;
                }
            }
        }
    }
    tree.sort();
    written_ways(&tree, &is_signed)
}

/// Whether a body is JSON that stands in lines, or with blanks, as programs lay it out for people.
pub(super) fn is_for_people(body: &[u8]) -> bool {
    tree(body).is_some_and(|tree| write(&tree, LAYOUTS[0], Texts::Same).len() < body.trim_ascii().len())
}

fn written_ways(tree: &Node<'_>, is_signed: &impl Fn(&[u8]) -> bool) -> bool {
    LAYOUTS.iter().any(|layout| {
        TEXTS.iter().any(|texts| {
            let mut written = write(tree, *layout, *texts);
            if is_signed(written.as_bytes()) {
                return true;
            }
            written.push('\n');
            is_signed(written.as_bytes())
        })
    })
}

fn tree(body: &[u8]) -> Option<Node<'_>> {
    if body.len() > MAX_BODY {
        return None;
    }
    // What is JSON, and how deep it may go, this decides; the reader below has no errors to find.
    serde_json::from_slice::<serde_json::Value>(body).ok()?;
    let text = std::str::from_utf8(body).ok()?;
    Reader { text, at: 0 }.value()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn value(&mut self) -> Option<Node<'a>> {
        match self.next()? {
            b'{' => {
                let mut entries = Vec::new();
                self.at += 1;
                while self.next()? != b'}' {
                    if self.next()? == b',' {
                        self.at += 1;
                    }
                    self.next()?;
                    let name = self.quoted()?;
                    self.next()?;
                    // The colon.
                    self.at += 1;
                    entries.push((name, self.value()?));
                }
                self.at += 1;
                Some(Node::Object(entries))
            }
            b'[' => {
                let mut values = Vec::new();
                self.at += 1;
                while self.next()? != b']' {
                    if self.next()? == b',' {
                        self.at += 1;
                    }
                    values.push(self.value()?);
                }
                self.at += 1;
                Some(Node::List(values))
            }
            b'"' => self.quoted().map(Node::Text),
            _ => {
                let rest = &self.text[self.at..];
                let ends = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | ']' | '}');
                let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
                self.at += word.len();
                Some(Node::Word(word))
            }
        }
    }

    fn quoted(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let mut escaped = false;
        let end = rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        self.at += end + 2;
        rest.get(..end + 2)
    }
}

impl Node<'_> {
    fn sort(&mut self) {
        match self {
            Node::Word(_) | Node::Text(_) => {}
            Node::List(values) => values.iter_mut().for_each(Node::sort),
            Node::Object(entries) => {
                entries.sort_by_key(|(name, _)| *name);
                entries.iter_mut().for_each(|(_, value)| value.sort());
            }
        }
    }

    /// In how many orders the keys can stand; nothing if there are too many to count.
    fn orders(&self) -> Option<usize> {
        let product = |orders: usize, node: &Node<'_>| orders.checked_mul(node.orders()?);
        match self {
            Node::Word(_) | Node::Text(_) => Some(1),
            Node::List(values) => values.iter().try_fold(1, product),
            Node::Object(entries) => {
                let own = (1..=entries.len()).try_fold(1_usize, usize::checked_mul)?;
                entries.iter().map(|(_, value)| value).try_fold(own, product)
            }
        }
    }

    /// Goes on to the next order of keys, whichever that is; true when all orders have been gone through, and the first is there
    /// again.
    fn next_order(&mut self) -> bool {
        match self {
            Node::Word(_) | Node::Text(_) => true,
            Node::List(values) => values.iter_mut().all(Node::next_order),
            Node::Object(entries) => {
                entries.iter_mut().all(|(_, value)| value.next_order()) && next_permutation(entries)
            }
        }
    }
}

/// The next in the order of the alphabet; true when it begins again.
fn next_permutation(entries: &mut [(&str, Node<'_>)]) -> bool {
    let Some(pivot) = (1..entries.len()).rev().find(|at| entries[at - 1].0 < entries[*at].0) else {
        entries.reverse();
        return true;
    };
    let larger = (pivot..entries.len())
        .rev()
        .find(|at| entries[*at].0 > entries[pivot - 1].0);
    entries.swap(pivot - 1, larger.unwrap_or(pivot));
    entries[pivot..].reverse();
    false
}

fn write(tree: &Node<'_>, layout: Layout, texts: Texts) -> String {
    let mut written = String::new();
    write_node(&mut written, tree, layout, texts, 0);
    written
}

fn write_node(out: &mut String, node: &Node<'_>, layout: Layout, texts: Texts, depth: usize) {
    match node {
        Node::Word(word) => out.push_str(word),
        Node::Text(text) => write_text(out, text, texts),
        Node::List(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                begin(out, index, layout, depth + 1);
                write_node(out, value, layout, texts, depth + 1);
            }
            end(out, values.len(), layout, depth);
            out.push(']');
        }
        Node::Object(entries) => {
            out.push('{');
            for (index, (name, value)) in entries.iter().enumerate() {
                begin(out, index, layout, depth + 1);
                write_text(out, name, texts);
                out.push_str(layout.colon);
                write_node(out, value, layout, texts, depth + 1);
            }
            end(out, entries.len(), layout, depth);
            out.push('}');
        }
    }
}

fn begin(out: &mut String, index: usize, layout: Layout, depth: usize) {
    if index > 0 {
        out.push_str(layout.between);
    }
    line(out, layout, depth);
}

fn end(out: &mut String, count: usize, layout: Layout, depth: usize) {
    if count > 0 {
        line(out, layout, depth);
    }
}

fn line(out: &mut String, layout: Layout, depth: usize) {
    if let Some(indent) = layout.indent {
        out.push_str(layout.newline);
        (0..depth).for_each(|_| out.push_str(indent));
    }
}

fn write_text(out: &mut String, quoted: &str, texts: Texts) {
    let plain = if texts == Texts::Same {
        None
    } else {
        // Half of a surrogate pair has no other form: it stays as it stands.
        let text: Option<String> = serde_json::from_str(quoted).ok();
        text.and_then(|text| serde_json::to_string(&text).ok())
    };
    let Some(plain) = plain else {
        out.push_str(quoted);
        return;
    };
    for c in plain.chars() {
        match c {
            '/' if texts == Texts::AsciiAndSlash => out.push_str("\\/"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if texts == Texts::Html => escape(out, c),
            c if !c.is_ascii() && matches!(texts, Texts::Ascii | Texts::AsciiAndSlash) => escape(out, c),
            c => out.push(c),
        }
    }
}

fn escape(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        // Writing into a `String` can't fail.
        write!(out, "\\u{unit:04x}").unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::*;

    fn found(body: &str, signed: &str) -> bool {
        finds(body.as_bytes(), |tried| tried == signed.as_bytes())
    }

    const SENT: &str = r#"{"type":"order.paid","id":"o_1","n":1.50,"data":{"z":[],"a":[true,null,{}],"é":"a\/b"}}"#;

    #[test]
    fn what_was_laid_out_for_people_is_found_as_it_was_sent() {
        let pretty = "{\n  \"type\": \"order.paid\",\n  \"id\": \"o_1\",\n  \"n\": 1.50,\n  \"data\": {\n    \"z\": [],\n    \
                      \"a\": [\n      true,\n      null,\n      {}\n    ],\n    \"é\": \"a\\/b\"\n  }\n}\n";
        assert!(found(pretty, SENT) && is_for_people(pretty.as_bytes()));
        assert!(found(SENT, pretty) && !is_for_people(SENT.as_bytes()));
        assert!(found(&pretty.replace('\n', "\r\n"), SENT));
        assert!(found(SENT, pretty.trim_end()) && found(SENT, &pretty.trim_end().replace('\n', "\r\n")));
    }

    #[test]
    fn the_ways_of_common_writers_are_found() {
        let plain = r#"{"b":"é / <","a":"😀"}"#;
        for other in [
            r#"{"b": "\u00e9 / <", "a": "\ud83d\ude00"}"#,
            r#"{"b":"\u00e9 \/ <","a":"\ud83d\ude00"}"#,
            "{\"b\":\"é / \\u003c\",\"a\":\"😀\"}\n",
            r#"{"a": "😀", "b": "é / <"}"#,
        ] {
            assert!(found(plain, other), "{other}");
            assert!(found(other, plain), "{other}");
        }
    }

    #[test]
    fn keys_that_were_sorted_are_found_in_the_order_that_was_sent() {
        let sorted = r#"{ "data": { "a": [ true, null, {} ], "z": [], "é": "a\/b" }, "id": "o_1", "n": 1.50, "type": "order.paid" }"#;
        assert!(found(sorted, SENT));
        // In a list, in an object of an object, and every order once.
        let tried = RefCell::new(HashSet::new());
        let body = r#"[{"a":{"c":1,"b":2},"d":3},{"e":4,"f":5}]"#;
        assert!(!finds(body.as_bytes(), |body| {
            tried.borrow_mut().insert(body.to_vec());
            false
        }));
        for outer in [r#""a":{A},"d":3"#, r#""d":3,"a":{A}"#] {
            for inner in [r#"{"b":2,"c":1}"#, r#"{"c":1,"b":2}"#] {
                for other in [r#"{"e":4,"f":5}"#, r#"{"f":5,"e":4}"#] {
                    let expected = format!("[{{{}}},{other}]", outer.replace("{A}", inner));
                    assert!(tried.borrow().contains(expected.as_bytes()), "{expected}");
                }
            }
        }
    }

    #[test]
    fn nothing_else_is_found_and_the_work_is_bounded() {
        assert!(!found(SENT, &SENT.replace("o_1", "o_2")));
        for body in ["", "x", "{", "\"", "[1", "{\"a\":1} x", "\u{feff}{}"] {
            assert!(!found(body, SENT), "{body}");
        }
        let keys: Vec<_> = (0..40).map(|index| format!("\"k{index}\":{index}")).collect();
        let many = format!("{{{}}}", keys.join(","));
        let tries = RefCell::new(0_usize);
        assert!(!finds(many.as_bytes(), |_| {
            *tries.borrow_mut() += 1;
            false
        }));
        assert!(*tries.borrow() <= 2 * 2 * LAYOUTS.len() * TEXTS.len());
        let long = format!("[\"{}\"]", "x".repeat(MAX_BODY));
        assert!(!finds(long.as_bytes(), |_| true));
        let deep = "[".repeat(100_000);
        assert!(!finds(deep.as_bytes(), |_| true));
    }
}
