//! What a person reads at the end: every event by where it was published, where it is kept, and who handled it.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::checks::Checks;
use crate::ledger::{Account, Where};
use crate::world::{FRANKFURT, KEPT, OREGON, VIRGINIA};

/// The events of one place.
pub(crate) struct Row {
    pub(crate) origin: Where,
    /// How many of them are in the log at each place of the end.
    pub(crate) stored: Vec<u64>,
    /// The subscription that is given the events of all places.
    pub(crate) invoicing: Account,
    /// That which each place has for its own.
    pub(crate) own: Account,
}

/// Notes that nothing is missing, and nothing came again after it was settled.
pub(crate) fn check(checks: &mut Checks, origin: &str, subscription: &str, account: &Account) {
    let none = String::new;
    checks.equal(
        format!("{origin}: events that {subscription} did not handle"),
        none(),
        account.missing.join(", "),
    );
    checks.equal(
        format!("{origin}: events that {subscription} handled again after they were settled"),
        none(),
        account.twice.join(", "),
    );
}

/// The table of the bus with places.
pub(crate) fn of_places(rows: &[Row]) -> String {
    let mut table = Table::new();
    let at = KEPT.map(|place| format!("log at\n{place}"));
    let mut header = vec!["published\nin".to_owned(), "events".to_owned()];
    header.extend(at);
    header.extend(
        [
            "invoicing in\nfrankfurt",
            "then in\nvirginia",
            "then in\noregon",
            "stock,\nits own",
            "missing",
            "twice",
        ]
        .map(str::to_owned),
    );
    table.set_header(header);
    for row in rows {
        table.add_row(row.cells());
    }
    let sum = |of: &dyn Fn(&Row) -> u64| rows.iter().map(of).sum::<u64>().to_string();
    let mut all = vec!["all".to_owned(), sum(&|row: &Row| row.invoicing.wanted)];
    all.extend((0..KEPT.len()).map(|n| sum(&|row: &Row| row.stored[n])));
    all.extend([
        sum(&|row: &Row| row.invoicing.at(FRANKFURT)),
        sum(&|row: &Row| row.invoicing.at(VIRGINIA)),
        sum(&|row: &Row| row.invoicing.at(OREGON)),
        sum(&|row: &Row| row.own.at(row.origin)),
        sum(&Row::missing),
        sum(&Row::twice),
    ]);
    table.add_row(all);
    plain(table)
}

/// The table of the bus that was migrated.
pub(crate) fn of_orders(account: &Account, stored: usize, places: [Where; 2]) -> String {
    let mut table = Table::new();
    table.set_header([
        "bus\n",
        "events\n",
        "log at the\nnew server",
        "fulfilment at\nthe old server",
        "then at\nthe new one",
        "missing\n",
        "twice\n",
    ]);
    table.add_row([
        "orders".to_owned(),
        account.wanted.to_string(),
        stored.to_string(),
        account.at(places[0]).to_string(),
        account.at(places[1]).to_string(),
        account.missing.len().to_string(),
        account.twice.len().to_string(),
    ]);
    plain(table)
}

fn plain(mut table: Table) -> String {
    table.load_style(presets::NOTHING);
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if n > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

impl Row {
    fn missing(&self) -> u64 {
        (self.invoicing.missing.len() + self.own.missing.len()) as u64
    }

    fn twice(&self) -> u64 {
        (self.invoicing.twice.len() + self.own.twice.len()) as u64
    }

    fn cells(&self) -> Vec<String> {
        let numbers = [self.invoicing.wanted]
            .into_iter()
            .chain(self.stored.iter().copied())
            .chain([
                self.invoicing.at(FRANKFURT),
                self.invoicing.at(VIRGINIA),
                self.invoicing.at(OREGON),
                self.own.at(self.origin),
                self.missing(),
                self.twice(),
            ]);
        let mut cells = vec![self.origin.to_owned()];
        cells.extend(numbers.map(|number| number.to_string()));
        cells
    }

    /// The same numbers for a program.
    pub(crate) fn report(&self) -> Value {
        json!({
            "origin": self.origin,
            "stored": KEPT.iter().zip(&self.stored).collect::<std::collections::BTreeMap<_, _>>(),
            "invoicing": report(&self.invoicing),
            "stock": report(&self.own),
        })
    }
}

/// An account for a program.
pub(crate) fn report(account: &Account) -> Value {
    json!({
        "wanted": account.wanted,
        "handled": &account.handled,
        "missing": &account.missing,
        "twice": &account.twice,
    })
}
