//! The runbook: every procedure of docs/operations.md, typed as it stands there, while programs publish and a durable
//! subscription is served. All of them are done on one bus, one after another; at the end every accepted event is handled.

mod load;
mod machines;
mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use fanout_tests::{blocks, eventually};

use crate::load::{Load, fill, publish_reports};
use crate::world::World;

/// The part of the page that is procedures: what stands before and behind it is looked up.
const PART: &str = "# Procedures";

/// The procedures in the order in which they are done, by their headings.
const PROCEDURES: [&str; 15] = [
    "## Before you need it",
    "## Sizing",
    "## Moving to three replicas",
    "## Upgrading nats-server",
    "## Upgrading the bus",
    "## Backing up",
    "## A lost server",
    "## A lost quorum",
    "## A full disk",
    "## New certificates",
    "## A new password for the store",
    "## A leaf's health",
    "## A stuck subscription",
    "## A leaked token",
    "## Restoring",
];

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap()
}

/// The procedures of the page that have commands.
fn on_the_page(page: &str) -> Vec<String> {
    let (_, procedures) = page
        .split_once(&format!("\n{PART}\n"))
        .expect("the page has a part of procedures");
    let mut found = Vec::new();
    for block in blocks(procedures) {
        assert!(
            block.not_run.is_none(),
            "{}: a procedure is done, all of it",
            block.heading
        );
        assert_eq!(
            block.language, "console",
            "{}: what is typed is `console`",
            block.heading
        );
        if found.last() != Some(&block.heading) {
            found.push(block.heading);
        }
    }
    found
}

#[test]
fn every_procedure_of_the_page_is_done_here() {
    let found = on_the_page(&page());
    let here: BTreeSet<_> = PROCEDURES.iter().map(|heading| (*heading).to_owned()).collect();
    assert_eq!(found.len(), here.len(), "each stands once: {found:?}");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_procedure_does_what_the_page_says_under_load() {
    let page = page();
    let world = World::start().await;
    let load = Load::begin(&world).await;
    load.goes_on("at the beginning").await;
    let (mut backed_up, mut lost) = (Instant::now(), Instant::now());
    for heading in PROCEDURES {
        let began = Instant::now();
        // What has happened before somebody opens the page there.
        match heading {
            "## Backing up" => backed_up = Instant::now(),
            "## A lost server" => world.machines.ssh("nats-3", "systemctl kill --signal=KILL nats-server"),
            "## A lost quorum" => {
                for n in [2, 3] {
                    world
                        .machines
                        .ssh(&format!("nats-{n}"), "systemctl kill --signal=KILL nats-server");
                }
            }
            "## A full disk" => fill(&world).await,
            "## A leaf's health" => world.machines.ssh("leaf-1", "systemctl stop nats-server"),
            "## A stuck subscription" => {
                publish_reports(&world, 5).await;
                eventually("the first reports are given up", || async {
                    let letters = ["dead-letters", "list", "payments.toml", "--context", "operator"];
                    world.fanout(&letters).1.contains("reports").then_some(())
                })
                .await;
            }
            "## Restoring" => {
                lose_everything(&world).await;
                lost = Instant::now();
            }
            _ => {}
        }
        let session = world.session(&page, heading);
        tokio::task::spawn_blocking(move || session.run()).await.unwrap();
        match heading {
            "## Moving to three replicas" => {
                let log = world.store().await.get_stream("fanout_payments_log").await.unwrap();
                assert_eq!(log.cached_info().config.num_replicas, 3);
            }
            "## A stuck subscription" => {
                eventually("every report is taken", || async {
                    (load.reports() == 5).then_some(())
                })
                .await;
            }
            "## Restoring" => load.forget_between(backed_up, lost),
            _ => {}
        }
        load.goes_on(&format!("after {heading}")).await;
        println!("{heading}: {:.1} s", began.elapsed().as_secs_f32());
    }
    for n in 1..=2 {
        let log = world.log_of(n);
        let panics = log.lines().filter(|line| line.contains("panicked"));
        assert_eq!(panics.count(), 0, "{log}");
    }
    load.end().await;
}

/// Takes the bus down, and every stream away.
async fn lose_everything(world: &World) {
    for n in 1..=2 {
        world
            .machines
            .ssh(&format!("bus-{n}"), "systemctl stop fanout@payments");
    }
    let js = world.store().await;
    for name in ["log", "dead", "scheduled", "marks", "retries"].map(|name| format!("fanout_payments_{name}")) {
        js.delete_stream(name).await.unwrap();
    }
    for name in ["registry", "attempts", "leases"].map(|name| format!("KV_fanout_payments_{name}")) {
        js.delete_stream(name).await.unwrap();
    }
}
