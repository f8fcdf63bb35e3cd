//! The fanout:bus capability provider for wasmCloud v1.
