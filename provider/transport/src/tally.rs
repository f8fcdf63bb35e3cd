//! Counts what peers cause, and logs the count once a second: a peer can neither fill a disk nor scroll away a line that
//! is worth reading.
//!
//! It owns the rate of such lines alone. What is counted is decided elsewhere.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

/// How long one line stands for all that follow it.
const WINDOW: Duration = Duration::from_secs(1);
/// Of the one event that a line shows as an example.
const MAX_EXAMPLE_CHARS: usize = 240;

/// Events of one kind that peers cause: the first is logged at once with itself as the example; those of the second
/// after it are one line with their number, and so on until a second passes without any. At most one line a second,
/// whatever comes, and every event is in the sum of a line.
///
/// Clones count together. Within a Tokio runtime; outside of one, what follows the first event is counted and logged
/// with the next event that is logged.
#[derive(Clone, Debug)]
pub struct Tally {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    what: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A line was logged less than [`WINDOW`] ago.
    open: bool,
    /// Events since then.
    unlogged: u64,
    /// The first of those.
    example: String,
    total: u64,
}

impl Tally {
    /// Counts events that a log line calls `what`: `"calls that could not be read"`.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self {
            inner: Arc::new(Inner {
                what,
                state: Mutex::default(),
            }),
        }
    }

    /// Counts one event. `example` describes the event and its peer; it is formatted for the few events that a line
    /// shows, cut to 240 characters, and its controls are escaped.
    pub fn count<E: fmt::Display>(&self, example: impl FnOnce() -> E) {
        let mut state = self.inner.state();
        state.total += 1;
        if state.open {
            state.unlogged += 1;
            if state.unlogged == 1 {
                state.example = cut(&example());
            }
            return;
        }
        let unlogged = std::mem::take(&mut state.unlogged);
        // Without a runtime nobody would close the window: each event is a line then.
        let runtime = Handle::try_current().ok();
        state.open = runtime.is_some();
        drop(state);
        self.inner.log(unlogged + 1, &cut(&example()));
        if let Some(runtime) = runtime {
            let inner = Arc::clone(&self.inner);
            drop(runtime.spawn(async move { inner.windows().await }));
        }
    }

    /// Events since the start.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.inner.state().total
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what each window brought, until one brings nothing.
    async fn windows(&self) {
        loop {
            sleep(WINDOW).await;
            let (unlogged, example) = {
                let mut state = self.state();
                if state.unlogged == 0 {
                    state.open = false;
                    return;
                }
                (std::mem::take(&mut state.unlogged), std::mem::take(&mut state.example))
            };
            self.log(unlogged, &example);
        }
    }

    fn log(&self, events: u64, example: &str) {
        tracing::warn!(events, example, "{}", self.what);
    }
}

/// The beginning of a text, on one line.
fn cut(text: &impl fmt::Display) -> String {
    struct Cut(String, usize);
    impl fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                self.1 = self.1.checked_sub(1).ok_or(fmt::Error)?;
                match c.is_control() {
                    true => write!(self.0, "{}", c.escape_default())?,
                    false => self.0.push(c),
                }
            }
            Ok(())
        }
    }
    let mut cut = Cut(String::new(), MAX_EXAMPLE_CHARS);
    if write!(cut, "{text}").is_err() {
        cut.0.push('…');
    }
    cut.0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing::field::{Field, Visit};
    use tracing::{Event, Metadata, Subscriber, span};

    use super::*;

    /// Counts lines, and sums the events in them.
    #[derive(Clone, Default)]
    struct Lines {
        lines: Arc<AtomicU64>,
        events: Arc<AtomicU64>,
    }

    impl Visit for &Lines {
        fn record_u64(&mut self, field: &Field, value: u64) {
            if field.name() == "events" {
                self.events.fetch_add(value, Ordering::Relaxed);
            }
        }

        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            assert!(field.name() != "example" || format!("{value:?}").len() < 2 * MAX_EXAMPLE_CHARS);
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().ends_with("tally")
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            self.lines.fetch_add(1, Ordering::Relaxed);
            event.record(&mut &*self);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_a_line_a_second_and_none_of_it_is_forgotten() {
        let lines = Lines::default();
        let _default = tracing::subscriber::set_default(lines.clone());
        let tally = Tally::new("calls that could not be read");
        let logged = || {
            (
                lines.lines.load(Ordering::Relaxed),
                lines.events.load(Ordering::Relaxed),
            )
        };
        for _ in 0..5 {
            for _ in 0..10_000 {
                tally.count(|| "x".repeat(10_000));
            }
            sleep(WINDOW).await;
        }
        sleep(10 * WINDOW).await;
        let (written, events) = logged();
        assert!(written <= 7, "{written} lines in five seconds");
        assert_eq!((events, tally.total()), (50_000, 50_000));
        // After a quiet second the next event is logged at once.
        tally.count(|| "another");
        assert_eq!(logged(), (written + 1, 50_001));
    }

    #[test]
    fn an_example_is_one_short_line() {
        assert_eq!(cut(&"a\r\n\u{1b}[31mb"), "a\\r\\n\\u{1b}[31mb");
        assert_eq!(cut(&"ä".repeat(1000)).chars().count(), MAX_EXAMPLE_CHARS + 1);
    }
}
