//! wRPC over the wasmCloud v1 lattice (NATS), isolated and bounded.
