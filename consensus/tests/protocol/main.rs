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

/// The table of traps names scenes that are there, and every trap that is its own.
#[test]
fn each_scene_that_the_table_of_traps_names_is_there() {
    let scenes = [
        include_str!("traps.rs"),
        include_str!("damage.rs"),
        include_str!("members.rs"),
        include_str!("growth.rs"),
        include_str!("byzantine.rs"),
    ];
    let table = include_str!("../../../specs/decisions/0015-liars-and-traps.md");
    let mut seen = Vec::new();
    for row in table.lines() {
        let [number, _, how] = row.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            continue;
        };
        let Ok(number) = number.trim().parse::<u8>() else { continue };
        let named: Vec<&str> = how.split('`').skip(1).step_by(2).collect();
        for name in named.iter().filter(|name| name.contains('_')) {
            let test = format!("#[test]\nfn {name}() {{");
            assert!(scenes.iter().any(|scene| scene.contains(&test)), "{number}: {name}");
        }
        assert!(how.trim().len() > 20, "{number} says nothing");
        seen.push(number);
    }
    let own = (2..=8).chain([10, 11]).chain(14..=18).chain(20..=27).chain([33]);
    assert_eq!(seen, own.collect::<Vec<u8>>());
}
