//! A link that carries what one place sends, and not what the other does: its connections stay open, and no request over it is
//! answered.

use fanout_tests::nemesis::Way;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_carries_one_way_alone_is_told_at_both_places_and_loses_nothing() {
    let (link, frankfurt, shop) = joined("").await;
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    let mut local = shop.subscribe(Subscription::declared("local")).await;

    link.hold(Way::ToServer);
    tokio::join!(frankfurt.publish(0, 0..20), shop.publish(100_000, 0..20));
    let given = take(&mut billing, 20).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 0..20));
    assert_eq!(of("shop", &given), [""; 0], "nothing comes this way");
    let given = take(&mut local, 20).await;
    assert_eq!(of("shop", &given), numbered("shop", 0..20));
    assert!(link.connections() > 0, "the connection is open all the time");
    tokio::join!(
        frankfurt.notices("place-unreachable", "shop"),
        shop.notices("place-unreachable", "frankfurt")
    );
    let (code, said) = shop.says(&["move"], &["billing", "--to", "shop", "--within", "5s"]);
    assert!(code != 0 && said.contains("place-unreachable"), "{said}");

    // Such a connection ends at some time, and what waited in it is gone.
    link.reset();
    let given = take(&mut billing, 20).await;
    assert_eq!(of("shop", &given), numbered("shop", 0..20));
    tokio::join!(frankfurt.mirrors_the_other(), shop.mirrors_the_other());
}
