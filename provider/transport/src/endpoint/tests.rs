use proptest::prelude::*;

use super::*;

#[test]
fn endpoints_are_written_as_they_are_read() {
    for text in [
        "tcp://127.0.0.1:7761",
        "tcp://[::1]:80",
        "tcp://localhost:0",
        "tls://bus.example:7762",
        "unix:/run/fanout/bus.sock",
        "unix:bus.sock",
        "quic://10.0.0.7:7763",
        "webtransport://bus.example:443",
        "webtransport://bus.example:443/fanout",
        "webtransport://127.0.0.1:80/a/b",
        "http://127.0.0.1:7780",
        "http://bus.example:80",
        "https://[::1]:443",
        "nats://127.0.0.1:4222?target=default.bus",
        "nats://a:4222,b:4222?target=default.VAX7",
    ] {
        let endpoint: Endpoint = text.parse().expect(text);
        assert_eq!(endpoint.to_string(), text);
    }
    assert_eq!("tcp+tls://a:1".parse::<Endpoint>(), "tls://a:1".parse());
    for text in ["unix:///a", "unix:////a", "unix:///////a"] {
        assert_eq!(text.parse::<Endpoint>(), "unix:/a".parse());
    }
    let many = format!("nats://{}?target=default.bus", ["nats.example:4222"; 20].join(","));
    assert_eq!(many.parse::<Endpoint>().expect("a cluster").to_string(), many);
}

#[test]
fn what_is_no_endpoint_is_told_why() {
    for (text, why) in [
        ("", "scheme"),
        ("7761", "scheme"),
        ("http://a:1/bus", "path"),
        ("https://a", "port"),
        ("ws://127.0.0.1:80/bus", "WebSocket is not served"),
        ("wss://bus.example:443", "https://"),
        ("tcp:127.0.0.1:7761", "://"),
        ("tcp:ws://a:1", "://"),
        ("tcp://", "no URL"),
        ("tcp://a", "port"),
        ("tcp://a:", "port"),
        ("tcp://a:65536", "no URL"),
        ("tcp://a:1/path", "path"),
        ("tcp://a:1?x", "query"),
        ("tcp://user:secret@a:1", "password"),
        ("user:secret@a:1", "scheme"),
        ("http:secret@a:1", "://"),
        ("https://user:secret@a:1", "tokens"),
        ("tcp://a b:1", "blank"),
        ("quic://a\u{0}:1", "control"),
        ("unix:", "path"),
        ("unix://host/path", "unix:/path"),
        ("nats://a:4222", "target"),
        ("nats://a:4222?target=bus", "target"),
        ("nats://a:4222?target=default.>", "target"),
    ] {
        let error = text.parse::<Endpoint>().expect_err(text);
        assert!(error.to_string().contains(why), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let long = format!("unix:/{}", "a".repeat(107));
    assert!(long.parse::<Endpoint>().is_err());
    // Written in ASCII, both are longer than they are here.
    let host = format!("webtransport://{}:1", "\u{1bf}a.".repeat(80));
    let path = format!("webtransport://a:1/{}", "\u{1bf}".repeat(400));
    for (text, why) in [(host, "253 bytes"), (path, "1024 bytes")] {
        let error = text.parse::<Endpoint>().expect_err(&text);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_password_of_nats_is_not_shown() {
    let endpoint: Endpoint = "nats://user:secret@a:4222?target=default.bus"
        .parse()
        .expect("an endpoint");
    assert!(!format!("{endpoint} {endpoint:?}").contains("secret"));
    let Endpoint::Nats { servers, .. } = endpoint else {
        panic!("a lattice");
    };
    assert_eq!(servers, "user:secret@a:4222");
}

#[test]
fn only_this_machine_is_loopback() {
    for (host, loopback) in [
        ("127.0.0.1", true),
        ("127.8.9.10", true),
        ("::1", true),
        ("localhost", true),
        ("0.0.0.0", false),
        ("::", false),
        ("10.0.0.1", false),
        ("localhost.example", false),
    ] {
        assert_eq!(Authority::new(host, 1).is_loopback(), loopback, "{host}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_endpoint_or_an_error(text in ".{0,80}") {
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            let again: Endpoint = endpoint.to_string().parse().expect("it parses again");
            if !text.contains('@') {
                prop_assert_eq!(again, endpoint);
            }
        }
    }

    #[test]
    fn so_is_anything_behind_a_scheme(scheme in "(tcp|tls|unix|quic|webtransport|http|https|ws|nats)", rest in ".{0,60}") {
        let text = format!("{scheme}://{rest}");
        if let Ok(endpoint) = text.parse::<Endpoint>() {
            let again: Endpoint = endpoint.to_string().parse().expect("it parses again");
            if !text.contains('@') {
                prop_assert_eq!(again, endpoint);
            }
        }
    }
}
