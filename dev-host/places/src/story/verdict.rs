//! The end of the story: every log is read at every place, and all of it is held to what was noted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::try_join;

use super::Story;
use super::migrated::{FULFILMENT, Migrated, NEW, OLD};
use crate::cli::Cli;
use crate::place::Log;
use crate::table::{self, Row};
use crate::world::{INVOICING, KEPT, ORIGINS, STOCK};

/// Partitions of a place begin at its number times this.
const PARTITIONS_OF_A_PLACE: u32 = 100_000;

impl Story<'_> {
    /// Waits for the last events, reads and judges.
    pub(super) async fn verdict(&mut self, cli: &Cli, migrated: Migrated) -> Result<()> {
        self.act("Everything is counted");
        self.stop_publishing().await?;
        self.invoicing_caught_up().await?;
        for place in ORIGINS {
            self.handled(STOCK, &self.ledger.accepted(place)).await?;
        }
        self.handled(FULFILMENT, &self.orders()).await?;
        self.are_joined().await?;
        self.console
            .timed("every event is handled, and every place has those of the others");
        let [frankfurt, shop, oregon] = self.places.as_slice() else {
            bail!("these are the places at the end: {}", self.names().join(", "));
        };
        let (frankfurt, shop, oregon, orders) =
            try_join!(frankfurt.log(), shop.log(), oregon.log(), migrated.new.log())?;
        self.console.timed("every log was read at every place");
        for (id, origin) in self.ledger.unsure() {
            if frankfurt.values().any(|stored| *stored == id) {
                self.ledger.note_accepted(id, origin);
            }
        }
        self.invoicing_caught_up().await?;
        // After that: what would come twice had the time to.
        self.stop_handling().await?;

        let logs = [&frankfurt, &shop, &oregon];
        for (place, log) in KEPT.into_iter().zip(logs).chain([(NEW, &orders)]) {
            self.checks.equal(
                format!("events that are stored twice at {place}"),
                String::new(),
                stored_twice(log).join(", "),
            );
        }
        self.checks.equal(
            "positions that are another event at another place",
            0,
            positions_off(&logs),
        );
        let mut rows = Vec::new();
        for (n, origin) in ORIGINS.into_iter().enumerate() {
            let events = self.ledger.accepted(origin);
            let stored = logs.map(|log| of_place(log, n));
            for ((place, log), stored) in KEPT.iter().zip(logs).zip(stored) {
                self.checks
                    .equal(format!("{origin}: events in the log at {place}"), events.len(), stored);
                let known = log.values().filter(|id| events.contains(*id)).count();
                self.checks
                    .equal(format!("{origin}: of its events at {place}"), events.len(), known);
            }
            let row = Row {
                origin,
                stored: stored.map(|stored| stored as u64).to_vec(),
                invoicing: self.ledger.account(INVOICING, &events),
                own: self.ledger.account(STOCK, &events),
            };
            self.checks.equal(
                format!("{origin}: events that stock handled where they were published"),
                row.own.wanted,
                row.own.at(origin),
            );
            table::check(&mut self.checks, origin, INVOICING, &row.invoicing);
            table::check(&mut self.checks, origin, STOCK, &row.own);
            rows.push(row);
        }
        let of_orders = self.ledger.account(FULFILMENT, &self.orders());
        self.checks.equal(
            "orders in the log at the new server",
            of_orders.wanted,
            orders.len() as u64,
        );
        table::check(&mut self.checks, "orders", FULFILMENT, &of_orders);
        for subscription in [INVOICING, STOCK, FULFILMENT] {
            let unknown = self.ledger.unknown(subscription);
            self.checks.equal(
                format!("events that {subscription} handled and nobody published"),
                String::new(),
                unknown.join(", "),
            );
        }

        self.console.line(format!("\n{}\n", table::of_places(&rows)));
        self.console
            .line(format!("{}\n", table::of_orders(&of_orders, orders.len(), [OLD, NEW])));
        if let Some(path) = &cli.report {
            let report = json!({
                "places": rows.iter().map(Row::report).collect::<Vec<_>>(),
                "orders": table::report(&of_orders),
                "checks": &self.checks,
                "off": self.checks.off(),
                "seconds": self.console.elapsed().as_secs_f64(),
            });
            std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("can't write {}", path.display()))?;
        }
        let off = self.checks.off();
        if !off.is_empty() {
            bail!(
                "{} of {} checks are off:\n  {}",
                off.len(),
                self.checks.count(),
                off.join("\n  ")
            );
        }
        self.console.line(format!(
            "PROVED by {} checks in {:.0} s: every event that was taken anywhere is at every place under one position, and was handled; \
             nothing was handled again after it was settled.",
            self.checks.count(),
            self.console.elapsed().as_secs_f64()
        ));
        Ok(())
    }
}

/// How many events of a log were published at a place, by their partitions.
fn of_place(log: &Log, number: usize) -> usize {
    let of_it = |partition: u32| (partition / PARTITIONS_OF_A_PLACE) as usize == number;
    log.keys().filter(|(partition, _)| of_it(*partition)).count()
}

/// Events that have two positions, with both.
fn stored_twice(log: &Log) -> Vec<String> {
    let mut first = BTreeMap::new();
    let all = log.iter();
    all.filter_map(|(position, id)| Some((first.insert(id, position)?, position, id)))
        .map(|(one, other, id)| format!("{id} at {}/{} and {}/{}", one.0, one.1, other.0, other.1))
        .collect()
}

/// How many positions name one event in one log, and another in another.
fn positions_off(logs: &[&Log]) -> usize {
    let mut events: BTreeMap<(u32, u64), &String> = BTreeMap::new();
    let all = logs.iter().flat_map(|log| log.iter());
    all.filter(|(position, id)| events.insert(**position, *id).is_some_and(|other| other != *id))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_is_another_event_elsewhere_is_counted() {
        let log = |events: &[(u32, u64, &str)]| -> Log {
            events.iter().map(|(p, o, id)| ((*p, *o), (*id).to_owned())).collect()
        };
        let here = log(&[(0, 1, "a"), (0, 2, "b"), (100_000, 1, "c")]);
        assert_eq!(positions_off(&[&here, &here.clone()]), 0);
        assert_eq!(positions_off(&[&here, &log(&[(0, 1, "a"), (0, 2, "c")])]), 1);
        assert!(stored_twice(&here).is_empty());
        assert_eq!(
            stored_twice(&log(&[(0, 1, "a"), (0, 2, "b"), (0, 4, "a")])),
            ["a at 0/1 and 0/4"]
        );
        assert_eq!((of_place(&here, 0), of_place(&here, 1), of_place(&here, 2)), (2, 1, 0));
    }
}
