//! Another stream where it goes holds one of its subjects.

use std::path::PathBuf;

use fanout_plan::{Code, Problem};
use fanout_provider::jetstream::StoreError;

use super::*;

/// A bus, what it needs to go, and what stands in its way.
struct World {
    old: NatsServer,
    new: NatsServer,
    cli: Cli,
    policy: PathBuf,
    served: Served,
    published: usize,
}

impl World {
    async fn new(policy: &str) -> Self {
        let link = Link::new();
        let (old, new) = (link.old().await, link.joined("new", "").await);
        let cli = Cli::new(old.url());
        let policy = cli.policy(policy);
        let served = Served::start(&old.url(), &policy, &LISTEN);
        Self {
            old,
            new,
            cli,
            policy,
            served,
            published: 0,
        }
    }

    fn migrate(&self, more: &[&str]) -> (i32, String, String) {
        migrate(&self.cli, &self.policy, &self.old, &self.new, more)
    }

    async fn by_hand(&self) -> Migration {
        by_hand(&self.policy, &self.old, &self.new).await
    }

    /// Whether the bus goes on where it was: it stores and delivers.
    async fn goes_on(&mut self) {
        let bus = connect(&self.served.listen[0]).await.unwrap();
        let event = event("held.due", self.published);
        self.published += 1;
        publish(&bus, &event).await;
        let mut held = bus.subscribe(Subscription::declared("held")).await.unwrap();
        let delivery = next(&mut held).await;
        assert_eq!(delivery.event().id, event.id);
        delivery.ack().await.unwrap();
        held.stop(Duration::from_secs(1)).await;
    }

    /// Whether it goes to its end now, and holds there what was published.
    async fn goes_to_its_end(self) {
        let (code, out, err) = self.migrate(&[]);
        assert!(code == 0 && out.contains("is in domain new"), "{out}{err}");
        let there = Served::start(&self.new.url(), &self.policy, &LISTEN);
        let bus = connect(&there.listen[0]).await.unwrap();
        let mut positions = BTreeSet::new();
        for n in 0..=self.published {
            positions.insert(publish(&bus, &event("held.due", n)).await);
        }
        let positions: Vec<_> = positions.into_iter().collect();
        assert_eq!(positions.len(), self.published + 1, "{positions:?}");
        let mut held = bus.subscribe(Subscription::declared("held")).await.unwrap();
        let delivery = next(&mut held).await;
        assert_eq!(delivery.event().id, event("held.due", self.published).id);
        delivery.ack().await.unwrap();
    }
}

/// Makes a stream of somebody else.
async fn foreign(at: &str, subject: &str) {
    let js = async_nats::jetstream::new(async_nats::connect(at).await.unwrap());
    let config = async_nats::jetstream::stream::Config {
        name: "FOREIGN".to_owned(),
        subjects: vec![subject.to_owned()],
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
}

async fn take_away(at: &NatsServer) {
    let js = async_nats::jetstream::new(async_nats::connect(at.url()).await.unwrap());
    js.delete_stream("FOREIGN").await.unwrap();
}

/// Switches, and has somebody make a stream there behind a step.
async fn switched_beside(
    migration: Migration,
    at: &NatsServer,
    subject: &'static str,
    behind: impl Fn(&Step) -> bool + Send + Sync + 'static,
) -> Problem {
    let url = at.url();
    let mut migration = migration.showing(move |step| {
        if behind(step) {
            let made = foreign(&url, subject);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(made));
        }
    });
    let switched = tokio::spawn(async move { migration.switch(DRAIN).await });
    match switched.await.unwrap() {
        Err(StoreError::Refused(problems)) => problems[0].clone(),
        other => panic!("{other:?}"),
    }
}

/// Subjects of a tenant that there is not: what is published is not stored there, too.
const OF_NOBODY: &str = "payments.nobody.webhook.>";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_can_not_hold_is_said_before_the_bus_is_closed() {
    let mut world = World::new(&policy_of("")).await;
    world.goes_on().await;
    foreign(&world.new.url(), OF_NOBODY).await;
    for more in [&["--dry-run"][..], &[]] {
        is_refused(&world.migrate(more), "subject-taken", "FOREIGN");
    }
    take_away(&world.new).await;
    assert!(streams(&world.new).await.is_empty());
    // What was begun before is judged as well.
    killed_after(world.by_hand().await, |s| *s == Step::Closed).await;
    foreign(&world.new.url(), OF_NOBODY).await;
    for more in [&["--dry-run"][..], &[]] {
        is_refused(&world.migrate(more), "subject-taken", "FOREIGN");
    }
    let (code, out, err) = world.migrate(&["--back"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(streams(&world.new).await, ["FOREIGN"]);
    world.goes_on().await;
    // Somebody makes it while the bus is drained: deliveries go on, and publishing was never refused.
    take_away(&world.new).await;
    let migration = world.by_hand().await;
    migration.copy().await.unwrap();
    let problem = switched_beside(migration, &world.new, OF_NOBODY, |s| {
        assert!(*s != Step::Closed, "it is closed although the target can't hold it");
        *s == Step::Still
    })
    .await;
    assert!(
        problem.code == Code::SubjectTaken && problem.message.contains("FOREIGN"),
        "{problem}"
    );
    world.goes_on().await;
    take_away(&world.new).await;
    world.goes_to_its_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_does_not_promote_leaves_the_bus_where_it_was() {
    let mut world = World::new(&policy_of("topology = \"sharded(2)\"\n")).await;
    world.goes_on().await;
    let migration = world.by_hand().await;
    migration.copy().await.unwrap();
    // Behind the last look at what is there.
    let shard = "fanout.part.payments.0.1.nobody";
    let problem = switched_beside(migration, &world.new, shard, |s| *s == Step::Equal).await;
    assert!(
        problem.code == Code::SubjectTaken && problem.message.contains("goes on where it was"),
        "{problem}"
    );
    world.goes_on().await;
    is_refused(&world.migrate(&["--dry-run"]), "subject-taken", "FOREIGN");
    take_away(&world.new).await;
    let (code, out, err) = world.migrate(&["--dry-run"]);
    assert!(code == 0 && out.contains("copying"), "{out}{err}");
    world.goes_to_its_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_log_it_goes_on_once_nothing_is_in_the_way() {
    let mut world = World::new(&policy_of("")).await;
    world.goes_on().await;
    let migration = world.by_hand().await;
    migration.copy().await.unwrap();
    let is_log = |s: &Step| matches!(s, Step::Promoted(stream) if stream == "fanout_payments_log");
    let problem = switched_beside(migration, &world.new, "fanout.dead.payments.nobody", is_log).await;
    assert!(
        problem.code == Code::SubjectTaken && problem.message.contains("run `fanout migrate` again"),
        "{problem}"
    );
    for more in [&["--dry-run"][..], &[]] {
        is_refused(&world.migrate(more), "subject-taken", "FOREIGN");
    }
    is_refused(&world.migrate(&["--back"]), "bus-moved", "promoting");
    take_away(&world.new).await;
    world.goes_to_its_end().await;
}
