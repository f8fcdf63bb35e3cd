//! The page for who has ten minutes: figures of all experiments in one text.
//!
//! Each experiment leaves its figures beside its samples. Once all have left some, of one scale, `pages/README.md` is
//! filled with them: its places are `{{EXPERIMENT:FIGURE}}` and `{{runs}}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::experiment::Experiment;
use crate::page;
use crate::table::Table;

/// What the summary needs of one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Ran {
    pub(crate) scale: String,
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) seconds: u64,
    pub(crate) figures: BTreeMap<String, String>,
}

impl Ran {
    fn path(folder: &Path, experiment: Experiment) -> PathBuf {
        folder.join(format!("{}.figures.json", experiment.name()))
    }

    /// Leaves it beside the samples.
    pub(crate) fn save(&self, folder: &Path, experiment: Experiment) -> Result<()> {
        let path = Self::path(folder, experiment);
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))
    }

    fn load(folder: &Path, experiment: Experiment) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(folder, experiment)).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// Writes the summary if all experiments have run at this scale; else says which have not.
pub(crate) fn write(folder: &Path, out: &Path, scale: &str) -> Result<Result<PathBuf, Vec<&'static str>>> {
    let mut runs = BTreeMap::new();
    for experiment in Experiment::ALL {
        if let Some(ran) = Ran::load(folder, experiment).filter(|ran| ran.scale == scale) {
            runs.insert(experiment.name(), ran);
        }
    }
    let missing: Vec<_> = Experiment::ALL
        .into_iter()
        .map(Experiment::name)
        .filter(|name| !runs.contains_key(name))
        .collect();
    if !missing.is_empty() {
        return Ok(Err(missing));
    }
    let text = filled(include_str!("../pages/README.md"), &runs).context("the summary")?;
    std::fs::create_dir_all(out).with_context(|| format!("can't make {}", out.display()))?;
    let path = out.join("README.md");
    std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    Ok(Ok(path))
}

fn filled(page: &str, runs: &BTreeMap<&'static str, Ran>) -> Result<String> {
    let value = |place: &str| match place.split_once(':') {
        None if place == "runs" => Some(table(runs).to_string().trim_end().to_owned()),
        Some((experiment, figure)) => runs.get(experiment)?.figures.get(figure).cloned(),
        _ => None,
    };
    Ok(page::fill(page, value)?.0)
}

/// What ran, where and for how long.
fn table(runs: &BTreeMap<&'static str, Ran>) -> Table {
    let mut table = Table::new("runs", &["question", "command", "took", "machine"]);
    for experiment in Experiment::ALL {
        if let Some(ran) = runs.get(experiment.name()) {
            table.row(vec![
                format!("[{}]({})", experiment.title(), experiment.file()),
                format!("`{}`", ran.command),
                format!("{} s", ran.seconds),
                ran.machine.clone(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(figures: &[(&str, &str)]) -> Ran {
        Ran {
            scale: "quick".into(),
            command: "cargo xtask findings leaf --quick --seed 7".into(),
            machine: "a machine".into(),
            seconds: 12,
            figures: figures.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        }
    }

    #[test]
    fn figures_of_every_experiment_are_filled_in_and_a_missing_one_is_named() {
        let runs = BTreeMap::from([("leaf", ran(&[("p50", "0.9 ms")]))]);
        assert_eq!(filled("lag {{leaf:p50}}.", &runs).unwrap(), "lag 0.9 ms.");
        assert!(filled("{{runs}}", &runs).unwrap().contains("| 12 s |"));
        let error = filled("{{leaf:p99}}", &runs).unwrap_err();
        assert_eq!(error.to_string(), "nothing was given for {{leaf:p99}}");
    }

    #[test]
    fn there_is_no_summary_before_all_have_run() {
        let folder = tempfile::tempdir().unwrap();
        ran(&[]).save(folder.path(), Experiment::Leaf).unwrap();
        let missing = write(folder.path(), folder.path(), "quick").unwrap().unwrap_err();
        assert_eq!(missing.len(), Experiment::ALL.len() - 1);
        assert!(!missing.contains(&"leaf"));
        assert!(
            write(folder.path(), folder.path(), "full")
                .unwrap()
                .unwrap_err()
                .contains(&"leaf")
        );
    }
}
