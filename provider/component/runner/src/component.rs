//! What makes a runner a component: each of them says what it imports, and how that is called.

/// The whole of a runner's crate. `world` is what it imports of the component beside it, besides `export wasi:cli/run@0.3.0`; `one`
/// or `many` is what deliveries are handed to, one at a time or as they were fetched; `notified` is what is notified of a backfill that has
/// caught up, if there is such a handler.
///
/// The crate depends on `fanout-component` and `wit-bindgen`, and lies beside this one's folder.
#[macro_export]
macro_rules! runner {
    (world: $world:literal, $how:ident: $handler:path $(, notified: $notified:path)? $(,)?) => {
        ::wit_bindgen::generate!({
            inline: $world,
            path: ["../../../../wit", "../../runner/wit"],
            with: { "fanout:bus/types@0.2.0": ::fanout_component::types },
            generate_all,
        });

        struct Service;

        export!(Service);

        impl exports::wasi::cli::run::Guest for Service {
            /// Nothing is awaited: each call of the host is one that waits.
            async fn run() -> Result<(), ()> {
                let Err($crate::Misconfigured) = $crate::serve(Beside);
                Err(())
            }
        }

        /// The component in the same workload.
        struct Beside;

        impl $crate::Subscriber for Beside {
            const TAKES_BATCHES: bool = $crate::runner!(@takes_batches $how);
            const IS_NOTIFIED: bool = $crate::runner!(@is_notified $($notified)?);

            fn handle(
                &self,
                deliveries: &[::fanout_component::types::Delivery],
            ) -> Vec<Result<(), ::fanout_component::types::Rejection>> {
                $crate::runner!(@hand_over deliveries, $how: $handler)
            }

            fn caught_up(
                &self,
                progress: &::fanout_component::types::BackfillProgress,
            ) -> Result<(), ::fanout_component::types::Rejection> {
                $crate::runner!(@notify progress $(, $notified)?)
            }
        }
    };
    (@takes_batches one) => { false };
    (@takes_batches many) => { true };
    (@hand_over $deliveries:ident, one: $handler:path) => { $deliveries.iter().map($handler).collect() };
    (@hand_over $deliveries:ident, many: $handler:path) => { $handler($deliveries) };
    (@is_notified) => { false };
    (@is_notified $notified:path) => { true };
    (@notify $progress:ident) => {{
        // Nobody here wants to know.
        _ = $progress;
        Ok(())
    }};
    (@notify $progress:ident, $notified:path) => { $notified($progress) };
}
