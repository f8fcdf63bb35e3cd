//! A region that is a cluster, and a leaf that is one server: one bus, and each place has as many copies as it can.

use fanout_tests::clustered_jetstream_domain;
use futures::TryStreamExt as _;

use super::*;

async fn copies(nats: &NatsServer) -> Vec<(String, usize)> {
    let js = async_nats::jetstream::new(nats.client().await);
    let mut streams: Vec<_> = js
        .streams()
        .map_ok(|info| (info.config.name, info.config.num_replicas))
        .try_collect()
        .await
        .unwrap();
    streams.sort();
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_keeps_three_copies_and_its_leaf_one() {
    let port = free_ports(1)[0];
    let mut region = clustered_jetstream_domain("hub", 3, LeafNodes::Hub(port)).await;
    let leaf = jetstream_domain("shop", "", LeafNodes::Leaf(port)).await;
    let places = PLACES.replace("leaf-of = ", "retention.replicas = 1\nleaf-of = ");
    let text = format!("retention.replicas = 3\n{SERVED_POLICY}{ANYONE_HERE}{places}");
    let frankfurt = Place::open("frankfurt", region.remove(0), &text).await;
    let shop = Place::open("shop", leaf, &text).await;
    tokio::join!(frankfurt.mirrors_the_other(), shop.mirrors_the_other());

    for (place, copies_there) in [(&frankfurt, 3), (&shop, 1)] {
        let found = copies(&place.nats).await;
        let own = found
            .iter()
            .filter(|(name, _)| name.starts_with("fanout_") || name.starts_with("KV_fanout_"));
        let wrong: Vec<_> = own.filter(|(_, copies)| *copies != copies_there).collect();
        assert!(found.len() > 3 && wrong.is_empty(), "{}: {found:?}", place.name);
    }

    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    tokio::join!(frankfurt.publish(0, 0..20), shop.publish(100_000, 0..20));
    let given = take(&mut billing, 40).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 0..20));
    assert_eq!(of("shop", &given), numbered("shop", 0..20));
}
