//! Scripted scenes: a few replicas, messages that come when the scene says so, disks that write when it says so.
//! Each scene is a trap that others fell into.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod byzantine;
mod clock;
mod damage;
mod growth;
mod members;
mod mender;
mod scene;
mod traps;
mod views;

use std::path::Path;

/// Whether something that a table of traps names is there: a scene, a file of the repository, a planted bug, a kind of fault.
fn is_there(name: &str, tests: &[&str]) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if name.contains(['/', '.']) {
        // Files that stand beside the scenes are named without their folder.
        root.join(name).is_file() || root.join("consensus/tests/protocol").join(name).is_file()
    } else if name.contains('_') {
        let test = format!("fn {name}() {{");
        tests.iter().any(|t| t.trim_start().starts_with(&test))
    } else {
        let bug = include_str!("../../src/sim/mutant.rs").contains(&format!(", \"{name}\", ["));
        let faults = include_str!("../../src/sim/world/faults.rs");
        bug || faults.contains(&format!("\"faults: {name}\""))
    }
}

/// The tables of traps name what is there, and each trap has its row.
#[test]
fn each_scene_that_the_tables_of_traps_name_is_there() {
    let scenes = [
        include_str!("traps.rs"),
        include_str!("views.rs"),
        include_str!("damage.rs"),
        include_str!("members.rs"),
        include_str!("mender.rs"),
        include_str!("growth.rs"),
        include_str!("byzantine.rs"),
        include_str!("../../src/mender.rs"),
    ];
    let tests: Vec<&str> = scenes.iter().flat_map(|s| s.split("#[test]\n").skip(1)).collect();
    let tables = [
        include_str!("../../../specs/decisions/0013-damage.md"),
        include_str!("../../../specs/decisions/0014-members.md"),
        include_str!("../../../specs/decisions/0015-liars-and-traps.md"),
    ];
    let mut seen = Vec::new();
    for row in tables.iter().flat_map(|table| table.lines()) {
        let [number, _, how] = row.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            continue;
        };
        let Ok(number) = number.trim().parse::<u8>() else { continue };
        let named: Vec<&str> = how.split('`').skip(1).step_by(2).collect();
        for name in named {
            assert!(is_there(name, &tests), "{number}: {name}");
        }
        assert!(how.trim().len() > 20, "{number} says nothing");
        seen.push(number);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=34).collect::<Vec<u8>>());
}
