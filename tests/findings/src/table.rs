//! Tables of a page.

use std::fmt;

/// A table, whose first column names the rows.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// What a page calls it: `{{table:NAME}}`.
    pub(crate) name: &'static str,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(name: &'static str, head: &[&str]) -> Self {
        Self {
            name,
            head: head.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.head.len(), "{}", self.name);
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.head.join(" | "))?;
        let rule: Vec<_> = (0..self.head.len())
            .map(|i| if i == 0 { "---" } else { "---:" })
            .collect();
        writeln!(f, "| {} |", rule.join(" | "))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// A rate for a person: three significant digits.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 100_000.0 => format!("{:.0}k", r / 1_000.0),
        r if r >= 1_000.0 => format!("{:.1}k", r / 1_000.0),
        r => format!("{r:.0}"),
    }
}

/// A time for a person, from milliseconds.
pub(crate) fn ms(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{:.1} s", v / 1_000.0),
        v if v >= 100.0 => format!("{v:.0} ms"),
        v if v >= 10.0 => format!("{v:.1} ms"),
        v => format!("{v:.2} ms"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new("rates", &["layout", "rate"]);
        table.row(vec!["shared".into(), rate(107_234.0)]);
        table.row(vec!["own".into(), rate(25_310.0)]);
        table.row(vec!["idle".into(), rate(12.4)]);
        expect![[r#"
            | layout | rate |
            | --- | ---: |
            | shared | 107k |
            | own | 25.3k |
            | idle | 12 |
        "#]]
        .assert_eq(&table.to_string());
    }

    #[test]
    fn a_time_has_the_unit_that_fits() {
        assert_eq!(
            [0.234, 12.34, 456.7, 12_345.6].map(ms),
            ["0.23 ms", "12.3 ms", "457 ms", "12.3 s"]
        );
    }
}
