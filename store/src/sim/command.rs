//! The command line of the simulator.

mod bundle;

use std::{io::Write as _, process::ExitCode};

use bundle::Bundle;
use kimberlite_consensus::sim::{Config, Coverage, Mutant, Outcome, Planned, VIOLATIONS};

use crate::words::Hex;

const USAGE: &str = "usage: cargo sim --seed N [--liar] [--mutant NAME] [--minimise]
       cargo sim --seeds A..B [--liar] [--mutant NAME]
       cargo sim --seed N --trace FILE [--mutant NAME]
       cargo sim --bundle FILE
       cargo sim --mutants

Prints what happened and, last, a hash of it. Ends with 0 only if everything held.
A seed that fails leaves a bundle beside: the file sim-N.bundle. So does one that panics.
With --trace a short run goes to a file that specs/check --trace asks the models about.
With --liar one replica lies, and what is claimed then is checked.";

/// What is asked of the simulator.
enum Asked {
    Seed(u64),
    Trace(u64, String),
    Seeds { from: u64, to: u64 },
    Bundle(String),
    Mutants,
}

/// The command line.
struct Asking {
    asked: Asked,
    mutant: Option<Mutant>,
    minimise: bool,
    liar: bool,
}

/// Runs the command; says how it ended.
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Some(Asking { asked, mutant, minimise, liar }) = parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let held = match asked {
        Asked::Seed(seed) => one(draw(seed, liar), mutant, minimise),
        Asked::Trace(seed, path) => trace(seed, mutant, &path),
        Asked::Seeds { from, to } => many(from, to, liar, mutant),
        Asked::Bundle(path) => match bundle::again(&path) {
            Some(held) => held,
            None => return ExitCode::from(2),
        },
        Asked::Mutants => {
            for mutant in Mutant::ALL {
                print(&format!("{} breaks {}", mutant.name(), mutant.breaks().join(" or ")));
            }
            true
        }
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Asking> {
    let (mut asked, mut mutant, mut minimise, mut liar) = (None, None, false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => {
                asked = Some(Asked::Seed(arguments.next()?.parse().ok()?));
            }
            "--seeds" => {
                let range = arguments.next()?;
                let (from, to) = range.split_once("..")?;
                asked = Some(Asked::Seeds { from: from.parse().ok()?, to: to.parse().ok()? });
            }
            "--bundle" => asked = Some(Asked::Bundle(arguments.next()?)),
            "--mutants" => asked = Some(Asked::Mutants),
            "--mutant" => {
                let name = arguments.next()?;
                mutant = Some(*Mutant::ALL.iter().find(|m| m.name() == name)?);
            }
            "--trace" => match asked {
                Some(Asked::Seed(seed)) => asked = Some(Asked::Trace(seed, arguments.next()?)),
                _ => return None,
            },
            "--minimise" => minimise = true,
            "--liar" => liar = true,
            _ => return None,
        }
    }
    asked.map(|asked| Asking { asked, mutant, minimise, liar })
}

fn draw(seed: u64, liar: bool) -> Config {
    let config = Config::draw(seed);
    if liar { config.with_liar() } else { config }
}

/// One run, the same each time.
pub fn simulate(config: Config, schedule: &[Planned], mutant: Option<Mutant>) -> Outcome {
    Bundle { config, schedule: schedule.to_vec(), mutant, traced: false }.run()
}

/// A short run, and in a file what the models ask of it.
fn trace(seed: u64, mutant: Option<Mutant>, path: &str) -> bool {
    let (config, schedule) = Config::traced(seed);
    let bundle = Bundle { config, schedule, mutant, traced: true };
    let outcome = bundle.run();
    print(&config.to_string());
    if let Err(error) = std::fs::write(path, outcome.steps.join("\n") + "\n") {
        print(&format!("{path} cannot be written: {error}"));
        return false;
    }
    bundle.finish(&outcome)
}

fn print(line: &str) {
    // Whoever listens may have left; the exit code tells all the same.
    let _gone = writeln!(std::io::stdout(), "{line}").is_err();
}

fn tell(outcome: &Outcome) {
    outcome.timeline.iter().for_each(|line| print(line));
    print("");
    tell_coverage(&outcome.coverage);
    if let Some(violation) = &outcome.violation {
        let known = VIOLATIONS.iter().find(|(name, _)| *name == violation.invariant);
        let what = known.map_or("somebody panicked", |(_, what)| what);
        print(&format!("FAILED {}: {what}: {}", violation.invariant, violation.what));
    }
}

fn tell_coverage(coverage: &Coverage) {
    for (what, count) in coverage {
        print(&format!("{count:>9}  {what}"));
    }
}

fn one(mut config: Config, mutant: Option<Mutant>, smaller: bool) -> bool {
    print(&config.to_string());
    config.lies().for_each(|lie| print(lie.name()));
    let mut schedule = config.schedule();
    let mut outcome = simulate(config, &schedule, mutant);
    if smaller && outcome.violation.is_some() {
        (config, schedule, outcome) = minimise(config, schedule, outcome, mutant);
        print(&format!("smallest: {config}"));
    }
    Bundle { config, schedule, mutant, traced: false }.finish(&outcome)
}

/// Leaves out faults, and then what else goes wrong and is done, as long as the same invariant fails.
fn minimise(
    mut config: Config,
    mut schedule: Vec<Planned>,
    mut outcome: Outcome,
    mutant: Option<Mutant>,
) -> (Config, Vec<Planned>, Outcome) {
    let failing = outcome.violation.as_ref().map(|v| v.invariant);
    let mut size = schedule.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < schedule.len() {
            let mut fewer = schedule.clone();
            fewer.drain(at..(at + size).min(schedule.len()));
            let tried = simulate(config, &fewer, mutant);
            if tried.violation.as_ref().map(|v| v.invariant) == failing {
                (schedule, outcome) = (fewer, tried);
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    let mut tries = config.smaller();
    while let Some(smaller) = tries.pop() {
        let tried = simulate(smaller, &schedule, mutant);
        if tried.violation.as_ref().map(|v| v.invariant) == failing {
            (config, outcome) = (smaller, tried);
            tries = config.smaller();
        }
    }
    (config, schedule, outcome)
}

fn many(from: u64, to: u64, liar: bool, mutant: Option<Mutant>) -> bool {
    let mut total = Coverage::new();
    let mut failed = Vec::new();
    let mut traces = blake3::Hasher::new();
    for seed in from..to {
        let config = draw(seed, liar);
        let bundle = Bundle { config, schedule: config.schedule(), mutant, traced: false };
        let outcome = bundle.run();
        traces.update(&outcome.trace);
        let idle = mutant.is_none() && !liar && is_idle(&outcome.coverage);
        let line = match &outcome.violation {
            None if idle => {
                failed.push(seed);
                format!("seed {seed}: FAILED: too little was done, or went wrong")
            }
            None => format!("seed {seed}: held, trace {}", Hex(&outcome.trace[..8])),
            Some(v) => {
                failed.push(seed);
                format!("seed {seed}: FAILED {}: {}", v.invariant, v.what)
            }
        };
        print(&line);
        if failed.last() == Some(&seed) {
            bundle.leave(&outcome);
        }
        for (what, count) in outcome.coverage {
            *total.entry(what).or_default() += count;
        }
        if mutant.is_none() && seed + 1 == from + MANY {
            for what in missing(&total, if liar { MUST_HAPPEN_WITH_A_LIAR } else { MUST_HAPPEN }) {
                print(&format!("FAILED: in {MANY} seeds this never happened: {what}"));
                failed.push(seed);
            }
        }
    }
    print("");
    tell_coverage(&total);
    print(&format!("{} seeds, {} failed {failed:?}", to.saturating_sub(from), failed.len()));
    print(&format!("trace {}", Hex(traces.finalize().as_bytes())));
    failed.is_empty()
}

/// What did not happen.
fn missing<'a>(total: &'a Coverage, must: &'a [&str]) -> impl Iterator<Item = &'a str> {
    must.iter().copied().filter(|what| total.get(what).is_none_or(|count| *count == 0))
}

/// Whether clients asked too little in a run, or too little went wrong, for it to count.
fn is_idle(coverage: &Coverage) -> bool {
    let seen = |what: &str| coverage.get(what).copied().unwrap_or_default();
    let kinds = coverage.keys().filter(|what| what.starts_with("faults: ")).count();
    seen("commands answered") < 2000 || seen("faults") < 5 || kinds < 3
}

/// In the first so many seeds each of these must happen at least once: else the runs do not test what they are for.
const MANY: u64 = 200;
const MUST_HAPPEN: &[&str] = &[
    "all clocks jump",
    "answers to what was answered before",
    "bodies changed under their checksum",
    "changes put off",
    "clocks corrected",
    "clocks jump ahead",
    "clocks jump back",
    "commands asked again",
    "cores that leave somebody out",
    "cores that leave somebody out, with damage",
    "crashes",
    "damage found while running",
    "damage that is cut off",
    "damaged ops",
    "events followed",
    "faults: client away",
    "faults: clock",
    "faults: crash of all",
    "faults: crash",
    "faults: damage",
    "faults: disk failure",
    "faults: failure while starting",
    "faults: harm",
    "faults: lost disk",
    "faults: lost kind of message",
    "faults: no way to or from clients",
    "faults: one-way link",
    "faults: partition",
    "faults: pause",
    "faults: slow disk",
    "faults: timers that stand still",
    "followers ahead of a replica",
    "followers that paused",
    "followers that went elsewhere",
    "garbled messages refused",
    "harm to what can be spared",
    "harm: a copy of the superblock",
    "harm: a misdirected write",
    "harm: a missing file that is derived",
    "harm: a missing file",
    "harm: a sector never written",
    "harm: a sector of another place",
    "harm: a short file",
    "harm: what is derived",
    "hosts that stopped with their disk",
    "indexes made anew",
    "logs repaired",
    "members added",
    "members removed",
    "messages: Alive",
    "messages: Close",
    "messages: Commit",
    "messages: DoViewChange",
    "messages: Fetch",
    "messages: Follows",
    "messages: Prepare",
    "messages: PrepareOk",
    "messages: Reading",
    "messages: RequestStartView",
    "messages: StartView",
    "messages: StartViewChange",
    "messages: Supply",
    "messages lost",
    "messages repeated",
    "notices: body",
    "notices: misdirected",
    "notices: old incarnation",
    "ops put back",
    "ops refused",
    "ops supplied",
    "primaries that went first",
    "promises kept",
    "reads that turned",
    "reads that went astray",
    "replaced disks let in",
    "replies lost",
    "replies missed",
    "requests lost",
    "requests repeated",
    "retries answered from the log",
    "ruined disks refused",
    "starts that failed with their disk",
    "states: commits what it inherited",
    "states: follows",
    "states: has resigned",
    "states: leads",
    "states: to follow",
    "states: to lead",
    "torn writes",
    "truncations",
    "uncertain ends made certain",
    "view changes with a promise outstanding",
    "view changes with an uncommitted suffix",
];

/// Only what no honest run has: the rest is the network's.
const MUST_HAPPEN_WITH_A_LIAR: &[&str] = &[
    "lies believed",
    "lies: blocked view change",
    "lies: conflicting tails",
    "lies: corrupt checksum",
    "lies: desynchronised commit",
    "lies: early commit",
    "lies: equivocation",
    "lies: forged sender",
    "lies: inflated commit",
    "lies: invented op",
    "lies: merged views",
    "lies: oversized StartView",
    "lies: prepare flood",
    "lies: replayed view",
    "lies: selective silence",
    "messages that cannot be",
    "notices: diverged",
    "notices: no successor",
    "notices: no vote",
    "notices: not in flight",
    "notices: not the primary",
    "notices: other op",
    "runs of a liar to their end",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_never_happened_is_missed() {
        for must in [MUST_HAPPEN, MUST_HAPPEN_WITH_A_LIAR] {
            let all: Coverage = must.iter().map(|what| (*what, 1)).collect();
            assert_eq!(missing(&all, must).count(), 0);
            for what in must {
                let mut fewer = all.clone();
                fewer.insert(what, 0);
                assert_eq!(missing(&fewer, must).collect::<Vec<_>>(), [*what]);
                fewer.remove(what);
                assert_eq!(missing(&fewer, must).collect::<Vec<_>>(), [*what]);
            }
        }
    }

    #[test]
    fn a_run_in_which_little_happens_does_not_count() {
        let busy = [("commands answered", 2000), ("faults", 5), ("faults: crash", 3)];
        let more = [("faults: pause", 1), ("faults: clock", 1)];
        let busy: Coverage = busy.into_iter().chain(more).collect();
        assert!(!is_idle(&busy));
        for what in busy.keys() {
            let mut less = busy.clone();
            match what.strip_prefix("faults: ") {
                Some(_) => less.remove(what),
                None => less.insert(what, busy[what] - 1),
            };
            assert!(is_idle(&less), "{what}");
        }
    }

    #[test]
    fn a_failing_run_becomes_smaller_and_fails_as_before() {
        let config = Config::draw(1);
        let (schedule, mutant) = (config.schedule(), Some(Mutant::SmallQuorum));
        let outcome = simulate(config, &schedule, mutant);
        let failing = outcome.violation.as_ref().map(|v| v.invariant);
        assert_eq!(failing, Some("S3"));
        let (less, fewer, again) = minimise(config, schedule.clone(), outcome, mutant);
        assert!(fewer.len() < schedule.len() / 2 && less.commands < config.commands);
        assert_eq!(again.violation.as_ref().map(|v| v.invariant), failing);
        assert_eq!(simulate(less, &fewer, mutant).trace, again.trace);
    }
}
