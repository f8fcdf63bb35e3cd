//! A link is cut, or all are: each place goes on with what it has, and has everything afterwards.

use anyhow::Result;

use super::{CATCH_UP_LIMIT, LOOK_EVERY, Story};
use crate::wait::{Check, until};
use crate::world::{FRANKFURT, INVOICING, SHOP, STOCK, VIRGINIA};

impl Story<'_> {
    /// Cuts some of the links until every place has published and the shop's own subscriber has handled its share, and heals them.
    pub(super) async fn cut(&mut self, which: &[usize]) -> Result<()> {
        let world = self.world;
        let links: Vec<_> = which.iter().map(|n| &world.links[*n]).collect();
        let between = match links.as_slice() {
            [(between, _)] => format!("The link between {between} is cut"),
            _ => "Every link is cut at once".to_owned(),
        };
        self.act(&between);
        for (_, link) in &links {
            link.cut();
        }
        until("the links to be cut", CATCH_UP_LIMIT, LOOK_EVERY, async || {
            let open: usize = links.iter().map(|(_, link)| link.connections()).sum();
            Ok(match open {
                0 => Check::Found(()),
                _ => Check::NotYet(format!("{open} connections are open")),
            })
        })
        .await?;
        let (since, sold) = (self.taken(), self.ledger.accepted(SHOP));
        self.goes_on_publishing(&since).await?;
        let taken = self.taken_since(&since);
        // What the shop took meanwhile, its own subscriber has, whatever is cut.
        let meanwhile = &self.ledger.accepted(SHOP) - &sold;
        self.handled(STOCK, &meanwhile).await?;
        for (place, taken) in &taken {
            self.checks.at_least(
                format!("{place}: events taken while \"{between}\""),
                self.events,
                *taken,
            );
        }
        self.console.timed(format!(
            "{} events were taken meanwhile in Frankfurt, {} in Virginia, {} in the shop, whose own subscriber handled {}; \
             invoicing waits for {} from beyond the cut",
            taken[FRANKFURT],
            taken[VIRGINIA],
            taken[SHOP],
            meanwhile.len(),
            self.beyond_the_cut()
        ));

        for (_, link) in &links {
            link.heal();
        }
        let healed = self.console.elapsed();
        self.invoicing_caught_up().await?;
        self.are_joined().await?;
        let took = (self.console.elapsed() - healed).as_secs_f64();
        self.console.timed(format!(
            "healed: after {took:.1} s invoicing has all of them, and every place mirrors the others"
        ));
        Ok(())
    }

    /// What invoicing has not handled of other places than Frankfurt, where it is when links are cut.
    fn beyond_the_cut(&self) -> usize {
        let others = self.names().into_iter().filter(|place| *place != FRANKFURT);
        let missing = others.map(|place| {
            self.ledger
                .account(INVOICING, &self.ledger.accepted(place))
                .missing
                .len()
        });
        missing.sum()
    }
}
