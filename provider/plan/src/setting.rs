//! Reads flat string settings, collecting every problem instead of stopping at the first.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use crate::name::shown;
use crate::{Code, Problem};

/// Settings as they come from a manifest.
pub type Settings = BTreeMap<String, String>;

/// How many letters may be wrong, too many, missing or exchanged in a setting that is known, for that to be what was meant.
const MEANT: usize = 2;

/// Takes settings one by one and remembers what was wrong.
pub(crate) struct Reader<'a> {
    /// Whose settings they are, for messages: `policy of provider bus`, `link default of component x`.
    owner: &'a str,
    settings: &'a Settings,
    known: Vec<&'static str>,
    /// What is known under a name that the user chose, such as `quota.tenant.acme.max-bytes`.
    known_under: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(owner: &'a str, settings: &'a Settings) -> Self {
        Self {
            owner,
            settings,
            known: Vec::new(),
            known_under: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        self.settings.get(key).map(|v| v.trim())
    }

    /// A setting's value as `parse` reads it; its problems are kept with the setting's name.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(p) => {
                self.refuse_setting(key, p.code, format!("setting `{key}`: {}", p.message));
                None
            }
        }
    }

    /// The value of a setting that is no longer taken: the caller refuses it with what replaces it, so it is no unknown
    /// one besides, and is not listed among those that are known.
    pub(crate) fn refused(&mut self, key: &'static str) -> Option<&'a str> {
        let text = self.settings.get(key)?;
        self.known_under.insert(key.to_owned());
        Some(text.trim())
    }

    /// The settings under `prefix`, by the name that follows it and the rest: `quota.tenant.` finds `acme` and
    /// `max-bytes` in `quota.tenant.acme.max-bytes`. The rest is what follows the last dot, so that a name may hold dots.
    /// `shown` stands for them in messages.
    pub(crate) fn under(&mut self, prefix: &str, shown: &'static [&'static str]) -> BTreeMap<String, Settings> {
        self.known.extend(shown);
        let mut found: BTreeMap<String, Settings> = BTreeMap::new();
        for (key, value) in self.settings {
            if let Some((name, rest)) = key.strip_prefix(prefix).and_then(|k| k.rsplit_once('.')) {
                self.known_under.insert(key.clone());
                let group = found.entry(name.to_owned()).or_default();
                group.insert(rest.to_owned(), value.trim().to_owned());
            }
        }
        found
    }

    /// Adds a problem of a part that was read by itself.
    pub(crate) fn adopt(&mut self, problem: Problem) {
        self.problems.push(Problem {
            message: format!("{}: {}", self.owner, problem.message),
            ..problem
        });
    }

    /// Adds what was found wrong under a name: `key` is the whole setting.
    pub(crate) fn refuse_under(&mut self, key: &str, problem: &Problem) {
        self.refuse_setting(key, problem.code, format!("setting `{key}`: {}", problem.message));
    }

    pub(crate) fn or<T>(&mut self, key: &'static str, default: T, parse: impl FnOnce(&str) -> Result<T, Problem>) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        if !self.settings.contains_key(key) {
            self.known.push(key);
            self.refuse(Code::MissingSetting, format!("setting `{key}` is missing: {hint}"));
            return None;
        }
        self.optional(key, parse)
    }

    pub(crate) fn refuse_setting(&mut self, key: &str, code: Code, message: String) {
        self.refuse(code, message);
        if let Some(last) = self.problems.last_mut() {
            last.setting = Some(key.to_owned());
        }
    }

    pub(crate) fn refuse(&mut self, code: Code, message: impl AsRef<str>) {
        self.problems
            .push(Problem::new(code, format!("{}: {}", self.owner, message.as_ref())));
    }

    /// Adds that settings contradict each other.
    pub(crate) fn conflict(&mut self, message: impl AsRef<str>) {
        self.refuse(Code::ConflictingSettings, message);
    }

    /// Ends the reading: unknown settings are problems too.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        for key in self.settings.keys() {
            if !self.known.contains(&key.as_str()) && !self.known_under.contains(key) {
                let known = self.known.iter().map(|k| (strsim::osa_distance(key, k), *k));
                let meant = known.filter(|(wrong, _)| *wrong <= MEANT).min();
                if let Some((_, meant)) = meant {
                    let message = format!("setting {} is not known: did you mean `{meant}`?", shown(key));
                    self.refuse_setting(key, Code::UnknownSetting, message);
                    continue;
                }
                // Those of the same table, or all when it is of none.
                let table = key.split_inclusive('.').next().filter(|t| t.ends_with('.'));
                let near: Vec<_> = self
                    .known
                    .iter()
                    .filter(|k| table.is_some_and(|t| k.starts_with(t)))
                    .copied()
                    .collect();
                let known = if near.is_empty() { &self.known } else { &near };
                let message = format!("setting {} is not known; known are: {}", shown(key), known.join(", "));
                self.refuse_setting(key, Code::UnknownSetting, message);
            }
        }
        self.problems
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Code::InvalidSetting, message)
}

/// What `FromStr` reads.
pub(crate) fn parsed<T: FromStr<Err = Problem>>(s: &str) -> Result<T, Problem> {
    s.parse()
}

/// A list with commas between, without empty items. An item in double quotes is a JSON string: so written, it may hold
/// commas, and blanks at its ends.
pub(crate) fn list<T: FromStr<Err = Problem>>(s: &str) -> Result<Vec<T>, Problem> {
    items(s)?.iter().map(|item| item.text.parse()).collect()
}

/// One item of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) text: String,
    /// It was written in quotes, so that it stands for nothing but itself.
    pub(crate) quoted: bool,
}

/// The items of a list.
pub(crate) fn items(s: &str) -> Result<Vec<Item>, Problem> {
    let mut found = Vec::new();
    let mut rest = s;
    loop {
        rest = rest.trim_start();
        let (item, after) = if rest.starts_with('"') {
            let mut json = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let text = json.next().and_then(Result::ok).ok_or_else(|| {
                invalid(format!(
                    "{} begins with a double quote and is no JSON string",
                    shown(rest)
                ))
            })?;
            let item = Item { text, quoted: true };
            (item, rest.get(json.byte_offset()..).unwrap_or_default().trim_start())
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let item = Item {
                text: rest[..end].trim().to_owned(),
                quoted: false,
            };
            (item, &rest[end..])
        };
        found.push(item);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(found),
            None => {
                return Err(invalid(format!(
                    "{} follows an item in double quotes: put a comma between",
                    shown(after)
                )));
            }
        }
    }
}

/// An item as a list holds it: in quotes where it would be read as something else.
pub(crate) fn as_item(text: &str) -> String {
    let plain = !text.starts_with('"') && !text.contains(',') && text.trim() == text;
    if plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

/// A whole number within bounds.
pub(crate) fn number(min: u64, max: u64) -> impl Fn(&str) -> Result<u64, Problem> {
    move |s| {
        s.parse()
            .ok()
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| invalid(format!("{} is not a whole number from {min} to {max}", shown(s))))
    }
}

/// A duration such as `250ms`, `30s`, `10m`, `12h` or `7d`, within bounds.
pub(crate) fn duration(min: Duration, max: Duration) -> impl Fn(&str) -> Result<Duration, Problem> {
    move |s| {
        let digits = s.bytes().take_while(u8::is_ascii_digit).count();
        let unit_ms = match &s[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        s[..digits]
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms))
            .map(Duration::from_millis)
            .filter(|d| unit_ms > 0 && (min..=max).contains(d))
            .ok_or_else(|| {
                invalid(format!(
                    "{} is not a duration from {} to {}: write a number and one of ms, s, m, h, d",
                    shown(s),
                    show_duration(min),
                    show_duration(max)
                ))
            })
    }
}

/// Bytes such as `512KiB`, `1GiB` or `1000000`, within bounds.
pub(crate) fn bytes(min: u64, max: u64) -> impl Fn(&str) -> Result<u64, Problem> {
    move |s| {
        let digits = s.bytes().take_while(u8::is_ascii_digit).count();
        let unit = match &s[digits..] {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => 0,
        };
        s[..digits]
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit))
            .filter(|n| unit > 0 && (min..=max).contains(n))
            .ok_or_else(|| {
                invalid(format!(
                    "{} is not a size from {min} to {max} bytes: write a number and one of KiB, MiB, GiB, TiB",
                    shown(s)
                ))
            })
    }
}

/// A duration in the largest unit that keeps it whole.
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms > 0 && ms.is_multiple_of(unit) {
            return format!("{}{name}", ms / unit);
        }
    }
    format!("{ms}ms")
}

/// One of several words.
pub(crate) fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl Fn(&str) -> Result<T, Problem> {
    move |s| {
        words
            .iter()
            .find(|(word, _)| *word == s)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                invalid(format!("{} is none of {}", shown(s), all.join(", ")))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        let day = Duration::from_secs(86_400);
        let parse = duration(Duration::from_millis(1), day * 365);
        for (text, ms) in [("250ms", 250), ("30s", 30_000), ("7d", 604_800_000)] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms));
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "0s",
            "99999999999999999999d",
            "18446744073709551615d",
            "é",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let parse = bytes(1, u64::MAX);
        assert_eq!(parse("512KiB").unwrap(), 524_288);
        assert_eq!(parse("7").unwrap(), 7);
        for bad in ["", "KiB", "1KB", "0", "99999999TiB"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
