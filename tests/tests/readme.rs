//! The README's example is the component that is built.

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
