use super::*;

const SOCKET: Carrier = Carrier::Socket;

fn slots(options: ListenOptions) -> ConnectionSlots {
    ConnectionSlots::new(&options, crate::counts::of("tcp"))
}

fn certificate(name: &str) -> Identity {
    Identity::Certificate(Arc::new(CertificateNames {
        dns: vec![name.to_owned()],
        ..CertificateNames::default()
    }))
}

/// As many as are admitted.
fn flood(slots: &ConnectionSlots, key: &PeerKey, carrier: Carrier) -> Vec<ConnectionSlot> {
    std::iter::from_fn(|| slots.admit(key.clone(), carrier).ok()).collect()
}

#[tokio::test(start_paused = true)]
async fn one_peer_can_not_take_the_slots_of_another() {
    let slots = slots(ListenOptions {
        connections: 8,
        silent_connections: 8,
        connections_per_peer: 3,
        ..ListenOptions::default()
    });
    let begun = |key: &PeerKey| {
        let slot = slots.admit(key.clone(), SOCKET)?;
        slot.begin(&Identity::Loopback);
        Ok::<_, NoSlot>(slot)
    };
    let (one, other, third) = (PeerKey::User(1), PeerKey::User(2), PeerKey::User(3));
    let mut ones: Vec<_> = (0..3).map(|_| begun(&one).expect("a slot")).collect();
    assert_eq!(begun(&one).expect_err("its own limit"), NoSlot::Peer);
    let _others: Vec<_> = (0..3).map(|_| begun(&other).expect("a slot")).collect();
    // What is left is shared with those who are not there yet.
    let _of_third = begun(&third).expect("a slot");
    assert_eq!(begun(&third).expect_err("the last is for another"), NoSlot::Peer);
    let _of_fourth = begun(&PeerKey::User(4)).expect("a slot");
    assert_eq!(begun(&PeerKey::User(5)).expect_err("the limit of all"), NoSlot::All);
    ones.pop();
    assert_eq!(slots.connections(), 7);
    assert!(begun(&PeerKey::User(5)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn silent_connections_have_a_small_share_and_give_way() {
    let options = ListenOptions {
        connections: 64,
        connections_per_peer: 64,
        silent_connections: 16,
        ..ListenOptions::default()
    };
    let slots = slots(options);
    let (one, other) = (PeerKey::User(1), PeerKey::User(2));
    let silent = flood(&slots, &one, SOCKET);
    assert_eq!(silent.len(), 8, "half of what may be silent");
    let others = flood(&slots, &other, SOCKET);
    assert_eq!(others.len(), 4, "half of what is left");
    // Those that speak are not counted any more.
    others.iter().for_each(|slot| slot.begin(&Identity::Loopback));
    assert_eq!(flood(&slots, &other, SOCKET).len(), 4);
    // The oldest of the same peer gives way once it has had its time, and nobody else's.
    tokio::time::sleep(GRACE).await;
    let new = slots.admit(one.clone(), SOCKET).expect("a slot");
    assert!(silent[0].evicted.is_cancelled() && !silent[1].evicted.is_cancelled());
    assert!(others.iter().all(|slot| !slot.evicted.is_cancelled()));
    drop(new);
    // A call that has begun keeps its slot, unless its caller is nobody.
    silent[1].begin(&Identity::Loopback);
    silent[2].begin(&Identity::Nobody);
    let _new = flood(&slots, &one, SOCKET);
    assert!(!silent[1].evicted.is_cancelled());
    assert!(silent[2].evicted.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn strangers_of_many_addresses_give_way_too() {
    let options = ListenOptions {
        silent_connections: 16,
        ..ListenOptions::default()
    };
    let slots = slots(options);
    let silent: Vec<_> = (0..1000)
        .filter_map(|user| slots.admit(PeerKey::User(user), SOCKET).ok())
        .collect();
    assert_eq!(silent.len(), 16);
    assert_eq!(
        slots.admit(PeerKey::User(5000), SOCKET).expect_err("all taken"),
        NoSlot::Silent
    );
    tokio::time::sleep(GRACE).await;
    assert!(slots.admit(PeerKey::User(5000), SOCKET).is_ok());
    assert!(silent[0].evicted.is_cancelled());
}

#[tokio::test]
async fn the_addresses_of_one_network_are_one_peer() {
    let key = |text: &str| PeerKey::of_address(text.parse().expect("an address"));
    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_eq!(key("::ffff:192.0.2.7"), key("192.0.2.7"));
    assert_ne!(key("192.0.2.7"), key("192.0.2.8"));
    assert_ne!(key("::ffff:192.0.2.7"), key("::ffff:192.0.2.8"));
}

#[tokio::test]
async fn a_certificate_is_one_peer_wherever_it_comes_from() {
    let options = ListenOptions {
        connections_per_peer: 2,
        ..ListenOptions::default()
    };
    let slots = slots(options);
    let (one, other) = (certificate("one"), certificate("other"));
    let from = |user| slots.admit(PeerKey::User(user), SOCKET).expect("a slot");
    let (mut first, mut second, mut third) = (from(1), from(2), from(3));
    first.known_as(&one).expect("the first");
    second.known_as(&one).expect("the second");
    assert_eq!(third.known_as(&one), Err(NoSlot::Peer));
    third.known_as(&other).expect("another's first");
    assert!(Arc::ptr_eq(&first.limits, &second.limits));
    assert!(!Arc::ptr_eq(&first.limits, &third.limits));
    // Behind one address, callers have limits of their own.
    let mut behind = [from(9), from(9)];
    behind[0].known_as(&certificate("a")).expect("a slot");
    behind[1].known_as(&certificate("b")).expect("a slot");
    let _more = [from(9), from(9)];
    drop((first, second, third, behind));
    assert_eq!(slots.connections(), 2);
    assert_eq!(slots.inner.state().peers.len(), 1, "who is gone is forgotten");
}

#[tokio::test(start_paused = true)]
async fn windows_are_within_their_budgets() {
    let options = ListenOptions {
        window_bytes: 64 << 20,
        window_bytes_per_peer: 32 << 20,
        silent_connections: 4096,
        ..ListenOptions::default()
    };
    let slots = slots(options.clone());
    let quic = Carrier::Quic { bytes: 128 << 10 };
    let mut held = Vec::new();
    for user in 0..4 {
        let admitted = flood(&slots, &PeerKey::User(user), quic);
        assert!(!admitted.is_empty(), "{user}");
        for slot in admitted {
            slot.begin(&Identity::Loopback);
            let (_, permits) = slot.widen();
            held.push((slot, permits));
        }
        assert!(slots.inner.windows.taken() <= options.window_bytes);
    }
    // One that comes alone gets wide windows.
    held.clear();
    assert_eq!(slots.inner.windows.taken(), 0);
    let alone = slots.admit(PeerKey::User(9), quic).expect("a slot");
    assert_eq!(alone.widen().0, WINDOWS[0]);
}
