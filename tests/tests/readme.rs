//! What the documents show and name is there.

#[test]
fn the_smallest_component_is_shown_as_it_is() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(here.join(path)).unwrap();
    let readme = read("README.md");
    let code = read("example-components/minimal/src/lib.rs");
    let shown = code.lines().skip_while(|l| l.starts_with("//!") || l.is_empty());
    let shown: String = shown.map(|l| format!("{l}\n")).collect();
    assert!(
        readme.contains(&shown),
        "README.md shows another component than minimal/src/lib.rs"
    );
    assert!(
        readme.contains(&read("example-components/minimal/wit/world.wit")),
        "README.md shows another world"
    );
}

#[test]
fn every_test_that_holds_a_promise_is_there() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = std::fs::read_to_string(here.join("../docs/promises.md")).unwrap();
    let cells = promises.lines().filter(|line| line.starts_with("| "));
    let named: Vec<_> = cells
        .flat_map(|line| line.split('`').filter(|text| text.contains("::")))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let (file, test) = name.split_once("::").unwrap();
        let files = [format!("tests/{file}.rs"), format!("tests/{file}/main.rs")];
        let code = files
            .iter()
            .find_map(|file| std::fs::read_to_string(here.join(file)).ok());
        let is_there = code.is_some_and(|code| code.contains(&format!("fn {test}()")));
        assert!(is_there, "docs/promises.md names {name}, which is not there");
    }
}

#[test]
fn every_decision_is_on_the_map() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let map = std::fs::read_to_string(docs.join("ARCHITECTURE.md")).unwrap();
    let records = std::fs::read_dir(docs.join("adr")).unwrap();
    let names = records.map(|record| record.unwrap().file_name().into_string().unwrap());
    let missing: Vec<_> = names.filter(|name| !map.contains(&format!("(adr/{name})"))).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md does not name {missing:?}");
}
