//! A policy as a TOML document: the same settings as a provider's flat config, as nested tables.
//!
//! `[retention] max-age = "7d"` is the setting `retention.max-age`. A list stands for its items with commas between; an
//! item that holds a comma itself is quoted there.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Code, Problem, Settings};

/// The longest document, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Settings, and on which line each stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The settings under their dotted names.
    pub settings: Settings,
    lines: BTreeMap<String, usize>,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// For what is no TOML, every such place; and every value that no setting can have.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        if text.len() > MAX_BYTES {
            return Err(vec![invalid(format!(
                "the policy is {} bytes: at most {MAX_BYTES} are read",
                text.len()
            ))]);
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut problems: Vec<_> = errors
            .iter()
            .map(|e| {
                let line = e.span().map_or(1, |span| line_of(text, span.start));
                invalid(format!("line {line}: {}", e.message()))
            })
            .collect();
        let mut document = Self::default();
        document.read(text, "", table.get_ref(), &mut problems);
        if problems.is_empty() {
            Ok(document)
        } else {
            Err(problems)
        }
    }

    /// The line of a setting, from 1.
    pub fn line(&self, setting: &str) -> Option<usize> {
        self.lines.get(setting).copied()
    }

    fn read(&mut self, text: &str, prefix: &str, table: &DeTable<'_>, problems: &mut Vec<Problem>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                self.read(text, &format!("{name}."), inner, problems);
                continue;
            }
            let line = line_of(text, key.span().start);
            match scalar(value) {
                Some(value) => {
                    // A quoted key may hold dots: `"eu.acme".x` and `eu.acme.x` are one setting.
                    if self.settings.insert(name.clone(), value).is_some() {
                        problems.push(invalid(format!("line {line}: setting `{name}` comes twice")));
                    }
                    self.lines.insert(name, line);
                }
                None => problems.push(invalid(format!(
                    "line {line}: setting `{name}` takes a string, a number, true or false, or a list of those"
                ))),
            }
        }
    }
}

fn scalar(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(s) => Some(s.to_string()),
        DeValue::Integer(n) => Some(n.as_str().to_owned()),
        DeValue::Boolean(b) => Some(b.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<_>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(s) => Some(crate::setting::as_item(s)),
                    DeValue::Array(_) => None,
                    _ => scalar(item),
                })
                .collect();
            Some(items?.join(","))
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}

fn invalid(message: String) -> Problem {
    Problem::new(Code::InvalidSetting, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Policy;

    const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[retention]
max-age = \"14d\"
replicas = 3

[retry]
schedule = [\"1s\", \"5s\"]
";

    #[test]
    fn tables_are_dotted_settings() {
        let document = Document::parse(POLICY).unwrap();
        let policy = Policy::from_settings("policy.toml", &document.settings).unwrap();
        assert_eq!(
            (
                policy.retention.replicas,
                crate::show_duration(policy.retention.max_age)
            ),
            (3, "14d".into())
        );
        assert_eq!(document.settings["retry.schedule"], "1s,5s");
        assert_eq!(document.line("retention.replicas"), Some(6));
    }

    #[test]
    fn every_problem_has_its_line() {
        let problems = Document::parse("bus = \"a\"\nsubject = 1.5\nx = [[1]]\n[retention\n").unwrap_err();
        let text: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
        assert!(
            text.iter().any(|t| t.starts_with("line 2: setting `subject`")),
            "{text:?}"
        );
        assert!(text.iter().any(|t| t.starts_with("line 3: setting `x`")), "{text:?}");
        assert!(text.iter().any(|t| t.starts_with("line 4:")), "{text:?}");
    }

    #[test]
    fn a_tenant_may_have_any_name() {
        let text = format!(
            "{POLICY}\n[tenants]\nallowed = [\"eu.acme\", \"a, b\", \" \", \"\\\"q\\\"\"]\n\
             [quota.tenant.\"eu.acme\"]\nevents-per-second = 3\n[quota.tenant.\"a, b\"]\nmax-bytes = \"1MiB\"\n"
        );
        let policy = Policy::from_settings("policy.toml", &Document::parse(&text).unwrap().settings).unwrap();
        let mut names: Vec<_> = policy.tenants.iter().map(|t| t.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, [" ", "\"q\"", "a, b", "eu.acme"]);
        let quota = |tenant: &str| policy.quotas.of(&tenant.parse().unwrap());
        assert_eq!(quota("eu.acme").events_per_second, Some(3));
        assert_eq!(quota("a, b").max_bytes, Some(1 << 20));
        assert_eq!(quota("eu"), crate::quota::Quota::default());
        let twice = "[quota.tenant.\"eu.acme\"]\nmax-bytes = \"1MiB\"\n[quota.tenant.eu]\nacme.max-bytes = \"2MiB\"\n";
        let problems = Document::parse(twice).unwrap_err();
        assert!(problems[0].message.contains("comes twice"), "{problems:?}");
    }

    proptest! {
        #[test]
        fn what_a_list_holds_is_read_back(items in proptest::collection::vec("[a, \"\\\\é.*-]{1,6}", 1..5)) {
            let items: Vec<_> = items.into_iter().filter(|i| !i.is_empty()).collect();
            let text = items.iter().map(|i| crate::setting::as_item(i)).collect::<Vec<_>>().join(",");
            let read: Vec<_> = crate::setting::items(&text).unwrap().into_iter().map(|i| i.text).collect();
            prop_assert_eq!(read, items);
        }

        #[test]
        fn no_document_panics(text in "\\PC{0,200}") {
            drop(Document::parse(&text));
        }
    }
}
