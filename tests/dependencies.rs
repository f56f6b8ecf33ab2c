//! What a user of the crate gets along with it: four small crates and no libc

use std::collections::BTreeSet;
use std::process::Command;

/// The crates of the normal dependency tree, this one left out.
fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--offline"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let mut names: BTreeSet<_> =
        names.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.remove("shmem-bind"), "{names:?}");
    names
}

#[test]
fn the_dependencies_are_exactly_these() {
    let expected = ["bitflags", "linux-raw-sys", "rustix", "static_assertions"].map(str::to_owned);
    for features in [&["--all-features"][..], &["--no-default-features"], &[]] {
        assert_eq!(tree(features), BTreeSet::from(expected.clone()), "{features:?}");
    }
}
