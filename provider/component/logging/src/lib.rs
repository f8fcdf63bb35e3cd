//! `wasi:logging` for hosts that lack it, which is no part of WASI 0.2: composed with a component that logs, it writes each message
//! as a line on standard error. `FANOUT_LOG` names the least level that is written, `info` without it.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, missing_docs, reason = "the generated bindings cross the boundary")]

use exports::wasi::logging::logging::{Guest, Level};

wit_bindgen::generate!({
    path: ["wit-logging", "wit"],
    world: "fanout:logging/logging-to-stderr",
    generate_all,
});

struct StandardError;

export!(StandardError);

impl Guest for StandardError {
    fn log(level: Level, context: String, message: String) {
        if (level as u8) < (least() as u8) {
            return;
        }
        // A message is one line, whatever stands in it.
        let message = message.escape_debug();
        match context.is_empty() {
            true => eprintln!("{} {message}", name(level)),
            false => eprintln!("{} {}: {message}", name(level), context.escape_debug()),
        }
    }
}

fn least() -> Level {
    let named = std::env::var("FANOUT_LOG").unwrap_or_default();
    let levels = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
        Level::Critical,
    ];
    let found = levels
        .into_iter()
        .find(|level| name(*level).eq_ignore_ascii_case(&named));
    found.unwrap_or(Level::Info)
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Trace => "TRACE",
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
        Level::Critical => "CRITICAL",
    }
}
