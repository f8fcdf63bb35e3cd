//! Puts tables into a page, between the marks that are there for them.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Replaces what stands between `<!-- bench NAME -->` and `<!-- /bench NAME -->`.
pub(crate) fn replace(page: &Path, name: &str, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("can't read {}", page.display()))?;
    let changed = replaced(&text, name, table).with_context(|| {
        format!(
            "{} has no marks `<!-- bench {name} -->` and `<!-- /bench {name} -->`",
            page.display()
        )
    })?;
    std::fs::write(page, changed).with_context(|| format!("can't write {}", page.display()))
}

fn replaced(text: &str, name: &str, table: &str) -> Option<String> {
    let (open, close) = (format!("<!-- bench {name} -->"), format!("<!-- /bench {name} -->"));
    let (before, rest) = text.split_once(&open)?;
    let (_, after) = rest.split_once(&close)?;
    Some(format!("{before}{open}\n\n{}\n\n{close}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = "a\n<!-- bench x -->old<!-- /bench x -->\nz";
        let once = replaced(page, "x", "| t |\n").unwrap();
        assert_eq!(once, "a\n<!-- bench x -->\n\n| t |\n\n<!-- /bench x -->\nz");
        assert_eq!(replaced(&once, "x", "| t |\n").unwrap(), once);
        assert_eq!(replaced(page, "y", ""), None);
    }
}
