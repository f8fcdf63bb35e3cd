//! Servers that gateways join are one JetStream, whatever domains they are told to be: they are one place.

use fanout_tests::joined_by_gateways;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_gateways_join_is_one_place_and_refused_as_two() {
    let ([hub, shop], _beside) = joined_by_gateways(["hub", "shop"]).await;
    let text = format!("{SERVED_POLICY}{ANYONE_HERE}{PLACES}");
    let frankfurt = Place::open("frankfurt", hub, &text).await;
    frankfurt.publish(0, 0..3).await;

    let shop = Place::open("shop", shop, &text).await;
    let event = Event::new("acme", "invoice.paid", "1");
    let refused = shop.bus.publish(&event).await.unwrap_err();
    assert!(
        refused.message.contains("this store is place frankfurt's"),
        "{refused:?}"
    );
    assert_eq!(
        shop.times_begun("billing"),
        0,
        "what is another place's is not delivered"
    );
    shop.notices("place-conflict", "this store is place frankfurt's").await;

    // Nothing was changed there.
    frankfurt.publish(0, 3..6).await;
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    let given = take(&mut billing, 6).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 0..6));
}
