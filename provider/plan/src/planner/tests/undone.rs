//! A change of the log of which the store takes a part.

use super::*;

#[test]
fn a_change_that_is_refused_half_way_leaves_publishing_as_it_was() {
    let nothing = Observed::default();
    let shared = at(applied(&plan(&policy(&[]), &[], &nothing, 1).unwrap(), &nothing), 10);
    let there = shared.topology.layout();
    let planned = plan(&policy(&[("topology", "sharded(2)")]), &[], &shared, 2).unwrap();
    let tenants = ["acme", "globex", "initech", "hooli"].map(|tenant| tenant.parse().unwrap());

    let mut whole = planned.clone();
    assert!(whole.leave_undone(|_| false, &there), "every step was taken");
    assert_eq!(whole.layout, planned.layout);

    // The second shard is not made, and so nothing of the earlier generation is retired.
    let second =
        |step: &Step| matches!(step, Step::CreateStream(StreamSpec { partition: Some(p), .. }) if p.number == 2);
    let turns = |step: &Step| matches!(step, Step::RetireStream(_) | Step::BindStream(_));
    assert!(planned.steps.iter().any(second) && planned.steps.iter().any(turns));
    let mut half = planned.clone();
    let is_undone = |i: usize| second(&planned.steps[i]) || turns(&planned.steps[i]);
    assert!(
        !half.leave_undone(is_undone, &there),
        "the log is not another generation's"
    );
    for tenant in &tenants {
        assert_eq!(half.layout.publish_to(tenant), there.publish_to(tenant), "{tenant}");
        assert_eq!(
            half.layout.earlier(tenant).count(),
            0,
            "nothing is asked for on subjects that nobody has"
        );
    }
    assert!(half.layout.partitions.contains_key(&1) && !half.layout.partitions.contains_key(&2));
}
