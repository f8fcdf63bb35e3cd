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

/// The properties of configurations in a text with YAML in it: where each stands, its name and its value.
fn properties(text: &str) -> Vec<(usize, &str, &str)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    let mut named = None;
    let mut within = None;
    for (i, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if within.is_some_and(|properties| indent(line) <= properties) {
            within = None;
        }
        if let (Some(_), Some((name, value))) = (within, content.split_once(':')) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            found.push((i + 1, name, value));
        }
        // `- name:` and right below it `properties:` is a configuration; a component has a type between them.
        if content.starts_with("- name:") {
            named = Some(indent(line) + 2);
        } else if content == "properties:" && named == Some(indent(line)) {
            within = Some(indent(line));
        } else {
            named = None;
        }
    }
    found
}

/// Whether YAML reads a value as a string.
fn is_string(value: &str) -> bool {
    let is_quoted = |quote: char| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    if is_quoted('"') || is_quoted('\'') {
        return true;
    }
    let lower = value.to_ascii_lowercase();
    let is_word = ["", "~", "null", "true", "false", "yes", "no", "on", "off"].contains(&lower.as_str());
    let digits = lower.trim_start_matches(['+', '-']).replace('_', "");
    let is_number = digits.parse::<f64>().is_ok() || digits.starts_with("0x") || digits.starts_with("0o");
    !is_word && !is_number && !value.starts_with(['[', '{', '&', '*', '!', '|', '>', '%', '@', '`'])
}

/// wadm refuses any other ("expected value at line 1 column 1"), before a word of ours is read.
#[test]
fn every_property_of_a_manifest_and_of_an_example_is_a_string() {
    for not in ["3", "1.5", "true", "off", "~", "", "[a, b]", "0x1f", "1_000"] {
        assert!(!is_string(not), "{not:?}");
    }
    for is in ["\"3\"", "7d", "1GiB", "a,b", "invoice.*", "'true'", "127.0.0.1:8080"] {
        assert!(is_string(is), "{is:?}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut texts = vec![root.join("README.md"), root.join("tests/bench/host.yaml")];
    for (folder, ending) in [("wadm", "yaml"), ("docs", "md")] {
        let all = std::fs::read_dir(root.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        texts.extend(all.filter(|path| path.extension().is_some_and(|e| e == ending)));
    }
    let mut count = 0;
    for path in texts {
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, name, value) in properties(&text) {
            assert!(
                is_string(value),
                "{}:{line}: {name}: {value} is no string: quote it",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count > 100, "the manifests' properties are found: {count}");
    let policy = std::fs::read_to_string(root.join("docs/policy.md")).unwrap();
    assert!(policy.contains("every property is a string") && policy.contains("retention.replicas: \"3\""));
}
