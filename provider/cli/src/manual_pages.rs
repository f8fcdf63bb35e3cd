//! `manual-pages`: the command line as pages for `man`, one for each verb.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::args::Args;
use crate::terminal::{json_line, say};

/// Writes the pages into a folder, or prints them as one JSON object, from file name to text.
pub(crate) fn manual_pages(folder: Option<&Path>, json: bool) -> Result<()> {
    let mut pages = BTreeMap::new();
    let mut command = Args::command();
    command.build();
    collect(&command, &mut pages)?;
    if json {
        return say!("{}", json_line(&serde_json::json!(pages)));
    }
    let folder = folder.context("name a folder, or --json")?;
    std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    for (name, text) in &pages {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    say!("{} pages in {}", pages.len(), folder.display())
}

fn collect(command: &Command, pages: &mut BTreeMap<String, String>) -> Result<()> {
    // `fanout dead-letters list` is `fanout-dead-letters-list(1)`.
    let name = command.get_bin_name().unwrap_or("fanout").replace(' ', "-");
    let mut text = Vec::new();
    // Without a date: the same program has the same pages.
    Man::new(command.clone())
        .title(&name)
        .manual("Fanout")
        .source(concat!("fanout ", env!("CARGO_PKG_VERSION")))
        .date("")
        .render(&mut text)
        .context("can't write a page")?;
    let text = String::from_utf8(text).context("a page is not text")?;
    pages.insert(format!("{name}.1"), text);
    for verb in command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
    {
        collect(verb, pages)?;
    }
    Ok(())
}
