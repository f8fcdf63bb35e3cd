//! A place is retired: its publishers go elsewhere, its subscription is moved, what it holds is at the others, and it is taken out.

use anyhow::{Context as _, Result};

use super::{CATCH_UP_LIMIT, LOOK_EVERY, Story};
use crate::wait::{Check, until};
use crate::world::{FRANKFURT, OREGON, Revision, VIRGINIA};

/// Virginia takes nothing new.
const RETIRED: Revision = Revision {
    number: 3,
    virginia: Some("retired = true\n"),
    has_oregon: true,
    invoicing_at: VIRGINIA,
};
/// It is no place of the bus any more.
const WITHOUT: Revision = Revision {
    number: 4,
    virginia: None,
    has_oregon: true,
    invoicing_at: OREGON,
};

impl Story<'_> {
    pub(super) async fn retired(&mut self) -> Result<()> {
        self.act("Virginia is retired, and taken out of the policy");
        let text = RETIRED.text();
        for place in &self.places {
            place.is_brought_to(&text).await?;
        }
        self.publishers_are_turned_away().await?;
        let took = self.taken_at(VIRGINIA);
        self.console.timed(format!(
            "Virginia answers `place-retired`: its webhooks are sent to Oregon; it has taken {took}"
        ));
        let virginia = self.place(VIRGINIA)?;
        self.moves(&virginia, OREGON).await?;
        let kept = self.nothing_is_left().await?;
        self.console.timed(
            "the status at Frankfurt says that Virginia may be taken out: its events are at every other place, and handled",
        );

        // It is, with its instance and its link.
        self.places.retain(|place| place.name != VIRGINIA);
        drop(virginia);
        let text = WITHOUT.text();
        for place in &self.places {
            place.is_brought_to(&text).await?;
        }
        let (between, link) = &self.world.links[0];
        link.cut();
        self.console.timed(format!(
            "it is no place any more, and the link between {between} is cut for good"
        ));
        let since = self.taken();
        self.goes_on_publishing(&since).await?;
        self.invoicing_caught_up().await?;
        self.checks.equal(
            "events that virginia took after it was retired",
            took,
            self.taken_at(VIRGINIA),
        );
        self.checks
            .at_least("events of virginia that frankfurt has", took, kept);
        let there = self.handled_at(OREGON);
        self.checks
            .at_least("events that invoicing handled in oregon", 1, there);
        self.console.timed(format!(
            "invoicing goes on in Oregon: {there} events by now, of all places"
        ));
        Ok(())
    }

    /// Waits until whoever published in Virginia was told to go elsewhere, and went.
    async fn publishers_are_turned_away(&mut self) -> Result<()> {
        let since = self.taken_at(OREGON);
        until("Virginia to take nothing", CATCH_UP_LIMIT, LOOK_EVERY, async || {
            self.publishers_go_on()?;
            let (refused, elsewhere) = (self.ledger.turned_away(VIRGINIA), self.taken_at(OREGON) - since);
            Ok(match refused > 0 && elsewhere > 0 {
                true => Check::Found(()),
                false => Check::NotYet(format!("{refused} were refused")),
            })
        })
        .await
    }

    /// Waits until nothing is left at the place that is retired, as Frankfurt sees it. Returns how many of its events are there.
    async fn nothing_is_left(&self) -> Result<u64> {
        let frankfurt = self.place(FRANKFURT)?;
        until(
            "nothing to be left in Virginia",
            CATCH_UP_LIMIT,
            LOOK_EVERY,
            async || {
                let status = frankfurt.operator.status().await?.place.context("it has places")?;
                let retiring = status.retiring.into_iter().find(|left| left.place.as_str() == VIRGINIA);
                Ok(match retiring {
                    Some(left) if left.may_be_removed => Check::Found(()),
                    Some(left) => Check::NotYet(left.to_string()),
                    None => Check::NotYet("it is not retired there".to_owned()),
                })
            },
        )
        .await?;
        let mirrors = frankfurt.mirrors().await?;
        let of_it = mirrors.iter().filter(|mirror| mirror.place.as_str() == VIRGINIA);
        Ok(of_it.map(|mirror| mirror.reached).sum())
    }
}
