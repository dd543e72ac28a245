//! Seeds of the simulated cluster, each twice; and planted bugs, each of which the checkers must find.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use kimberlite_consensus::sim::{Config, Mutant, Outcome};
use kimberlite_store::sim::command::simulate;

#[test]
fn seeds_hold_and_the_same_seed_does_the_same_again() {
    for seed in 1..=8 {
        let config = Config::draw(seed);
        let schedule = config.schedule();
        let run = || simulate(config, &schedule, None);
        let (first, second) = (run(), run());
        assert_eq!(first.violation, None, "seed {seed}");
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.timeline, second.timeline, "seed {seed}");
        let seen = |what: &str| first.coverage.get(what).copied().unwrap_or_default();
        let kinds = first.coverage.keys().filter(|what| what.starts_with("faults: ")).count();
        assert!(seen("commands answered") >= 2000 && seen("faults") >= 5 && kinds >= 3, "{seed}");
    }
}

#[test]
fn another_seed_does_something_else() {
    let trace = |seed| {
        let config = Config::draw(seed);
        simulate(config, &config.schedule(), None).trace
    };
    assert_ne!(trace(2), trace(3));
}

/// Whether a run ended with what the bug breaks.
fn found(outcome: &Outcome, mutant: Mutant) -> bool {
    // A bug may show in several ways; the one that it was planted for counts.
    outcome.violation.as_ref().is_some_and(|v| mutant.breaks().contains(&v.invariant))
}

#[test]
fn every_planted_bug_is_found_by_the_checker_that_it_is_planted_for() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        let caught = (1..=40).any(|seed| {
            let config = Config::draw(seed);
            let config = if mutant.needs_liar() { config.with_liar() } else { config };
            if config.may_disagree() {
                return false;
            }
            let schedule = config.schedule();
            let without = || simulate(config, &schedule, None).violation;
            let caught = found(&simulate(config, &schedule, Some(*mutant)), *mutant);
            assert!(!caught || without().is_none(), "{}: seed {seed}", mutant.name());
            caught
        });
        if !caught {
            missed.push(mutant.name());
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
