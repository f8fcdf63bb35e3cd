//! What a hostile pattern or event may cost, in steps: tokens, comparisons, and words of sets. No clock is asked.

use super::super::matching::Run;
use super::{View, event};
use crate::pattern::{MAX_ALTERNATIVES, MAX_COMPARISONS, Pattern};

fn steps(pattern: &str, data: &str) -> u64 {
    let pattern: Pattern = pattern.parse().unwrap_or_else(|e| panic!("{e}"));
    let event = event();
    let mut run = Run::new(&pattern.0.tree);
    run.matches(View {
        event: &event,
        data: data.as_bytes(),
    });
    run.steps()
}

/// An event of `n` parts costs twice what one of half as many does, whatever the parts are.
#[test]
fn the_cost_grows_as_the_event() {
    let choices: Vec<_> = (0..200).map(|i| format!("{{\"k{i}\":[1],\"z\":[{i}]}}")).collect();
    let choices = format!("{{\"data\":{{\"l\":{{\"$or\":[{}]}}}}}}", choices.join(","));
    let wide: Vec<_> = (0..900).map(|i| format!("\"k{i}\":[{{\"anything-but\":1}}]")).collect();
    let wide = format!("{{\"data\":{{\"l\":{{{}}}}}}}", wide.join(","));
    let many: Vec<_> = (0..MAX_COMPARISONS)
        .map(|i| format!("{{\"wildcard\":\"*a*{i}*b*\"}}"))
        .collect();
    let many = format!("{{\"data\":{{\"l\":[{}]}}}}", many.join(","));
    let texts: Vec<_> = (0..5_000).map(|i| format!("\"{i}\"")).collect();
    let texts = format!("{{\"data\":{{\"l\":[{}]}}}}", texts.join(","));
    let deep = r#"{"data":{"l":[1]}}"#.to_owned();
    for (pattern, part, at_most) in [
        (&choices, r#"{"k1":1,"k2":1,"z":1}"#, 3 * MAX_ALTERNATIVES),
        (&choices, r#"{"k1":1}"#, 40),
        (&wide, r#"{"k1":2,"k2":2}"#, 40),
        (&wide, "{}", 8),
        (&many, r#""aaaaaaaaaaaaaaaa""#, MAX_COMPARISONS + 8),
        (&texts, r#""4999x""#, 8),
        (&deep, r#"[[{"l":1}],[]]"#, 16),
        (&deep, "2", 8),
    ] {
        let of = |parts: usize| steps(pattern, &format!("{{\"l\":[{}]}}", vec![part; parts].join(",")));
        let (half, whole) = (of(500), of(1_000));
        assert!(whole <= 2 * half + 64, "{part}: {half} steps, then {whole}");
        assert!(
            whole / 1_000 <= at_most as u64,
            "{part}: {} steps for one",
            whole / 1_000
        );
    }
}

/// What the pattern does not name is passed over without a step for each of its tokens, and what is nested takes no stack.
#[test]
fn what_is_not_named_costs_nothing() {
    let deep = format!("{{\"x\":{}{},\"l\":1}}", "[".repeat(500_000), "]".repeat(500_000));
    assert!(steps(r#"{"data":{"l":[1]}}"#, &deep) < 64);
    let arrays = format!("{{\"l\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
    assert!(steps(r#"{"data":{"l":{"a":[1]}}}"#, &arrays) < 1_000_100);
}

/// Where no alternative is left, the payload is not read.
#[test]
fn attributes_are_looked_at_first() {
    let data = format!("{{\"l\":[{}]}}", vec!["1"; 10_000].join(","));
    assert!(steps(r#"{"tenant":["other"],"data":{"l":[2]}}"#, &data) < 64);
    assert!(steps(r#"{"tenant":["acme"],"data":{"l":[2]}}"#, &data) > 10_000);
}
