//! Every sample, as a line of JSON.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The samples of one run of one experiment.
pub(crate) struct Raw {
    path: PathBuf,
    file: RefCell<BufWriter<File>>,
    samples: Cell<u64>,
}

impl Raw {
    /// A new file in `folder`; one of an earlier run is replaced.
    pub(crate) fn create(folder: &Path, name: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let path = folder.join(format!("{name}.jsonl"));
        let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self {
            path,
            file: RefCell::new(BufWriter::new(file)),
            samples: Cell::new(0),
        })
    }

    /// Keeps one sample.
    pub(crate) fn note(&self, sample: &Value) -> Result<()> {
        let mut file = self.file.borrow_mut();
        writeln!(file, "{sample}").with_context(|| format!("can't write {}", self.path.display()))?;
        file.flush()?;
        self.samples.set(self.samples.get() + 1);
        Ok(())
    }

    pub(crate) fn samples(&self) -> u64 {
        self.samples.get()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
