//! Archives whose bytes depend on what is in them and on nothing else: entries in the order of their paths, one time, one
//! owner, no names of this machine.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// How hard gzip tries.
pub type Effort = Compression;

/// A tar archive in the making.
#[derive(Clone, Debug)]
pub struct Archive {
    seconds: u64,
    /// What paths begin with: nothing, or `./` as in Debian's packages.
    begin: &'static str,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
enum Entry {
    Folder,
    File { mode: u32, bytes: Vec<u8> },
}

impl Archive {
    /// One whose entries carry this time, in seconds since 1970.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        Self {
            seconds,
            begin: "",
            entries: BTreeMap::new(),
        }
    }

    /// One whose paths begin with `./`, as `dpkg-deb` writes them.
    #[must_use]
    pub fn of_debian(seconds: u64) -> Self {
        Self {
            begin: "./",
            ..Self::new(seconds)
        }
    }

    /// Adds a file, and the folders above it.
    pub fn file(&mut self, path: impl Into<String>, mode: u32, bytes: impl Into<Vec<u8>>) {
        let path = path.into();
        self.folders_above(&path);
        let bytes = bytes.into();
        self.entries.insert(path, Entry::File { mode, bytes });
    }

    /// Adds a folder, and those above it.
    pub fn folder(&mut self, path: impl Into<String>) {
        let path = path.into();
        self.folders_above(&path);
        self.entries.insert(path, Entry::Folder);
    }

    fn folders_above(&mut self, path: &str) {
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Folder);
        }
    }

    /// How many bytes its files have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = self.entries.values().map(|entry| match entry {
            Entry::Folder => 0,
            Entry::File { bytes, .. } => bytes.len() as u64,
        });
        bytes.sum()
    }

    /// The archive.
    ///
    /// # Errors
    ///
    /// If a path is none that tar knows.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mtime(self.seconds);
            header.set_uid(0);
            header.set_gid(0);
            let (name, bytes): (_, &[u8]) = match entry {
                Entry::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(0o755);
                    (format!("{}{path}/", self.begin), &[])
                }
                Entry::File { mode, bytes } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    (format!("{}{path}", self.begin), bytes)
                }
            };
            header.set_size(bytes.len() as u64);
            builder
                .append_data(&mut header, &name, bytes)
                .with_context(|| format!("can't add {name}"))?;
        }
        builder.into_inner().context("can't write an archive")
    }

    /// The archive, compressed.
    ///
    /// # Errors
    ///
    /// If a path is none that tar knows.
    pub fn tar_gz(&self, effort: Effort) -> Result<Vec<u8>> {
        gzip(&self.tar()?, effort)
    }
}

/// Compresses, without a name and without a time.
///
/// # Errors
///
/// Never, as long as there is memory.
pub fn gzip(bytes: &[u8], effort: Effort) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), effort);
    encoder.write_all(bytes).context("can't compress")?;
    encoder.finish().context("can't compress")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_and_folders_come_before_what_is_in_them() {
        let write = |paths: [&str; 3]| {
            let mut archive = Archive::of_debian(1_700_000_000);
            for path in paths {
                archive.file(path, 0o644, path.as_bytes());
            }
            archive.folder("etc/fanout");
            archive.tar().unwrap()
        };
        let one = write(["usr/bin/b", "usr/bin/a", "usr/a"]);
        assert_eq!(
            one,
            write(["usr/a", "usr/bin/a", "usr/bin/b"]),
            "the order of additions is no matter"
        );
        let mut read = tar::Archive::new(one.as_slice());
        let mut seen = Vec::new();
        for entry in read.entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 1_700_000_000);
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            seen.push(String::from_utf8(entry.path_bytes().into_owned()).unwrap());
        }
        let expected = [
            "etc/",
            "etc/fanout/",
            "usr/",
            "usr/a",
            "usr/bin/",
            "usr/bin/a",
            "usr/bin/b",
        ];
        let plain: Vec<_> = seen.iter().map(|path| path.trim_start_matches("./")).collect();
        assert_eq!(plain, expected);
    }
}
