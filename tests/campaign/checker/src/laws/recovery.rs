//! After the faults.

use crate::Facts;
use crate::recoveries::{self, Recovery};

/// Once the last fault is healed and no other begins within the policy's bound, a publish that is sent after it is
/// accepted within the bound, if one is sent; and at the end, no durable or backfill subscription has anything left.
pub(super) fn recovery(facts: &Facts<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for Recovery {
        fault,
        publish,
        bound,
        is_judged,
        ..
    } in recoveries::of(facts)
    {
        if is_judged && publish.is_none_or(|took| took > bound) {
            let took = publish.map_or("never".to_owned(), |took| format!("after {took} us"));
            broken.push(format!(
                "{} of {} was healed, and a publish accepted {took}",
                fault.kind, fault.on
            ));
        }
    }
    for (name, backlog) in &facts.left {
        if *backlog > 0 {
            broken.push(format!("{name} still has {backlog} events at the end"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::What;
    use crate::testing::{RECOVERY, Told, broken};

    fn healed() -> Told {
        let mut told = Told::durable();
        told.fault(1, "kill-server");
        told.line(What::Healed { fault: 1 });
        told
    }

    #[test]
    fn a_bus_that_never_comes_back_breaks_it() {
        let mut told = healed();
        told.publish("e1", None);
        told.pass(2 * RECOVERY);
        told.published("e1", 1);
        assert_eq!(
            broken(recovery, &told),
            ["kill-server of s1 was healed, and a publish accepted after 10000003 us"]
        );
        let mut told = healed();
        told.publish("e1", None);
        told.pass(2 * RECOVERY);
        told.line(What::Quiet);
        assert_eq!(
            broken(recovery, &told),
            ["kill-server of s1 was healed, and a publish accepted never"]
        );
    }

    #[test]
    fn one_that_comes_back_in_time_or_is_broken_again_does_not() {
        let mut told = healed();
        told.published("e1", 1);
        told.pass(2 * RECOVERY);
        assert_eq!(broken(recovery, &told), [""; 0]);
        let mut told = healed();
        told.pass(2 * RECOVERY);
        told.published("e1", 1);
        assert_eq!(broken(recovery, &told), [""; 0], "nobody tried before");
        let mut told = healed();
        told.fault(2, "kill-server");
        told.pass(2 * RECOVERY);
        told.line(What::Healed { fault: 2 });
        told.published("e1", 1);
        told.pass(2 * RECOVERY);
        assert_eq!(broken(recovery, &told), [""; 0]);
    }

    #[test]
    fn what_is_left_at_the_end_breaks_it() {
        let mut told = Told::durable();
        told.line(What::Left {
            subscription: "billing".into(),
            backlog: 2,
        });
        assert_eq!(broken(recovery, &told), ["billing still has 2 events at the end"]);
    }
}
