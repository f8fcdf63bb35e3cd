//! Everything that is printed. Texts of others (events, dead letters, answers, errors) can't steer a terminal, and a
//! reader that closes the pipe ends the command quietly.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write as _};
use std::ops::Range;

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

/// Whoever read standard output has closed it. It is no fault, and there is nobody to say it to.
#[derive(Debug)]
pub(crate) struct PipeClosed;

impl PipeClosed {
    /// What a shell shows for a tool that ended because of it: 128 and the number of SIGPIPE.
    pub(crate) const EXIT_CODE: u8 = 141;
}

impl fmt::Display for PipeClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for PipeClosed {}

/// Prints a line. Used as `println!`, which panics where this returns [`PipeClosed`].
macro_rules! say {
    ($($what:tt)*) => { $crate::terminal::line(format_args!($($what)*)) };
}
pub(crate) use say;

/// Writes a line to standard output, at once.
pub(crate) fn line(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(PipeClosed.into()),
        written => written.context("can't write to standard output"),
    }
}

/// Writes a line to standard error. When that is closed too, nobody is left to hear of it.
pub(crate) fn error_line(text: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// Writes a problem that does not end the command to standard error.
pub(crate) fn complain(json: bool, problem: &str) {
    match json {
        true => error_line(format_args!("{}", json_line(&json!({ "error": problem })))),
        false => error_line(format_args!("error: {}", printable(problem))),
    }
}

/// A table without borders; the columns of `numbers`, from 0, stand to the right.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    numbers: Range<usize>,
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A text of others on one line: what a terminal would obey, or a reader be deceived by, is shown by its number.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, deceives)
}

/// The same for a text of several lines, whose line breaks and tabs stay.
pub(crate) fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !matches!(c, '\n' | '\t') && deceives(c))
}

/// Bytes of others on one line.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes)).into_owned()
}

/// A text without what stands before the `@` of URLs in it: a password may have been typed in the wrong place.
pub(crate) fn without_users(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let url = after
            .split(|c: char| c.is_whitespace() || c == '\'')
            .next()
            .unwrap_or_default();
        shown.push_str(before);
        shown.push_str("://");
        rest = match url.rfind('@') {
            Some(at) => {
                shown.push_str("[redacted]");
                &after[at..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

/// JSON on one line. Controls and marks of direction in its texts are escaped as JSON has it, DEL and C1 too.
pub(crate) fn json_line(value: &Value) -> String {
    json_escaped(&value.to_string())
}

/// The same on several lines.
pub(crate) fn json_lines(value: &Value) -> String {
    json_escaped(&format!("{value:#}"))
}

/// Controls (C0, DEL, C1), marks of direction, separators of lines and paragraphs, and what has no shape at all.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(text: &str, escapes: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&escapes) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !escapes(c) => shown.push(c),
            '\n' | '\r' | '\t' => shown.extend(c.escape_default()),
            c => shown.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(shown)
}

/// Between the tokens of JSON stands nothing that deceives but line breaks; all else is within a text.
fn json_escaped(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !deceives(c) {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that a terminal or a reader must not be given as it is.
    fn harmful() -> impl Iterator<Item = char> {
        ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}').chain(
            "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{e0041}"
                .chars(),
        )
    }

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for c in harmful() {
            let text = format!("a{c}b");
            let shown = printable(&text);
            assert!(
                !shown.contains(c) && shown.starts_with("a\\") && shown.ends_with('b'),
                "{c:?}: {shown}"
            );
            let lines = printable_lines(&text);
            assert_eq!(lines.contains(c), matches!(c, '\n' | '\t'), "{c:?}");
        }
        assert_eq!(printable("\x1b[2Jgone\r\n"), "\\u{1b}[2Jgone\\r\\n");
        for text in ["", "plain", "Łódź, žluťoučký, 日本, שלום, 👩‍🚀", "back\\slash \"quoted\""] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text), "{text}");
        }
        assert_eq!(printable_bytes(b"\xff\x9b2J"), "\u{fffd}\u{fffd}2J");
    }

    #[test]
    fn a_password_in_the_wrong_place_is_not_repeated() {
        let said = "unexpected argument 'nats://a:S@h:1,nats://b:S@@g' found\n  see nats://x or tls://S@y ://";
        let shown = "unexpected argument 'nats://[redacted]@g' found\n  see nats://x or tls://[redacted]@y ://";
        assert_eq!(without_users(said), shown);
    }

    #[test]
    fn json_is_the_same_json_and_holds_none_of_them() {
        let all: String = harmful().chain("Łódź \\ \" /".chars()).collect();
        let value = serde_json::json!({ all.clone(): [all, 1, { "nested": "\u{9b}2J" }] });
        for shown in [json_line(&value), json_lines(&value)] {
            assert!(harmful().filter(|c| *c != '\n').all(|c| !shown.contains(c)), "{shown}");
            assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
        }
        assert!(!json_line(&value).contains('\n'));
    }
}
