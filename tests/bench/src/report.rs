//! What was measured: every sample as a JSON line, and a table of medians with their spread.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::case::Size;
use crate::processor::Used;

/// One measurement.
#[derive(Debug, Serialize)]
struct Sample<'a> {
    bench: &'a str,
    group: &'a str,
    case: &'a str,
    unit: &'a str,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// Seconds of processor time, by who used it.
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<BTreeMap<&'static str, f64>>,
}

/// What a value was measured with.
#[derive(Debug)]
pub(crate) struct Took {
    pub(crate) events: usize,
    pub(crate) seconds: f64,
    /// Empty where it was not looked at.
    pub(crate) used: Used,
}

impl Took {
    pub(crate) fn new(events: usize, seconds: f64) -> Self {
        Self {
            events,
            seconds,
            used: Used::new(),
        }
    }
}

/// Every value of one case.
#[derive(Debug)]
struct Row {
    group: String,
    case: String,
    unit: &'static str,
    values: Vec<f64>,
    events: usize,
    used: Used,
}

impl Row {
    /// The cell of its processor time: the sum, and whose it is.
    fn processor(&self) -> String {
        if self.used.is_empty() || self.events == 0 {
            return " |".to_owned();
        }
        let micros = |seconds: f64| (seconds * 1e6 / self.events as f64).round();
        let parts: Vec<_> = self
            .used
            .iter()
            .filter(|(_, seconds)| micros(**seconds) > 0.0)
            .map(|(part, seconds)| format!("{} {}", part.name(), micros(*seconds)))
            .collect();
        format!(" {}: {} |", micros(self.used.values().sum()), parts.join(", "))
    }
}

/// The report of one bench.
#[derive(Debug)]
pub(crate) struct Report {
    name: &'static str,
    size: Size,
    samples: BufWriter<File>,
    rows: Vec<Row>,
    /// Tables in place of the usual one.
    shown: Option<String>,
    aims: Vec<Aim>,
}

/// What a case's processor time is to be: its budget is that of the case beside it, divided by `least`. Nothing fails because
/// an aim is not met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    pub(crate) group: &'static str,
    pub(crate) case: &'static str,
    /// The case that it is compared with.
    pub(crate) beside: &'static str,
    /// The least that the other's time is of its own.
    pub(crate) least: f64,
}

impl Report {
    pub(crate) fn new(name: &'static str, size: Size, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let path = folder.join(format!("{name}.jsonl"));
        let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
        tell!("{name}: raw samples go to {}", path.display());
        Ok(Self {
            name,
            size,
            samples: BufWriter::new(file),
            rows: Vec::new(),
            shown: None,
            aims: Vec::new(),
        })
    }

    /// Events and the time they took.
    pub(crate) fn rate(&mut self, group: &str, case: &str, events: usize, seconds: f64) -> Result<()> {
        self.round(group, case, Took::new(events, seconds))
    }

    /// The same, of what was looked at more closely.
    pub(crate) fn round(&mut self, group: &str, case: &str, took: Took) -> Result<()> {
        let rate = took.events as f64 / took.seconds;
        self.keep(group, case, "events/s", rate, Some(took))
    }

    /// A value of another kind.
    pub(crate) fn value(&mut self, group: &str, case: &str, unit: &'static str, value: f64) -> Result<()> {
        self.keep(group, case, unit, value, None)
    }

    /// Shows these tables and not the usual one.
    pub(crate) fn show(&mut self, tables: String) {
        self.shown = Some(tables);
    }

    /// Says below the table whether an aim is met.
    pub(crate) fn aim(&mut self, aim: Aim) {
        self.aims.push(aim);
    }

    /// The processor time of one event of a case, in seconds.
    fn processor(&self, group: &str, case: &str) -> Option<f64> {
        let row = self.rows.iter().find(|r| r.group == group && r.case == case)?;
        let used: f64 = row.used.values().sum();
        (row.events > 0 && used > 0.0).then(|| used / row.events as f64)
    }

    fn judged(&self, aim: &Aim) -> Option<String> {
        let ratio = self.processor(aim.group, aim.beside)? / self.processor(aim.group, aim.case)?;
        Some(format!(
            "Aim, of processor time: *{}* at least {} of *{}*: {ratio:.2}, {}.",
            aim.case,
            aim.least,
            aim.beside,
            if ratio >= aim.least { "met" } else { "not met" }
        ))
    }

    /// The middle of a case's values.
    pub(crate) fn median(&self, group: &str, case: &str, unit: &str) -> Option<f64> {
        let row = self
            .rows
            .iter()
            .find(|r| r.group == group && r.case == case && r.unit == unit)?;
        Some(Spread::of(&row.values).median)
    }

    /// A value, and what it was measured with.
    pub(crate) fn keep(
        &mut self,
        group: &str,
        case: &str,
        unit: &'static str,
        value: f64,
        took: Option<Took>,
    ) -> Result<()> {
        let by_name = |t: &Took| t.used.iter().map(|(part, seconds)| (part.name(), *seconds)).collect();
        let sample = Sample {
            bench: self.name,
            group,
            case,
            unit,
            value,
            events: took.as_ref().map(|t| t.events),
            seconds: took.as_ref().map(|t| t.seconds),
            processor: took.as_ref().filter(|t| !t.used.is_empty()).map(by_name),
        };
        serde_json::to_writer(&mut self.samples, &sample)?;
        self.samples.write_all(b"\n")?;
        tell!("  {group}: {case}: {} {unit}", shown(value));
        let known = |r: &Row| r.group == group && r.case == case && r.unit == unit;
        let at = self.rows.iter().position(known).unwrap_or(self.rows.len());
        if at == self.rows.len() {
            self.rows.push(Row {
                group: group.to_owned(),
                case: case.to_owned(),
                unit,
                values: Vec::new(),
                events: 0,
                used: Used::new(),
            });
        }
        let row = &mut self.rows[at];
        row.values.push(value);
        if let Some(took) = took {
            row.events += took.events;
            for (part, seconds) in took.used {
                *row.used.entry(part).or_default() += seconds;
            }
        }
        Ok(())
    }

    /// The table, as Markdown. Rates are compared with the first row of their group.
    pub(crate) fn finish(mut self) -> Result<String> {
        self.samples.flush()?;
        let rounds = match self.size {
            Size::Quick => "quick run: not to be quoted",
            Size::Usual => "usual run",
            Size::Full => "full run",
        };
        if let Some(tables) = &self.shown {
            return Ok(format!("**{}** ({rounds})\n{tables}", self.name));
        }
        let timed = self.rows.iter().any(|row| !row.used.is_empty());
        let (head, rule, blank) = if timed {
            (" processor, µs an event |", "---|", " |")
        } else {
            ("", "", "")
        };
        let mut table = format!(
            "**{}** ({rounds})\n\n| case | median | min to max | unit | ratio |{head}\n|---|---:|---:|---|---:|{rule}\n",
            self.name
        );
        let mut group = "";
        let mut base = None;
        for row in &self.rows {
            let spread = Spread::of(&row.values);
            if row.group != group {
                group = &row.group;
                base = (row.unit == "events/s").then_some(spread.median);
                writeln!(table, "| *{group}* | | | | |{blank}")?;
            }
            let ratio = match base {
                Some(base) if row.unit == "events/s" && base > 0.0 => format!("{:.2}", spread.median / base),
                _ => String::new(),
            };
            writeln!(
                table,
                "| {} | {} | {} to {} | {} | {ratio} |{}",
                row.case,
                shown(spread.median),
                shown(spread.min),
                shown(spread.max),
                row.unit,
                if timed { row.processor() } else { String::new() },
            )?;
        }
        for aim in &self.aims {
            if let Some(judged) = self.judged(aim) {
                write!(table, "\n{judged}\n")?;
            }
        }
        Ok(table)
    }
}

/// The middle and the ends of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            median: (at(last / 2) + at(last.div_ceil(2))) / 2.0,
            min: at(0),
            max: at(last),
        }
    }
}

fn shown(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::Part;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of(&[7.0]).median, 7.0);
    }

    #[test]
    fn an_aim_is_of_processor_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("test", Size::Quick, folder.path()).unwrap();
        for (case, micros) in [("raw", 12.0), ("well", 20.0), ("badly", 21.0)] {
            let took = Took {
                events: 1_000_000,
                seconds: 1.0,
                used: Used::from([(Part::Bus, micros)]),
            };
            report.round("g", case, took).unwrap();
        }
        for case in ["well", "badly", "never measured"] {
            report.aim(Aim {
                group: "g",
                case,
                beside: "raw",
                least: 0.6,
            });
        }
        let table = report.finish().unwrap();
        let said: Vec<_> = table.lines().filter(|line| line.starts_with("Aim")).collect();
        assert_eq!(said.len(), 2, "{table}");
        assert!(said[0].ends_with("*raw*: 0.60, met."), "{table}");
        assert!(said[1].ends_with("*raw*: 0.57, not met."), "{table}");
    }

    #[test]
    fn a_row_says_whose_processor_time_an_event_takes() {
        let mut row = Row {
            group: String::new(),
            case: String::new(),
            unit: "events/s",
            values: vec![1.0],
            events: 1_000_000,
            used: Used::from([(Part::Bus, 12.4), (Part::Server, 30.2), (Part::Programs, 0.4)]),
        };
        assert_eq!(row.processor(), " 43: server 30, bus 12 |");
        row.used.clear();
        assert_eq!(row.processor(), " |");
    }
}
