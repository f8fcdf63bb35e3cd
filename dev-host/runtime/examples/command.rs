//! Runs a component that is a program (`wasi:cli/run`), with its arguments and this process's standard streams, and
//! nothing else: `command FILE [ARGUMENT]…`. The engine is set as for the components of a bus, interruption included, so
//! that what a program measures of itself is what a component would take.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::p2::bindings::Command;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

const TICK: Duration = Duration::from_millis(10);

struct Program {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Program {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments.first().context("which component?")?;
    let bytes = std::fs::read(file).with_context(|| format!("can't read {file}"))?;

    let mut config = Config::new();
    config.epoch_interruption(true);
    let engine = Engine::new(&config)?;
    let component = Component::new(&engine, bytes)?;
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    let program = Program {
        wasi: WasiCtx::builder().inherit_stdio().args(&arguments).build(),
        table: ResourceTable::new(),
    };
    let mut store = Store::new(&engine, program);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    // A thread: what runs gives way only when it is told to.
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(TICK);
            engine.increment_epoch();
        }
    });
    let command = Command::instantiate_async(&mut store, &component, &linker).await?;
    if command.wasi_cli_run().call_run(&mut store).await?.is_err() {
        bail!("{file} ended with a failure");
    }
    Ok(())
}
