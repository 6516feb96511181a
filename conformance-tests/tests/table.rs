//! The table of cases in the documentation has them all.

#[test]
fn the_documentation_has_a_line_for_each_case() {
    let table = include_str!("../src/cases.md");
    let missing: Vec<_> = dlock_conformance::cases()
        .iter()
        .map(|case| case.name)
        .filter(|name| !table.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "without a line in cases.md: {missing:?}");
}
