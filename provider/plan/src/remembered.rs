//! What the registry holds of a subscription once an instance has written it, whatever another has written meanwhile.

use crate::subscription::{Progress, Registered};
use crate::unregistered::Tombstone;
use crate::withheld::Withheld;

/// The entry after an instance wrote one, by what is found in its place at that moment, or by what ended the one before it.
/// `None` if another instance was faster, so that the plan has to be made anew.
pub fn remembered(wanted: &Registered, found: Option<Registered>, ended: Option<Tombstone>) -> Option<Registered> {
    let (asked, component, made_by) = (&wanted.subscription, &wanted.component, wanted.made_by);
    let Some(have) = found else {
        // It was ended meanwhile.
        let is_ended = ended.is_some_and(|t| t.incarnation.is_some_and(|i| wanted.incarnation <= i));
        return (!is_ended).then(|| wanted.clone());
    };
    // It was moved aside before this.
    if have.yields_to(asked, component, made_by) {
        return Some(wanted.clone());
    }
    // Another instance made it meanwhile, or ended it and made it again: its consumers have other names.
    if have.id() != wanted.id() || have.can_become(asked, component, made_by).is_err() {
        return None;
    }
    // It begins anew in a log that was lost.
    if have.generation() < wanted.generation() {
        return Some(Registered {
            paused: have.paused,
            ..wanted.clone()
        });
    }
    // What another instance learned meanwhile is kept. One that was rewound meanwhile has heads of its own.
    let is_the_same_round = have.rewound == wanted.rewound;
    let of = if is_the_same_round { wanted } else { &have };
    let (head, delivered_before) = (of.head.clone(), of.delivered_before.clone());
    let is_finished = wanted.progress == Progress::Finished && is_the_same_round;
    Some(Registered {
        subscription: wanted.subscription.clone(),
        component: wanted.component.clone(),
        link: wanted.link.clone(),
        made_by: wanted.made_by,
        head,
        delivered_before,
        withheld: match (&have.withheld, &wanted.withheld) {
            // Whoever migrates the bus says so, and nobody else.
            _ if have.migrates() || wanted.migrates() => have.withheld.clone(),
            // Whoever hands it over says so, and nobody else.
            (Some(Withheld::MovesTo(_)), Some(Withheld::MovedTo(_))) => wanted.withheld.clone(),
            (Some(Withheld::MovesTo(_) | Withheld::MovedTo(_)), _) | (_, Some(Withheld::MovesTo(_))) => {
                have.withheld.clone()
            }
            _ => wanted.withheld.clone(),
        },
        progress: if is_finished { Progress::Finished } else { have.progress },
        ..have
    })
}
