//! Tests on a real nats-server and a real wasmCloud host.
