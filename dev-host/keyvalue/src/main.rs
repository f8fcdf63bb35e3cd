//! wasi:keyvalue on NATS for the demo and the tests; production links the official provider.

fn main() {}
