//! `backup` and `restore`: the streams of a bus in a folder, one file each, and `backup.json`, which says what is in them.

use std::fs::{DirBuilder, File};
use std::io::{Read as _, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fanout_plan::{Code, Problem};
use fanout_provider::jetstream::{Restored, StreamCopy};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::args::Store;
use crate::bus::{self, Refused};
use crate::terminal::{json_lines, printable, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) store: Store,
    /// The folder of the backup
    pub(crate) folder: PathBuf,
}

/// Written last: a folder without it holds no backup.
const MANIFEST: &str = "backup.json";
/// `rwx` of its owner alone: the registry has the secret of the instances.
const OWNERS: u32 = 0o700;
/// A manifest is a few KiB a stream.
const MOST_MANIFEST_BYTES: u64 = 64 << 20;

/// What a backup holds.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    bus: String,
    /// The version of Fanout that took it.
    fanout: String,
    taken_at: jiff::Timestamp,
    /// In the order in which they were copied.
    streams: Vec<Copied>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Copied {
    #[serde(flatten)]
    copy: StreamCopy,
    bytes: u64,
    sha256: String,
}

impl Copied {
    fn file(name: &str) -> String {
        format!("{name}.tar.s2")
    }
}

/// Writes a file, and knows what was written.
struct Written {
    file: File,
    bytes: u64,
    hash: Sha256,
}

impl Write for Written {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(part)?;
        self.hash.update(&part[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

pub(crate) async fn backup(args: &Backup, json: bool) -> Result<()> {
    let store = bus::store(&args.store).await?;
    let folder = &args.folder;
    empty(folder)?;
    let (on_disk, in_memory) = store.streams_to_copy().await?;
    if on_disk.is_empty() {
        let bus = &store.policy().bus;
        return Err(conflict(format!(
            "bus {bus} has no stream on disk here: there is nothing to back up"
        )));
    }
    let mut manifest = Manifest {
        bus: store.policy().bus.to_string(),
        fanout: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: jiff::Timestamp::now(),
        streams: Vec::new(),
    };
    for name in on_disk {
        let path = folder.join(Copied::file(&name));
        let failed = || format!("can't write {}", path.display());
        let file = File::create_new(&path).with_context(failed)?;
        let mut written = Written {
            file,
            bytes: 0,
            hash: Sha256::new(),
        };
        let copy = store.copy_stream(&name, &mut written).await?;
        written.file.sync_all().with_context(failed)?;
        if !json {
            say!("{name}: {} messages, {} bytes", copy.messages(), written.bytes)?;
        }
        manifest.streams.push(Copied {
            copy,
            bytes: written.bytes,
            sha256: hex::encode(written.hash.finalize()),
        });
    }
    let path = folder.join(MANIFEST);
    let failed = || format!("can't write {}", path.display());
    let mut file = File::create_new(&path).with_context(failed)?;
    let text = serde_json::to_vec_pretty(&manifest)?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .with_context(failed)?;
    let there = File::open(folder).and_then(|folder| folder.sync_all());
    there.with_context(|| format!("can't write {}", folder.display()))?;
    if json {
        let streams: Vec<_> = manifest
            .streams
            .iter()
            .map(|s| json!({ "name": s.copy.name, "messages": s.copy.messages(), "bytes": s.bytes }))
            .collect();
        return say!(
            "{}",
            json_lines(&json!({ "bus": manifest.bus, "streams": streams, "in_memory": in_memory }))
        );
    }
    for name in in_memory {
        say!("{name}: in memory, and not copied")?;
    }
    say!(
        "bus {} is backed up in {}",
        manifest.bus,
        printable(&folder.display().to_string())
    )
}

pub(crate) async fn restore(args: &Backup, json: bool) -> Result<()> {
    let folder = &args.folder;
    let manifest = read(folder)?;
    let store = bus::store(&args.store).await?;
    let bus = store.policy().bus.to_string();
    if manifest.bus != bus {
        return Err(conflict(format!(
            "the backup is of bus {}, and the policy names bus {bus}: streams are restored under their own names",
            manifest.bus
        )));
    }
    // Before anything is made.
    for copied in &manifest.streams {
        whole(folder, copied)?;
    }
    let mut done = Vec::new();
    for copied in &manifest.streams {
        let path = folder.join(Copied::file(&copied.copy.name));
        let mut file = File::open(&path).with_context(|| format!("can't read {}", path.display()))?;
        let restored = store.restore_stream(&copied.copy, &mut file).await?;
        let (name, messages) = (&copied.copy.name, copied.copy.messages());
        if !json {
            let before = match restored {
                Restored::Now => "",
                Restored::Before => ", there already",
            };
            say!("{name}: {messages} messages{before}")?;
        }
        done.push(json!({ "name": name, "messages": messages, "there_already": restored == Restored::Before }));
    }
    if json {
        let taken_at = manifest.taken_at.to_string();
        return say!(
            "{}",
            json_lines(&json!({ "bus": bus, "taken_at": taken_at, "streams": done }))
        );
    }
    say!("bus {bus} is as it was at {:.0}", manifest.taken_at)
}

/// Makes the folder of a backup. A backup is written over nothing.
fn empty(folder: &Path) -> Result<()> {
    let failed = || format!("can't make {}", folder.display());
    DirBuilder::new()
        .recursive(true)
        .mode(OWNERS)
        .create(folder)
        .with_context(failed)?;
    match folder.read_dir().with_context(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(conflict(format!(
            "{} is not empty: a backup is written into a folder of its own",
            folder.display()
        ))),
    }
}

fn read(folder: &Path) -> Result<Manifest> {
    let path = folder.join(MANIFEST);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(MOST_MANIFEST_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) => serde_json::from_str(&text).map_err(|e| damaged(format!("{} is none: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(damaged(format!(
            "{} is not there: that folder holds no backup, or one that was not finished",
            path.display()
        ))),
        Err(e) => Err(e).with_context(|| format!("can't read {}", path.display())),
    }
}

/// Whether a file's bytes are those that were written.
fn whole(folder: &Path, copied: &Copied) -> Result<()> {
    let path = folder.join(Copied::file(&copied.copy.name));
    let shown = path.display();
    let mut hash = HashOnly(Sha256::new());
    let read = File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hash));
    let bytes = read.map_err(|e| damaged(format!("{shown} can't be read: {e}")))?;
    if bytes != copied.bytes || hex::encode(hash.0.finalize()) != copied.sha256 {
        return Err(damaged(format!(
            "{shown} is not what was written: {bytes} bytes of {}",
            copied.bytes
        )));
    }
    Ok(())
}

struct HashOnly(Sha256);

impl Write for HashOnly {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        self.0.update(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn conflict(message: String) -> anyhow::Error {
    Refused(vec![Problem::new(Code::BackupConflict, message)]).into()
}

fn damaged(message: String) -> anyhow::Error {
    Refused(vec![Problem::new(Code::BackupDamaged, message)]).into()
}
