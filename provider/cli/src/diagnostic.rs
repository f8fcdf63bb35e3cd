//! A policy file that is refused: every problem with the line that it is about.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use fanout_plan::Problem;
use fanout_plan::document::Located;

/// A policy file that is not legal, with every reason.
#[derive(Debug)]
pub(crate) struct PolicyRefused {
    /// For programs: the file and the line are in the messages.
    pub(crate) problems: Vec<Problem>,
    /// For people: the line itself, and the setting underlined; where it may hold a secret, the file alone.
    pub(crate) shown: String,
}

impl PolicyRefused {
    /// What is wrong with a file of this text.
    pub(crate) fn new(file: &str, text: &str, problems: Vec<Located>) -> Self {
        let renderer = Renderer::plain();
        let shown: Vec<_> = problems
            .iter()
            .map(|located| renderer.render(&[group(file, text, located)]))
            .collect();
        Self {
            shown: shown.join("\n"),
            problems: problems.into_iter().map(|p| p.in_file(file, text)).collect(),
        }
    }
}

fn group<'a>(file: &'a str, text: &'a str, Located { problem, span }: &'a Located) -> Group<'a> {
    let title = Level::ERROR.primary_title(&problem.message).id(problem.code.as_str());
    // A token that stands in place of its hash would be shown to whoever reads the terminal, or the log of a build.
    let is_secret = |setting: &String| setting.ends_with(".token-sha256");
    match span
        .as_ref()
        .filter(|_| !problem.setting.as_ref().is_some_and(is_secret))
    {
        Some(span) => title.element(
            Snippet::source(text)
                .path(file)
                .annotation(AnnotationKind::Primary.span(span.clone())),
        ),
        None => title.element(Origin::path(file)),
    }
}

impl fmt::Display for PolicyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.problems.iter().map(ToString::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl std::error::Error for PolicyRefused {}
