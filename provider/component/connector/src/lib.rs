//! The bus as a component: it exports what a component imports of the bus, and calls the bus over `wasi:http`.
//!
//! Beside a component in a workload of a wasmCloud v2 host, or composed with it for any host of WASI 0.2, it takes the place of
//! the provider's link: the bus knows the workload by its token, as a caller of the policy. Who may do what is the bus's to say.
//!
//! There is nobody here who could be called back. A subscription that a component makes for its `handler` or `batch-handler` is
//! one that is fetched, and the runner fetches it.

#![cfg(target_family = "wasm")]

mod component;
