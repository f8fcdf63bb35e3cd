//! A policy as a TOML document: the same settings as a provider's flat config, as nested tables.
//!
//! `[retention] max-age = "7d"` is the setting `retention.max-age`. A list stands for its items with commas between; an
//! item that holds a comma itself is quoted there.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Code, Problem, Settings};

/// The longest document, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Settings, and where each stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The settings under their dotted names.
    pub settings: Settings,
    keys: BTreeMap<String, Range<usize>>,
}

/// A problem, and where in the document it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// What is wrong.
    pub problem: Problem,
    /// The bytes of the text that it is about, if it is about a place.
    pub span: Option<Range<usize>>,
}

impl Located {
    /// The problem with the file, and the line of its text, before its message.
    pub fn in_file(self, file: &str, text: &str) -> Problem {
        let line = self.span.map(|span| format!(":{}", line_of(text, span.start)));
        Problem {
            message: format!("{file}{}: {}", line.unwrap_or_default(), self.problem.message),
            ..self.problem
        }
    }
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// For what is no TOML, every such place; and every value that no setting can have.
    pub fn parse(text: &str) -> Result<Self, Vec<Located>> {
        if text.len() > MAX_BYTES {
            let message = format!("the policy is {} bytes: at most {MAX_BYTES} are read", text.len());
            return Err(vec![invalid(message, None)]);
        }
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut problems: Vec<_> = errors
            .iter()
            .map(|e| invalid(e.message().to_owned(), e.span()))
            .collect();
        let mut document = Self::default();
        document.read("", table.get_ref(), &mut problems);
        if problems.is_empty() {
            Ok(document)
        } else {
            Err(problems)
        }
    }

    /// A problem with the key of the setting that it is about.
    pub fn locate(&self, problem: Problem) -> Located {
        let key = problem.setting.as_ref().and_then(|setting| self.keys.get(setting));
        Located {
            span: key.cloned(),
            problem,
        }
    }

    fn read(&mut self, prefix: &str, table: &DeTable<'_>, problems: &mut Vec<Located>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(inner) = value.get_ref() {
                // One that names something, such as `[places.virginia]`: a reader would take it for a place, and it says nothing of one.
                if inner.is_empty() && !prefix.is_empty() {
                    problems.push(invalid(
                        format!("table `{name}` is empty, and so is as if it were not there: give it a setting, or take it out"),
                        Some(key.span()),
                    ));
                }
                self.read(&format!("{name}."), inner, problems);
                continue;
            }
            match scalar(value) {
                Some(value) => {
                    // A quoted key may hold dots: `"eu.acme".x` and `eu.acme.x` are one setting.
                    if self.settings.insert(name.clone(), value).is_some() {
                        problems.push(invalid(format!("setting `{name}` comes twice"), Some(key.span())));
                    }
                    self.keys.insert(name, key.span());
                }
                None => problems.push(invalid(
                    format!("setting `{name}` takes a string, a number, true or false, or a list of those"),
                    Some(key.span()),
                )),
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

fn invalid(message: String, span: Option<Range<usize>>) -> Located {
    Located {
        problem: Problem::new(Code::InvalidSetting, message),
        span,
    }
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
        let mut problem = Problem::new(Code::InvalidSetting, "too many");
        problem.setting = Some("retention.replicas".to_owned());
        let located = document.locate(problem);
        assert_eq!(located.span.clone().map(|span| &POLICY[span]), Some("replicas"));
        assert_eq!(located.in_file("p.toml", POLICY).message, "p.toml:6: too many");
    }

    #[test]
    fn every_problem_has_its_line() {
        let text = "bus = \"a\"\nsubject = 1.5\nx = [[1]]\n[retention\n";
        let problems = Document::parse(text).unwrap_err();
        let said: Vec<_> = problems.into_iter().map(|p| p.in_file("p", text).message).collect();
        for begins in ["p:2: setting `subject`", "p:3: setting `x`", "p:4: "] {
            assert!(said.iter().any(|t| t.starts_with(begins)), "{said:?}");
        }
    }

    #[test]
    fn what_names_something_and_says_nothing_of_it_is_refused() {
        let (harmless, named) = (
            "[retention]\n[callers]\n",
            ["places.virginia", "callers.zoe", "quota.tenant.acme"],
        );
        assert!(Document::parse(harmless).is_ok());
        for (line, table) in named.into_iter().enumerate() {
            let above = "\n".repeat(line);
            let text = format!("{above}[{table}]\n");
            let problems = Document::parse(&text).unwrap_err();
            let said: Vec<_> = problems.into_iter().map(|p| p.in_file("p", &text).message).collect();
            assert!(
                said[0].starts_with(&format!("p:{}: table `{table}` is empty", line + 1)),
                "{said:?}"
            );
        }
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
        assert!(problems[0].problem.message.contains("comes twice"), "{problems:?}");
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
