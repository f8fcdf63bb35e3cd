//! What one instance of a component holds while it runs: its resources and its way to everything outside.

use std::sync::Arc;

use fanout_transport::CallContext;
use wasmtime::component::ResourceTable;
use wasmtime::{StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::Error as HttpError;
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::surroundings::Surroundings;

/// The memory that one instance may take.
const MEMORY_LIMIT: usize = 256 << 20;

/// The state of one instance. Every invocation has an instance of its own: nothing is left over for the next.
pub(crate) struct Guest {
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) table: ResourceTable,
    pub(crate) limits: StoreLimits,
    /// The trace that it was called in, which its calls to the bus go on with.
    traceparent: Option<String>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    calls_out: Denied,
}

impl Guest {
    /// No files, no network, no arguments, no environment: what a component may have, it imports.
    pub(crate) fn new(surroundings: Arc<Surroundings>, traceparent: Option<String>) -> Self {
        Self {
            surroundings,
            table: ResourceTable::new(),
            limits: StoreLimitsBuilder::new().memory_size(MEMORY_LIMIT).build(),
            traceparent,
            wasi: WasiCtx::builder().inherit_stderr().build(),
            http: WasiHttpCtx::new(),
            calls_out: Denied,
        }
    }
}

impl Guest {
    /// The context of a call to the bus.
    pub(crate) fn onward(&self) -> CallContext {
        CallContext {
            traceparent: self.traceparent.clone(),
            ..CallContext::default()
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.calls_out,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// On a wasmCloud host a component calls out only where a link lets it; here there are no links to HTTP.
struct Denied;

/// How the rest of an exchange went.
type Ended = Box<dyn Future<Output = Result<(), HttpError>> + Send>;

impl WasiHttpHooks for Denied {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Ended,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Ended), HttpError>> + Send> {
        Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)))
    }
}
