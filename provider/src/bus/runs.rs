//! The deliveries of one instance: which go on, which begin, and which are ending.
//!
//! Nobody waits for those that end: all that a change concerns are cancelled together, and joined by a task of their own
//! each, within a bound. What begins anew for the same subscription takes no event before that.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanout_plan::SubscriptionName;
use fanout_plan::subscription::{Progress, Reach, Registered};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::delivery::{Context, Running};
use crate::inbox::Inbox;
use crate::jetstream::Store;
use crate::view::View;

/// The deliveries of one instance.
#[derive(Default)]
pub(super) struct Runs {
    running: BTreeMap<SubscriptionName, Running>,
    /// Of those that are fetched.
    inboxes: BTreeMap<SubscriptionName, Arc<Inbox>>,
    /// Cancelled when the last of those that a subscription had before are over.
    ending: BTreeMap<SubscriptionName, CancellationToken>,
    joins: TaskTracker,
}

impl Runs {
    /// Starts and cancels deliveries so that they are those of the view, and shows them there. Waits for nothing.
    pub(super) fn bring(
        &mut self,
        store: &Store,
        view: &mut View,
        context: impl Fn(&Registered, Option<CancellationToken>) -> Context,
    ) {
        let is_served = |name: &SubscriptionName, registered: &Registered| {
            !view.detached.contains_key(name)
                && !view.unmade.contains(name)
                && registered.progress != Progress::Finished
                // What its fetchers hold is settled while it is paused, too.
                && (registered.delivers() || registered.subscription.reach == Reach::Inbox)
        };
        let goes_on = |name: &SubscriptionName, running: &Running| {
            let registered = view.registry.get(name).filter(|r| is_served(name, r));
            registered.is_some_and(|r| running.goes_on(r, store))
        };
        let over = self.running.iter().filter(|(name, running)| !goes_on(name, running));
        let over: Vec<_> = over.map(|(name, _)| name.clone()).collect();
        self.end(&over);
        for (name, registered) in &view.registry {
            if self.running.contains_key(name) || !is_served(name, registered) {
                continue;
            }
            if registered.delivers() {
                info!(subscription = %name, component = registered.component, need = registered.subscription.need.as_str(), "delivering");
            }
            let context = context(registered, self.ending.get(name).cloned());
            let mut running = Running::start(context);
            if let Some(inbox) = Inbox::of(&mut running) {
                self.inboxes.insert(name.clone(), inbox);
            }
            self.running.insert(name.clone(), running);
        }
        self.show(view);
    }

    /// Cancels all of them at once, and has them joined.
    fn end(&mut self, names: &[SubscriptionName]) {
        self.ending.retain(|_, ended| !ended.is_cancelled());
        let over: Vec<_> = names
            .iter()
            .filter_map(|name| self.running.remove_entry(name))
            .collect();
        for (name, running) in &over {
            self.inboxes.remove(name);
            running.cancel();
        }
        for (name, running) in over {
            let ended = CancellationToken::new();
            self.ending.insert(name, ended.clone());
            self.joins.spawn(async move {
                // Also where joining panics: whoever comes after must not wait for ever.
                let _ended = ended.drop_guard();
                running.join().await;
            });
        }
    }

    /// Shows them in a view.
    pub(super) fn show(&self, view: &mut View) {
        let running = self.running.iter().filter(|(_, r)| r.delivers());
        view.health = running
            .map(|(name, r)| (name.clone(), Arc::clone(r.health())))
            .collect();
        view.inboxes.clone_from(&self.inboxes);
        view.ending.clone_from(&self.ending);
    }

    /// Ends all of them, and waits until that is done: it is bounded.
    pub(super) async fn stop(mut self) {
        let all: Vec<_> = self.running.keys().cloned().collect();
        self.end(&all);
        self.joins.close();
        self.joins.wait().await;
    }
}
