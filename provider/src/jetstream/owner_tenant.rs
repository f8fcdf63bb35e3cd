//! Finds the owner tenant of an event of the log.

use fanout_plan::TenantId;
use fanout_plan::partition::Partition;
use fanout_plan::pattern::View;
use fanout_plan::subscription::Registered;

use super::refusal::found;
use super::{Store, StoreError, read};
use crate::matching;

impl Store {
    /// The first event from an offset on that a subscription's own consumer delivers, and its tenant. `None` where there
    /// is none, where that consumer passes over it, and where the event pattern leaves it out.
    pub(crate) async fn owner_tenant(
        &self,
        registered: &Registered,
        partition: &Partition,
        from: u64,
    ) -> Result<Option<TenantId>, StoreError> {
        let filter = &registered.subscription.filter;
        let subjects = filter.subject_filters(&partition.template);
        // For many subjects at once: whatever comes first.
        let subject = match subjects.as_slice() {
            [subject] => subject.clone(),
            _ => partition.template.all(),
        };
        let log = self.log(partition.number).await?;
        let first = log.get_first_raw_message_by_subject(&subject, from).await;
        let Some(message) = found(first, "read an event that waits")? else {
            return Ok(None);
        };
        let position = fanout_plan::Position::new(partition.number, message.sequence);
        let event = partition.template.parse_subject(&message.subject);
        let tenant = event
            .filter(|(tenant, event_type)| filter.may_match(tenant, event_type))
            .map(|(tenant, _)| tenant)
            .filter(|tenant| !registered.is_isolated_at(tenant, position));
        let Some((tenant, pattern)) = tenant.clone().zip(filter.pattern()) else {
            return Ok(tenant);
        };
        let (mut headers, mut payload) = (Some(message.headers), message.payload);
        let event = read::event(&partition.template, &message.subject, &mut headers, &mut payload);
        let is_match = event.is_ok_and(|event| {
            let view = View {
                event: event.raw(),
                data: &payload,
            };
            matching::matches_now(pattern.steps(payload.len()), || pattern.matches(view))
        });
        Ok(is_match.then_some(tenant))
    }
}
