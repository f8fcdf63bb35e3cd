use super::*;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn a_caller_is_found_by_its_identity_and_by_nothing_else() {
    let callers = Callers::from_settings(
        "policy",
        &settings(&[
            ("callers.billing.certificate-uri", "spiffe://example.org/billing"),
            ("callers.billing.certificate-dns", "Billing.example.org"),
            ("callers.billing.certificate-cn", "Billing Service"),
            ("callers.billing.unix-uid", "1000"),
            ("callers.billing.subscribe.tenants", "acme,globex"),
            ("callers.billing.subscribe.event-types", "invoice.*"),
            ("callers.ingress.loopback", "true"),
            ("callers.ingress.publish.tenants", "*"),
        ]),
    )
    .unwrap();
    let uri = Identity::certificate_uri("spiffe://example.org/billing");
    let dns = Identity::certificate_dns("billing.EXAMPLE.org");
    let cn = Identity::certificate_cn("Billing Service");
    let other = Identity::certificate_dns("host-7.example.org");
    for identities in [
        &[uri.clone()][..],
        std::slice::from_ref(&dns),
        std::slice::from_ref(&cn),
        &[Identity::UnixUser(1000)],
        // Any name of the kind, wherever it stands.
        &[other.clone(), dns.clone(), cn.clone()],
        &[uri.clone(), dns.clone(), cn.clone()],
    ] {
        let billing = callers.find(identities).unwrap();
        assert_eq!(
            (billing.name.as_str(), billing.id.as_str()),
            ("billing", "caller:billing")
        );
        assert!(billing.subscribing.subscribe && billing.subscribing.inbox);
        assert!(!billing.publishing.publish && !billing.subscribing.publish);
        assert!(!billing.subscribing.allows.allows_tenant(&"initech".parse().unwrap()));
    }
    let ingress = callers.find(&[Identity::Loopback]).unwrap();
    assert!(ingress.publishing.publish && !ingress.subscribing.subscribe && !ingress.subscribing.inbox);
    assert_eq!(callers.by_id("caller:ingress"), Some(ingress));
    assert_eq!(callers.by_id("ingress"), None, "a component of that id is another");
    assert_eq!(refusal("ingress"), None);
    let stranger_uri = Identity::certificate_uri("spiffe://example.org/billing2");
    for stranger in [
        &[Identity::UnixUser(1001)][..],
        std::slice::from_ref(&stranger_uri),
        &[other, stranger_uri.clone()],
        &[],
    ] {
        assert_eq!(callers.find(stranger), None);
        let id = callers.id_of(stranger);
        assert!(is_given(&id) && !is_named_caller(&id));
        let problem = refusal(&id).unwrap();
        assert_eq!(problem.code, Code::UnknownCaller);
        for identity in stranger {
            assert!(problem.message.contains(&identity.to_string()), "{problem}");
        }
    }
}

#[test]
fn a_name_of_one_kind_is_no_name_of_another() {
    let name = "spiffe://example.org/billing";
    let all: [fn(&str) -> Identity; 3] = [
        Identity::certificate_uri,
        Identity::certificate_dns,
        Identity::certificate_cn,
    ];
    for (setting, name, own) in [
        ("certificate-uri", name, 0),
        ("certificate-dns", "billing.example.org", 1),
        ("certificate-cn", name, 2),
    ] {
        let key = format!("callers.a.{setting}");
        let callers = settings(&[(key.as_str(), name), ("callers.a.publish.tenants", "*")]);
        let callers = Callers::from_settings("policy", &callers).unwrap();
        for (kind, of) in all.iter().enumerate() {
            assert_eq!(
                callers.find(&[of(name)]).is_some(),
                kind == own,
                "{setting} and kind {kind}"
            );
        }
        assert_eq!(callers.find(&[]), None);
        assert_eq!(callers.find(&[Identity::Loopback]), None);
    }
}

#[test]
fn who_would_be_two_callers_is_neither() {
    let callers = Callers::from_settings(
        "policy",
        &settings(&[
            ("callers.a.certificate-dns", "a.example"),
            ("callers.a.publish.tenants", "*"),
            ("callers.b.certificate-uri", "spiffe://b"),
            ("callers.b.publish.tenants", "*"),
        ]),
    )
    .unwrap();
    let both = [
        Identity::certificate_dns("a.example"),
        Identity::certificate_uri("spiffe://b"),
    ];
    assert!(callers.find(&both[..1]).is_some() && callers.find(&both[1..]).is_some());
    assert_eq!(callers.find(&both), None);
    let id = callers.id_of(&both);
    assert!(is_given(&id) && !is_named_caller(&id));
    let problem = refusal(&id).unwrap();
    assert_eq!(problem.code, Code::UnknownCaller);
    assert!(problem.message.contains("both callers a and b"), "{problem}");
}

#[test]
fn a_name_without_a_kind_is_refused_with_the_kind_that_is_meant() {
    for (name, hint) in [
        ("spiffe://example.org/billing", "`certificate-uri`,"),
        ("billing.example.org", "`certificate-dns` if"),
        ("webhook-ingress", "`certificate-cn` if"),
        ("", "`certificate-cn` if"),
    ] {
        let given = settings(&[("callers.a.certificate", name), ("callers.a.publish.tenants", "*")]);
        let problems = Callers::from_settings("policy.toml", &given).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        let problem = &problems[0];
        assert_eq!(problem.code, Code::UnknownSetting);
        assert_eq!(problem.setting.as_deref(), Some("callers.a.certificate"));
        assert!(problem.message.contains(&format!("write {hint}")), "{problem}");
    }
    for (setting, bad) in [
        ("certificate-uri", "billing.example.org"),
        ("certificate-uri", "spiffe://a b"),
        ("certificate-uri", ""),
        ("certificate-dns", "spiffe://example.org/billing"),
        ("certificate-dns", "*.example.org"),
        ("certificate-dns", "example..org"),
        ("certificate-cn", ""),
        ("certificate-cn", "two\nlines"),
        ("unix-uid", "4294967295"),
    ] {
        let key = format!("callers.a.{setting}");
        let given = settings(&[(key.as_str(), bad), ("callers.a.publish.tenants", "*")]);
        let problems = Callers::from_settings("policy.toml", &given).unwrap_err();
        assert_eq!(problems[0].setting.as_deref(), Some(key.as_str()), "{bad}");
        assert_eq!(problems[0].code, Code::InvalidSetting, "{bad}");
    }
}

#[test]
fn every_problem_of_every_caller_is_named_with_its_setting() {
    let problems = Callers::from_settings(
        "policy.toml",
        &settings(&[
            ("callers.a.loopback", "true"),
            ("callers.a.publish.tenants", "*"),
            ("callers.b.loopback", "true"),
            ("callers.b.interfaces", "publisher,inbox"),
            ("callers.c.unix-uid", "-1"),
            ("callers.c.colour", "red"),
            ("callers.d.certificate-cn", "x"),
            ("callers.d.publish.event-types", "a.*"),
            ("callers.e", "x"),
            ("callers.e!.loopback", "true"),
            ("callers.f.loopback", "true"),
        ]),
    )
    .unwrap_err();
    let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
    expect_test::expect![[r#"
            policy.toml: setting "callers.e" names no caller: write `callers.NAME.SETTING`, with a name of 1 to 64 characters out of A-Z a-z 0-9 _ - [unknown-setting]
            policy.toml: setting "callers.e!.loopback" names no caller: write `callers.NAME.SETTING`, with a name of 1 to 64 characters out of A-Z a-z 0-9 _ - [unknown-setting]
            policy.toml: caller b: setting `publish.tenants` is missing: list the tenants it may publish for, or `*` for all [missing-setting]
            policy.toml: caller b: setting `subscribe.tenants` is missing: list the tenants it may subscribe for, or `*` for all [missing-setting]
            policy.toml: caller c: setting `unix-uid`: "-1" is not a whole number from 0 to 4294967294 [invalid-setting]
            policy.toml: caller c: it says by what it is known: give it `certificate-uri`, `certificate-dns`, `certificate-cn`, `unix-uid`, `token-sha256` or `loopback = true` [missing-setting]
            policy.toml: caller c: setting "colour" is not known; known are: certificate-uri, certificate-dns, certificate-cn, unix-uid, token-sha256, loopback, metrics, publish.tenants, publish.event-types, publish.sources, subscribe.tenants, subscribe.event-types, interfaces [unknown-setting]
            policy.toml: caller d: `publish.event-types` means nothing without `publish.tenants` [conflicting-settings]
            policy.toml: callers a and f are both a process of this machine without a name: give each its own [conflicting-settings]
        "#]]
    .assert_eq(&text);
    let unknown = problems.iter().find(|p| p.message.contains("colour")).unwrap();
    assert_eq!(unknown.setting.as_deref(), Some("callers.c.colour"));
}

#[test]
fn a_caller_may_be_limited_to_sources() {
    let callers = Callers::from_settings(
        "policy",
        &settings(&[
            ("callers.notes.loopback", "true"),
            ("callers.notes.publish.tenants", "*"),
            ("callers.notes.publish.sources", "/notes/*, urn:notes"),
            ("callers.any.unix-uid", "1"),
            ("callers.any.publish.tenants", "*"),
        ]),
    )
    .unwrap();
    let notes = &callers.find(&[Identity::Loopback]).unwrap().publishing.sources;
    assert!(notes.allows("/notes/1") && notes.allows("urn:notes") && !notes.allows("/webhooks/stripe"));
    let any = &callers.find(&[Identity::UnixUser(1)]).unwrap().publishing.sources;
    assert!(any.allows("/webhooks/stripe"));
    let useless = settings(&[("callers.a.loopback", "true"), ("callers.a.publish.sources", "/a")]);
    let problems = Callers::from_settings("policy", &useless).unwrap_err();
    assert_eq!(problems[0].code, Code::ConflictingSettings, "{problems:?}");
}

/// The SHA-256 of a token, as a policy lists it, and as a listener makes it.
fn token(byte: u8) -> (String, Identity) {
    let text = format!("{byte:02x}").repeat(32);
    (text, Identity::Token(TokenHash::new([byte; 32])))
}

#[test]
fn a_token_is_one_caller_s_and_neither_widens_nor_mixes_rights() {
    let ((old, old_token), (new, new_token), (other, other_token)) = (token(0x1a), token(0xb2), token(0x0c));
    let both = format!("{old}, {}", new.to_uppercase());
    let callers = Callers::from_settings(
        "policy",
        &settings(&[
            ("callers.orders.token-sha256", &both),
            ("callers.orders.publish.tenants", "acme"),
            ("callers.billing.token-sha256", &other),
            ("callers.billing.certificate-dns", "billing.example.org"),
            ("callers.billing.subscribe.tenants", "*"),
            ("callers.local.loopback", "true"),
        ]),
    )
    .unwrap();
    let name = |identities: &[Identity]| callers.find(identities).map(|caller| caller.name.as_str());
    // While a token is replaced, both are the caller's.
    assert_eq!(name(std::slice::from_ref(&old_token)), Some("orders"));
    assert_eq!(name(&[new_token]), Some("orders"));
    assert_eq!(name(&[token(7).1]), None);
    let certificate = Identity::certificate_dns("billing.example.org");
    assert_eq!(name(&[other_token, certificate.clone()]), Some("billing"));
    // Beside a certificate that names nobody, such as a proxy's, the token counts.
    assert_eq!(
        name(&[old_token.clone(), Identity::certificate_dns("proxy.example.org")]),
        Some("orders")
    );
    // Two callers at once are none.
    let mixed = [old_token, certificate];
    assert_eq!(name(&mixed), None);
    let problem = refusal(&callers.id_of(&mixed)).unwrap();
    assert_eq!(problem.code, Code::UnknownCaller);
    assert!(problem.message.contains("billing and orders"), "{problem}");
    assert!(!problem.message.contains(&old), "only what finds its line: {problem}");
    assert!(callers.knows_token(&TokenHash::new([0x1a; 32])) && !callers.knows_token(&TokenHash::new([7; 32])));
}

#[test]
fn what_is_no_token_is_refused_without_being_repeated() {
    let (good, _) = token(0x1a);
    let many: Vec<_> = (0..17).map(|byte| token(byte).0).collect();
    for (bad, why) in [
        ("fanout_secret", "itself"),
        ("secret", "item 1"),
        (&good[1..], "item 1"),
        (&format!("{good}, {}g", &good[1..]), "item 2"),
        (&many.join(","), "17 tokens"),
        ("", "item 1"),
    ] {
        let settings = settings(&[("callers.a.token-sha256", bad), ("callers.a.publish.tenants", "*")]);
        let problems = Callers::from_settings("policy", &settings).unwrap_err();
        let text = problems[0].to_string();
        assert!(text.contains(why) && !text.contains("secret"), "{text}");
        assert_eq!(problems[0].setting.as_deref(), Some("callers.a.token-sha256"));
    }
    let twice = settings(&[("callers.a.token-sha256", &good), ("callers.b.token-sha256", &good)]);
    let problems = Callers::from_settings("policy", &twice).unwrap_err();
    assert!(
        problems[0]
            .message
            .contains("callers a and b are both the holder of the token"),
        "{problems:?}"
    );
}

#[test]
fn the_metrics_are_for_whom_they_are_granted_to_and_go_with_nothing_else() {
    let callers = Callers::from_settings(
        "policy",
        &settings(&[
            ("callers.anyone.loopback", "true"),
            ("callers.anyone.publish.tenants", "*"),
            ("callers.anyone.subscribe.tenants", "*"),
            ("callers.told.unix-uid", "1"),
            ("callers.told.interfaces", "status"),
            ("callers.prometheus.unix-uid", "2"),
            ("callers.prometheus.metrics", "true"),
        ]),
    )
    .unwrap();
    let of = |id: &str| {
        let caller = callers.by_id(id).unwrap();
        (caller.status, caller.metrics, caller.subscribing.subscribe)
    };
    assert_eq!(of("caller:anyone"), (true, false, true));
    assert_eq!(of("caller:told"), (true, false, false));
    assert_eq!(of("caller:prometheus"), (true, true, false));
}
