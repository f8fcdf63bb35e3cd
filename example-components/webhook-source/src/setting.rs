//! The settings of one source, and everything that is wrong with them at once.

use std::{collections::BTreeMap, fmt};

/// The component's configuration, as `wasi:config` gives it.
pub type Settings = Vec<(String, String)>;

/// The settings of one source that are not yet read, without their common prefix.
#[derive(Debug)]
pub(crate) struct SourceSettings<'a> {
    prefix: String,
    unread: BTreeMap<&'a str, &'a str>,
    problems: Vec<Problem>,
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its whole key.
    pub key: String,
    /// What is wrong. Never quotes a secret.
    pub what: String,
}

/// Everything that is wrong with a source's settings; at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidSettings(Vec<Problem>);

impl InvalidSettings {
    /// The problems, in the order in which the settings are read.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{} {}", problem.key, problem.what)?;
        }
        Ok(())
    }
}

impl<'a> SourceSettings<'a> {
    /// The settings `source.NAME.…`, or nothing if there is none.
    pub(crate) fn of(settings: &'a Settings, name: &str) -> Option<Self> {
        let prefix = format!("source.{name}.");
        let unread: BTreeMap<_, _> = settings
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value.as_str())))
            .collect();
        if unread.is_empty() {
            None
        } else {
            Some(Self {
                prefix,
                unread,
                problems: Vec::new(),
            })
        }
    }

    /// Takes a setting that may be absent, with every blank that it has.
    pub(crate) fn take_as_it_stands(&mut self, key: &str) -> Option<String> {
        self.unread.remove(key).map(str::to_owned)
    }

    /// Takes a setting that may be absent, and reads it without the blanks around it.
    pub(crate) fn optional<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.unread.remove(key)?.trim();
        match read(value) {
            Ok(value) => Some(value),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    /// Takes a setting that must be there, and reads it.
    pub(crate) fn required<T>(&mut self, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if !self.unread.contains_key(key) {
            self.problem(key, "is missing".to_owned());
        }
        self.optional(key, read)
    }

    /// Takes a setting without reading it.
    pub(crate) fn pass_over(&mut self, key: &str) {
        self.unread.remove(key);
    }

    /// Notes that something is wrong with a setting.
    pub(crate) fn problem(&mut self, key: &str, what: String) {
        self.problems.push(Problem {
            key: format!("{}{key}", self.prefix),
            what,
        });
    }

    /// Everything that is wrong, once all settings were taken: what is left over is unknown.
    pub(crate) fn finish(mut self) -> Result<(), InvalidSettings> {
        for key in std::mem::take(&mut self.unread).into_keys() {
            self.problem(key, "is unknown".to_owned());
        }
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(InvalidSettings(self.problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn only_the_sources_own_settings_are_read() {
        let settings = settings(&[
            ("source.a.x", " 1 "),
            ("source.ab.y", "2"),
            ("source.a", "3"),
            ("source.a.z", " 5 "),
            ("other", "4"),
        ]);
        assert!(SourceSettings::of(&settings, "b").is_none());
        let mut source = SourceSettings::of(&settings, "a").unwrap();
        assert_eq!(source.required("x", |value| Ok(value.to_owned())), Some("1".to_owned()));
        assert_eq!(source.optional("y", |value| Ok(value.to_owned())), None);
        assert_eq!(source.take_as_it_stands("z"), Some(" 5 ".to_owned()));
        assert_eq!(source.finish(), Ok(()));
    }

    #[test]
    fn every_problem_is_named() {
        let settings = settings(&[
            ("source.a.bad", "1"),
            ("source.a.typo", "2"),
            ("source.a.other-typo", "3"),
        ]);
        let mut source = SourceSettings::of(&settings, "a").unwrap();
        assert_eq!(source.optional("bad", |_| Err::<(), _>("is bad".to_owned())), None);
        assert_eq!(source.required("absent", |_| Ok(())), None);
        assert_eq!(
            source.finish().unwrap_err().to_string(),
            "source.a.bad is bad; source.a.absent is missing; source.a.other-typo is unknown; source.a.typo is unknown"
        );
    }
}
