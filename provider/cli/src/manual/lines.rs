//! The lines of standard input, as they come.

use std::io::{BufRead, Read as _};

use tokio::sync::mpsc;

/// The longest line, in bytes, without its end.
const MAX_LINE: u64 = 64 << 10;
/// Lines that are read before those before them are settled.
const READ_AHEAD: usize = 16;

/// A line by its number from 1; or why it can't be read.
pub(super) type Line = (u64, Result<String, String>);

/// The lines of standard input; the channel closes with its end.
///
/// A thread of its own reads them, and nobody waits for it: the runtime's own reader would keep a command that is told
/// to end until one more line came.
pub(super) fn of_standard_input() -> mpsc::Receiver<Line> {
    let (send, lines) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || read(std::io::stdin().lock(), |line| send.blocking_send(line).is_ok()));
    lines
}

/// Hands on each line, until the end of the input or as long as `takes` does. Blank lines are passed over.
fn read(mut input: impl BufRead, mut takes: impl FnMut(Line) -> bool) {
    for number in 1.. {
        let mut bytes = Vec::new();
        match input.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                takes((number, Err(format!("standard input can't be read any more: {error}"))));
                return;
            }
        }
        let is_whole = bytes.ends_with(b"\n") || bytes.len() as u64 <= MAX_LINE;
        let line = match String::from_utf8(bytes) {
            _ if !is_whole => {
                if input.skip_until(b'\n').is_err() {
                    return;
                }
                Err(format!("it is longer than {MAX_LINE} bytes: write a shorter reason"))
            }
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => Ok(line.trim().to_owned()),
            Err(_) => Err("it is not in UTF-8".to_owned()),
        };
        if !takes((number, line)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_bad_ones_are_passed_over() {
        let long = "x".repeat(usize::try_from(MAX_LINE).unwrap());
        let input = format!("ack 1\n\n  \r\nretry 2\r\n{long}\n{long}y\nack 3");
        let mut input = input.into_bytes();
        input.splice(0..0, *b"\xff\n");
        let mut all = Vec::new();
        read(&input[..], |line| {
            all.push(line);
            true
        });
        let shown: Vec<_> = all.iter().map(|(n, line)| (*n, line.as_deref().ok())).collect();
        let whole = Some(long.as_str());
        let expected = [
            (1, None),
            (2, Some("ack 1")),
            (5, Some("retry 2")),
            (6, whole),
            (7, None),
            (8, Some("ack 3")),
        ];
        assert_eq!(shown, expected);
        let mut taken = 0;
        read(&b"ack 1\nack 2\n"[..], |_| {
            taken += 1;
            false
        });
        assert_eq!(taken, 1, "nobody is left to take the second");
    }
}
