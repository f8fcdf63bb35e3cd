//! Which deliveries were with the handler when the runner ended.
//!
//! A handler that traps takes the runner along, and the host starts it again. What it was at is noted before the handler is
//! called, so that the next one counts the trap as the attempt that it was, as a bus does that calls a handler itself: a batch
//! is handed over one by one, and what trapped alone is refused with `retry`. Without a note the event would come again for
//! ever, an attempt that nobody counts.
//!
//! The note is a set, which outlives the runner: what one life adds stays until a later one has its answer, however many traps
//! there were in between.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fanout_component::types::Delivery;

/// Notes larger than this are none of ours.
const MAX_BYTES: u64 = 1 << 20;
/// The most that is noted, the latest: two of the largest fetches.
const MAX_NOTED: usize = 2_000;

/// The notes: a file in a folder that outlives the runner, or none.
#[derive(Debug, Default)]
pub struct Attempts {
    folder: Option<PathBuf>,
    noted: Vec<Noted>,
    /// That it can't be noted is said once.
    is_said: bool,
}

/// An attempt that has begun, and has no answer.
#[derive(Debug, PartialEq)]
struct Noted {
    key: String,
    /// No other was with the handler then.
    is_alone: bool,
}

impl Attempts {
    /// Reads what the last runner left in a folder. A note that can't be read is an empty one.
    ///
    /// # Errors
    /// When nothing can be written to the folder.
    pub fn load(folder: Option<PathBuf>) -> io::Result<Self> {
        let Some(folder) = folder else {
            return Ok(Self::default());
        };
        let noted = read(&file_in(&folder)).unwrap_or_else(|error| {
            eprintln!("what was under way before can't be read, and is not counted: {error}");
            Vec::new()
        });
        write(&folder, &noted)?;
        Ok(Self {
            folder: Some(folder),
            noted,
            is_said: false,
        })
    }

    /// This attempt was with the handler alone when a runner ended. It is until [`Attempts::end`].
    #[must_use]
    pub fn trapped(&self, delivery: &Delivery) -> bool {
        self.has(delivery, true)
    }

    /// It was among those that were with the handler when a runner ended: it is handed over alone.
    #[must_use]
    pub fn is_suspect(&self, delivery: &Delivery) -> bool {
        self.has(delivery, false)
    }

    /// Deliveries are about to be handed over.
    pub fn begin(&mut self, deliveries: &[Delivery]) {
        self.forget(deliveries);
        let is_alone = deliveries.len() == 1;
        let noted = deliveries.iter().map(key).map(|key| Noted { key, is_alone });
        self.noted.extend(noted);
        let too_many = self.noted.len().saturating_sub(MAX_NOTED);
        self.noted.drain(..too_many);
        self.note();
    }

    /// Their handler has answered, or the bus has taken that they were refused.
    pub fn end(&mut self, deliveries: &[Delivery]) {
        self.forget(deliveries);
        self.note();
    }

    fn has(&self, delivery: &Delivery, is_alone: bool) -> bool {
        if self.noted.is_empty() {
            return false;
        }
        let key = key(delivery);
        self.noted
            .iter()
            .any(|noted| noted.is_alone == is_alone && noted.key == key)
    }

    fn forget(&mut self, deliveries: &[Delivery]) {
        if !self.noted.is_empty() {
            let keys: BTreeSet<_> = deliveries.iter().map(key).collect();
            self.noted.retain(|noted| !keys.contains(&noted.key));
        }
    }

    fn note(&mut self) {
        let Some(folder) = &self.folder else {
            return;
        };
        // What can't be noted is delivered all the same: an attempt that is not counted is better than no attempt.
        if let Err(error) = write(folder, &self.noted)
            && !std::mem::replace(&mut self.is_said, true)
        {
            eprintln!("what is under way can't be noted, and a trap is not counted: {error}");
        }
    }
}

fn file_in(folder: &Path) -> PathBuf {
    folder.join("under-way")
}

fn read(file: &Path) -> io::Result<Vec<Noted>> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(io::Error::other("it is too large")),
        Ok(_) => {}
    }
    let noted = |line: &str| {
        let (how, key) = line.split_once(' ')?;
        let is_alone = match how {
            "alone" => true,
            "together" => false,
            _ => return None,
        };
        let key = key.to_owned();
        Some(Noted { key, is_alone })
    };
    Ok(fs::read_to_string(file)?.lines().filter_map(noted).collect())
}

/// Beside the note first, so that a runner that ends in between leaves one that is whole.
fn write(folder: &Path, noted: &[Noted]) -> io::Result<()> {
    let line = |Noted { key, is_alone }: &Noted| match is_alone {
        true => format!("alone {key}\n"),
        false => format!("together {key}\n"),
    };
    let next = folder.join("under-way.next");
    fs::write(&next, noted.iter().map(line).collect::<String>())?;
    fs::rename(&next, file_in(folder))
}

/// Which attempt this is, on one line.
fn key(delivery: &Delivery) -> String {
    let position = &delivery.position;
    format!(
        "{} {} {} {}",
        delivery.attempt, position.partition, position.offset, delivery.subscription
    )
}
