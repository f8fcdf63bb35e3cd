//! Puts tables and plots into a page.
//!
//! A page is Markdown with places: `{{command}}`, `{{machine}}`, `{{seed}}`, `{{took}}`, `{{table:NAME}}`, `{{plot:NAME}}`
//! and `{{figure:NAME}}`. All tables and plots that an experiment gives must be shown, and all that a page shows must be given.
//!
//! `{{part:NAME}}` is where another experiment has a part of the page. A part stands between two comments: whoever writes the
//! page leaves the part as it is, and whoever writes the part leaves the page as it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::experiment::{Experiment, Findings};
use crate::machine::Machine;

/// A run whose page is written.
pub(crate) struct Run<'a> {
    pub(crate) experiment: Experiment,
    pub(crate) findings: &'a Findings,
    pub(crate) machine: &'a Machine,
    pub(crate) command: &'a str,
    pub(crate) seed: u64,
    pub(crate) took: Duration,
    pub(crate) out: &'a Path,
}

/// Writes the page and its plots; returns the page's path.
pub(crate) fn write(run: &Run<'_>) -> Result<PathBuf> {
    std::fs::create_dir_all(run.out).with_context(|| format!("can't make {}", run.out.display()))?;
    let name = run.experiment.name();
    let path = run.out.join(run.experiment.file());
    // There is none before the first run.
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let text = fill(run.experiment.page(), |place| match place.split_once(':') {
        None if place == "command" => Some(run.command.to_owned()),
        None if place == "machine" => Some(run.machine.to_string()),
        None if place == "seed" => Some(run.seed.to_string()),
        None if place == "took" => Some(format!("{:.0} s", run.took.as_secs_f64())),
        Some(("table", table)) => {
            let found = run.findings.tables.iter().find(|t| t.name == table)?;
            Some(found.to_string().trim_end().to_owned())
        }
        Some(("plot", plot)) => {
            let found = run.findings.plots.iter().find(|p| p.name == plot)?;
            Some(format!("![{}]({name}-{plot}.svg)", found.title))
        }
        Some(("figure", figure)) => run.findings.figures.get(figure).cloned(),
        Some(("part", part)) => Some(part_of(&before, part).map_or_else(|| as_part(part, "Not run."), str::to_owned)),
        _ => None,
    });
    let (text, used) = text.with_context(|| format!("page {name}"))?;
    let tables = run.findings.tables.iter().map(|t| format!("table:{}", t.name));
    let plots = run.findings.plots.iter().map(|p| format!("plot:{}", p.name));
    if let Some(left_out) = tables.chain(plots).find(|given| !used.contains(given)) {
        bail!("page {name} leaves {left_out} out");
    }
    for plot in &run.findings.plots {
        plot.draw(&run.out.join(format!("{name}-{}.svg", plot.name)))?;
    }
    let text = match run.experiment.part_of() {
        None => text,
        Some(_) => {
            let part = as_part(name, &text);
            match part_of(&before, name) {
                Some(old) => before.replace(old, &part),
                None => format!("{before}{part}\n"),
            }
        }
    };
    std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// The comments between which a part stands.
fn marks(part: &str) -> (String, String) {
    (format!("<!-- part {part} -->"), format!("<!-- end of part {part} -->"))
}

fn as_part(part: &str, text: &str) -> String {
    let (begin, end) = marks(part);
    format!("{begin}\n{}\n{end}", text.trim_end())
}

/// A part of a page, with its comments.
fn part_of<'a>(page: &'a str, part: &str) -> Option<&'a str> {
    let (begin, end) = marks(part);
    let from = page.find(&begin)?;
    let to = from + page[from..].find(&end)? + end.len();
    Some(&page[from..to])
}

/// Fills every place, and says which there were.
pub(crate) fn fill(page: &str, value: impl Fn(&str) -> Option<String>) -> Result<(String, BTreeSet<String>)> {
    let mut text = String::with_capacity(page.len());
    let mut used = BTreeSet::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("{{") {
        let (place, after) = after.split_once("}}").context("a place is not closed")?;
        let filled = value(place).with_context(|| format!("nothing was given for {{{{{place}}}}}"))?;
        text.push_str(before);
        text.push_str(&filled);
        used.insert(place.to_owned());
        rest = after;
    }
    text.push_str(rest);
    Ok((text, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_between_its_comments_and_no_other_is() {
        let part = as_part("b", "text\n");
        let page = format!("before\n\n{part}\n\n{}\nbehind", as_part("c", "other"));
        assert_eq!(part_of(&page, "b"), Some(&*part));
        assert_eq!(part, "<!-- part b -->\ntext\n<!-- end of part b -->");
        assert_eq!(part_of("<!-- part b -->", "b"), None);
        assert_eq!(part_of(&page, "a"), None);
    }

    #[test]
    fn places_are_filled_and_an_unknown_one_is_named() {
        let value = |place: &str| (place == "table:a").then(|| "TABLE".to_owned());
        let (text, used) = fill("x {{table:a}} y", value).unwrap();
        assert_eq!((text.as_str(), used.contains("table:a")), ("x TABLE y", true));
        assert_eq!(
            fill("{{table:b}}", value).unwrap_err().to_string(),
            "nothing was given for {{table:b}}"
        );
        assert!(fill("{{table", value).is_err());
    }
}
