//! The generated bindings of what a component sees: its imports are ours to serve, its exports ours to call.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from two wit folders, which carry the documentation"
)]

pub(crate) mod calls {
    wasmtime::component::bindgen!({
        path: ["../../wit", "wit"],
        world: "fanout:runtime/calls",
        imports: { default: async | trappable },
    });
}

pub(crate) mod surroundings {
    wasmtime::component::bindgen!({
        path: ["../../wit", "wit"],
        world: "fanout:runtime/surroundings",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store.bucket": crate::keyvalue::Bucket,
            "wasmcloud:secrets/store.secret": crate::surroundings::Secret,
            "wasmcloud:bus/lattice.call-target-interface": crate::surroundings::Interface,
        },
    });
}

pub(crate) mod one {
    wasmtime::component::bindgen!({
        path: ["../../wit", "wit"],
        world: "fanout:runtime/handles-one",
        exports: { default: async },
        with: { "fanout:bus/types": super::calls::fanout::bus::types },
    });
}

pub(crate) mod many {
    wasmtime::component::bindgen!({
        path: ["../../wit", "wit"],
        world: "fanout:runtime/handles-many",
        exports: { default: async },
        with: { "fanout:bus/types": super::calls::fanout::bus::types },
    });
}

pub(crate) mod caught_up {
    wasmtime::component::bindgen!({
        path: ["../../wit", "wit"],
        world: "fanout:runtime/handles-caught-up",
        exports: { default: async },
        with: { "fanout:bus/types": super::calls::fanout::bus::types },
    });
}
