//! A program that publishes with the client.

use std::time::Duration;

use fanout_client::{Bus, Error, ErrorKind, Event, Options, Receipt, connect_with};
use tokio::time::sleep;

use crate::history::now;
use crate::world::{Part, Phase, SLACK};

/// For a whole request.
pub const DEADLINE: Duration = Duration::from_millis(3_000);
const TENANT: &str = "acme";
const KEYS: [&str; 3] = ["x", "y", "z"];
/// Once there are no faults, it is published within this time.
const ACCEPTED: Duration = Duration::from_secs(20);

/// How programs call.
pub fn options(part: &mut Part) -> Options {
    let mut options = Options::default();
    options.deadline = DEADLINE;
    options.try_deadline = part.dice.milliseconds(300, 1_500);
    options.waits_for_quota = part.dice.chance(50);
    options
}

/// Connects, however often that is tried.
pub async fn connected(part: &Part, options: &Options) -> Bus {
    loop {
        let since = now();
        let connected = connect_with(&part.url, options.clone()).await;
        in_time(part, "connecting", since, options.deadline);
        match connected {
            Ok(bus) => return bus,
            Err(error) => part.world.history.note(format_args!("{}: {error}", part.name)),
        }
    }
}

/// Every call ends by its deadline.
pub fn in_time(part: &Part, what: &str, since: Duration, deadline: Duration) {
    let took = now() - since;
    part.world.history.holds(took <= deadline + SLACK, || {
        format!("{}: {what} ends within {deadline:?}: it took {took:?}", part.name)
    });
}

/// The software of its host.
pub async fn run(mut part: Part) -> turmoil::Result {
    let options = options(&mut part);
    let bus = connected(&part, &options).await;
    let mut count = 0;
    let mut refused = Vec::new();
    while part.world.phase() == Phase::Faults {
        let many = if part.dice.chance(30) { 1 + part.dice.roll(6) } else { 1 };
        let events: Vec<_> = (0..many).map(|_| event(&mut part, &mut count)).collect();
        let since = now();
        let results = match &events[..] {
            [event] => vec![bus.publish(event).await],
            _ => bus.publish_many(&events).await,
        };
        in_time(&part, "publishing", since, DEADLINE);
        part.world.history.holds(results.len() == events.len(), || {
            format!("{}: each event has a result", part.name)
        });
        for (event, result) in events.into_iter().zip(results) {
            let is_refused = matches!(&result, Err(error) if error.kind != ErrorKind::OutcomeUnknown);
            judge(&part, &event, result);
            if is_refused {
                refused.push(event);
            }
        }
        let wait = part.dice.milliseconds(5, 400);
        sleep(wait).await;
    }
    // Late frames have come by then.
    sleep(DEADLINE).await;
    for event in &refused {
        let stored = part.world.store().kept().copies(&event.id);
        part.world.history.holds(stored == 0, || {
            format!("{}: what was refused is not stored: {}", part.name, event.id)
        });
    }
    accepts(&mut part, &bus, &mut count).await;
    let name = part.name.clone();
    part.world.done(&name);
    Ok(())
}

fn event(part: &mut Part, count: &mut u64) -> Event {
    *count += 1;
    let id = format!("{}.{}.{count}", part.name, part.incarnation);
    let bytes = match part.dice.roll(12) {
        0 => part.dice.roll(100_000),
        _ => part.dice.roll(500),
    };
    Event::new(TENANT, "invoice.paid", id)
        .ordering_key(*part.dice.one_of(&KEYS))
        .data(vec![0x61; bytes as usize])
}

/// A receipt means stored, once; there is an error for everything else.
pub fn judge(part: &Part, event: &Event, result: Result<Receipt, Error>) {
    let history = &part.world.history;
    match result {
        Ok(receipt) => {
            let store = part.world.store();
            let (copies, position) = {
                let kept = store.kept();
                (kept.copies(&event.id), kept.position(&event.tenant, &event.id))
            };
            history.note(format_args!("{}: accepted {}", part.name, event.id));
            history.holds(copies == 1 && position == Some(receipt.position.offset), || {
                format!(
                    "a receipt means stored, once: {} is said to be at {:?}, is at {position:?}, {copies} times",
                    event.id, receipt.position
                )
            });
        }
        Err(error) => history.note(format_args!("{}: {} {:?} {error}", part.name, event.id, error.kind)),
    }
}

/// The bus takes events again: what the client holds of its connection came back.
async fn accepts(part: &mut Part, bus: &Bus, count: &mut u64) {
    let deadline = now() + ACCEPTED;
    let event = event(part, count);
    loop {
        let result = bus.publish(&event).await;
        let is_accepted = result.is_ok();
        judge(part, &event, result);
        if is_accepted {
            return;
        }
        if now() > deadline {
            let name = &part.name;
            part.world.history.broken(format_args!(
                "{name}: within {ACCEPTED:?} after the last fault an event is accepted"
            ));
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}
