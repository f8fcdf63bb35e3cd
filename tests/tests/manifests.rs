//! The manifests in `wadm/`, one for each transport: the same application, and another way to the bus.

use std::path::Path;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wadm").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A manifest, cut at the bus's own configuration: what stands before it (without the file's head), it, and the rest.
fn cut(text: &str) -> (&str, &str, &str) {
    let begin = text.find("apiVersion:").expect("the manifest begins");
    let config = text.find("        config:\n").expect("the bus is configured");
    let traits = config + text[config..].find("      traits:\n").expect("the bus has traits");
    assert!(
        text[begin..config].contains("- name: bus\n"),
        "the first configuration is the bus's"
    );
    (&text[begin..config], &text[config..traits], &text[traits..])
}

#[test]
fn only_the_bus_s_configuration_tells_the_transports_apart() {
    let lattice = read("payments.yaml");
    let (before, config, after) = cut(&lattice);
    // Every component and every link is in what is compared.
    for component in ["webhook-ingress", "entitlements", "invoicing", "analytics"] {
        assert!(after.contains(&format!("- name: {component}\n")), "{component}");
    }
    assert!(config.contains("retention.max-age"));
    for (name, scheme) in [
        ("payments-tcp.yaml", "tcp://127."),
        ("payments-unix.yaml", "unix:/"),
        ("payments-tls.yaml", "tls://"),
        ("payments-quic.yaml", "quic://"),
    ] {
        let other = read(name);
        let (other_before, other_config, other_after) = cut(&other);
        assert_eq!(other_before, before, "{name}, before the bus's configuration");
        assert_eq!(other_after, after, "{name}, after it");
        assert!(other_config.contains("role: edge"), "{other_config}");
        assert!(other_config.contains(&format!("upstream: {scheme}")), "{other_config}");
        assert!(
            !other_config.contains("retention"),
            "the policy is the bus's: {other_config}"
        );
    }
}
