//! The fanout:bus capability provider for wasmCloud v1.

fn main() {}
