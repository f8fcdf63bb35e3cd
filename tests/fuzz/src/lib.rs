//! What the fuzz targets have in common; each is a file of a few lines in `fuzz_targets/`.
//!
//! To add a target: a module here with a function that takes bytes and panics when something holds no more, a file in
//! `fuzz_targets/` that calls it, a `[[bin]]` in the manifest, and seeds in `seeds/TARGET/`. `cargo xtask fuzz` finds it by its file.

pub mod bus;
pub mod ingress;
pub mod webhook;

/// Defines the target of a signature scheme.
#[macro_export]
macro_rules! webhook_target {
    ($scheme:ident) => {
        ::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $crate::webhook::verify(::webhook_signature::Scheme::$scheme, data)
        });
    };
}
