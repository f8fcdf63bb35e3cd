//! Which deliveries were with the handler when the runner ended.
//!
//! A handler that traps takes the runner along, and the host starts it again. What it was at is noted before the handler is
//! called, so that the next one counts the trap as the attempt that it was, as a bus does that calls a handler itself: a batch
//! is handed over one by one, and what trapped alone is refused with `retry`. Without a note the event would come again for
//! ever, an attempt that nobody counts.

use std::fs;
use std::io;
use std::path::PathBuf;

use fanout_component::types::Delivery;

/// Notes larger than this are none of ours.
const MAX_BYTES: u64 = 1 << 20;

/// The notes: a file in a folder that outlives the runner, or none.
#[derive(Debug, Default)]
pub struct Attempts {
    file: Option<PathBuf>,
    /// What was under way in batches.
    together: Vec<String>,
    /// What was under way alone.
    alone: Vec<String>,
}

impl Attempts {
    /// Reads what the last runner left in a folder.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn load(folder: Option<PathBuf>) -> io::Result<Self> {
        let Some(folder) = folder else {
            return Ok(Self::default());
        };
        let file = folder.join("under-way");
        let mut attempts = Self {
            file: Some(file.clone()),
            ..Self::default()
        };
        let text = match fs::metadata(&file) {
            Ok(metadata) if metadata.len() <= MAX_BYTES => fs::read_to_string(&file)?,
            Ok(_) => String::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let keys: Vec<String> = text.lines().map(str::to_owned).collect();
        match keys.len() {
            1 => attempts.alone = keys,
            _ => attempts.together = keys,
        }
        Ok(attempts)
    }

    /// This attempt was with the handler alone when the runner ended. It is known once: refused, it has an attempt more.
    pub fn trapped(&mut self, delivery: &Delivery) -> bool {
        if self.alone.is_empty() {
            return false;
        }
        let key = key(delivery);
        let place = self.alone.iter().position(|known| *known == key);
        place.map(|place| self.alone.swap_remove(place)).is_some()
    }

    /// It was among those that were with the handler when the runner ended: it is handed over alone.
    #[must_use]
    pub fn is_suspect(&self, delivery: &Delivery) -> bool {
        !self.together.is_empty() && self.together.contains(&key(delivery))
    }

    /// Deliveries are about to be handed over.
    pub fn begin(&mut self, deliveries: &[Delivery]) {
        let keys: Vec<_> = deliveries.iter().map(key).collect();
        // What can't be noted is delivered all the same: an attempt that is not counted is better than no attempt.
        self.note(&keys.join("\n"));
    }

    /// Their handler has answered.
    pub fn end(&mut self, deliveries: &[Delivery]) {
        self.note("");
        if !self.together.is_empty() {
            let done: Vec<_> = deliveries.iter().map(key).collect();
            self.together.retain(|known| !done.contains(known));
        }
    }

    fn note(&self, text: &str) {
        if let Some(file) = &self.file
            && let Err(error) = fs::write(file, text)
        {
            eprintln!("what is under way can't be noted: {error}");
        }
    }
}

/// Which attempt this is, on one line.
fn key(delivery: &Delivery) -> String {
    let position = &delivery.position;
    format!(
        "{} {} {} {}",
        delivery.attempt, position.partition, position.offset, delivery.subscription
    )
}
