//! What each user of the three servers may do, and what the servers refuse.

use fanout_tests::{BusStatus, Served, eventually};

use crate::cluster::{Cluster, audited, publish};

#[tokio::test(flavor = "multi_thread")]
async fn the_files_are_a_cluster_on_which_each_user_does_its_work_and_no_other() {
    let mut cluster = Cluster::start().await;
    let policy = cluster.policy();
    let mut args = cluster.comes_as("bus");
    args.extend(["--listen", "tcp://127.0.0.1:0"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let bus = Served::start(&cluster.urls(), &policy, &args);
    let to = bus.listen[0].clone();
    publish(&to, "e1");
    publish(&to, "e2");
    assert_eq!(audited(&to, 2).lines().count(), 2);
    let log = cluster.log().await;
    assert_eq!((log.config.num_replicas, log.state.messages), (3, 2));

    // The operator: what the command line needs.
    let file = policy.display().to_string();
    for verb in [
        &["plan"][..],
        &["status"],
        &["lost", "--seen"],
        &["tail", "--count", "2", "--from", "first"],
        &["pause", "audit"],
        &["resume", "audit"],
        &["rewind", "audit", "--to", "first"],
        &["dead-letters", "list"],
    ] {
        let (code, text) = cluster.operator(verb, &file);
        assert_eq!(code, 0, "{verb:?}: {text}");
    }
    // The bus notes how far its subscriptions have come, some moments later.
    eventually("the store is as the policy says", || async {
        let (_, text) = cluster.operator(&["plan"], &file);
        text.contains("nothing to do").then_some(())
    })
    .await;
    assert_eq!(cluster.refused_to("bus"), [""; 0]);
    assert_eq!(cluster.refused_to("operator"), [""; 0]);
    let not_the_operators = [
        "payments.acme.webhook.invoice.paid",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.PURGE.fanout_payments_dead",
        "$JS.API.STREAM.UPDATE.fanout_payments_log",
        "$JS.API.STREAM.MSG.DELETE.fanout_payments_log",
        "$JS.API.STREAM.CREATE.another",
        "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish",
        "$SYS.REQ.SERVER.PING.JSZ",
    ];
    cluster.is_refused("operator", &not_the_operators).await;

    // Who watches: the status and the metrics.
    let monitor = cluster.client("monitor").await;
    let answer = monitor.request("fanout.served.payments.status", "".into()).await;
    let status: BusStatus = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert!(status.subscription("audit").is_some(), "{status:?}");
    assert!(
        status.notices.is_empty(),
        "the servers keep `on-disk` and say so: {status:?}"
    );
    // Of what was just rewound nobody knows the count at once.
    eventually("the metrics count what waits", || async {
        let metrics = monitor.request("fanout.served.payments.metrics", "".into()).await;
        let metrics = String::from_utf8(metrics.ok()?.payload.to_vec()).ok()?;
        metrics.contains("fanout_pending{").then_some(())
    })
    .await;
    let not_the_monitors = [
        "payments.acme.webhook.invoice.paid",
        "fanout.dead.payments.audit.acme.0.1",
        "$KV.fanout_payments_registry.mine",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.MSG.GET.fanout_payments_log",
        "$JS.API.CONSUMER.CREATE.fanout_payments_log",
        "_INBOX.somebody",
        "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish",
    ];
    cluster.is_refused("monitor", &not_the_monitors).await;
    let not_the_buses = [
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.STREAM.DELETE.KV_LATTICEDATA_default",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "wasmbus.ctl.v1.default.host.get",
    ];
    cluster.is_refused("bus", &not_the_buses).await;
    assert_eq!(cluster.log().await.state.messages, 2);

    // One server after another, as for an upgrade: the bus goes on meanwhile.
    for n in 0..3 {
        cluster.servers[n].kill();
        publish(&to, &format!("e{}", n + 3));
        cluster.servers[n].restart().await;
        eventually("it is healthy", || cluster.is_healthy(n)).await;
        eventually("it has what the others have", || async {
            let replicas = cluster.log().await.cluster?.replicas;
            (replicas.len() == 2 && replicas.iter().all(|r| r.current && !r.offline)).then_some(())
        })
        .await;
    }
    // It was rewound, and is given all of them.
    let given = audited(&to, 5);
    for n in 1..=5 {
        assert!(given.contains(&format!(" e{n} ")), "{given}");
    }
}
