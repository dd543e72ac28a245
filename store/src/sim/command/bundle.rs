//! A run in a file: what it is made of, by which commit, and how it ended. It is the same each time.

use std::{fmt::Write as _, process::Command};

use kimberlite_consensus::sim::{Config, Mutant, Outcome, Planned, World};

use super::{print, tell};
use crate::{
    sim::{SimHost, begin},
    words::Hex,
};

const VERSION: &str = "kimberlite simulation 3";

/// What a run is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) config: Config,
    pub(super) schedule: Vec<Planned>,
    pub(super) mutant: Option<Mutant>,
    /// Models are to be asked about it: clients and followers do otherwise then.
    pub(super) traced: bool,
}

/// How it ended, by its file.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    commit: String,
    trace: String,
}

/// Runs what a file holds, and says what is not as it was; whether all held, `None` where nothing in it can be run.
pub(super) fn again(path: &str) -> Option<bool> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{path}: {error}");
            return None;
        }
    };
    let Some((bundle, before)) = read(&text) else {
        eprintln!("{path} is no bundle of this version");
        return None;
    };
    let outcome = bundle.run();
    let held = bundle.finish_with(&outcome, || differences(&before, &commit(), &outcome));
    Some(held)
}

/// In words, each in a line.
fn differences(before: &Ended, commit: &str, outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    if before.commit != commit {
        lines.push(format!("another commit: {} then, {commit} now", before.commit));
    }
    if before.trace != Hex(&outcome.trace).to_string() {
        lines.push(format!("another run: its trace was {}", before.trace));
    }
    lines
}

impl Bundle {
    pub(super) fn run(&self) -> Outcome {
        begin(self.config.seed);
        World::<SimHost>::run(self.config, &self.schedule, self.mutant, self.traced)
    }

    /// Tells of a run, and leaves it in a file where something did not hold; says whether all did.
    pub(super) fn finish(&self, outcome: &Outcome) -> bool {
        self.finish_with(outcome, Vec::new)
    }

    fn finish_with(&self, outcome: &Outcome, more: impl FnOnce() -> Vec<String>) -> bool {
        tell(outcome);
        for line in more() {
            print(&line);
        }
        if outcome.violation.is_some() {
            self.leave(outcome);
        }
        print(&format!("trace {}", Hex(&outcome.trace)));
        outcome.violation.is_none()
    }

    /// Leaves a run in a file.
    pub(super) fn leave(&self, outcome: &Outcome) {
        let path = format!("sim-{}.bundle", self.config.seed);
        match std::fs::write(&path, self.write(&commit(), outcome)) {
            Ok(()) => print(&format!("cargo sim --bundle {path}")),
            Err(error) => print(&format!("{path} cannot be written: {error}")),
        }
    }

    fn write(&self, commit: &str, outcome: &Outcome) -> String {
        let mut text = format!("{VERSION}\ncommit {commit}\nconfig {}\n", self.config);
        let mut line = |line: String| writeln!(text, "{line}").expect("writing to memory");
        line(format!("mutant {}", self.mutant.map_or("none", Mutant::name)));
        line(format!("traced {}", self.traced));
        for planned in &self.schedule {
            line(format!("fault {planned}"));
        }
        if let Some(v) = &outcome.violation {
            // Whoever panics may need several lines for it.
            line(format!("failed {} {}", v.invariant, v.what.replace('\n', " ")));
        }
        line(format!("trace {}", Hex(&outcome.trace)));
        text
    }
}

/// What this was built from, as far as the folder says in which it runs.
fn commit() -> String {
    let told = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .output();
    told.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

fn read(text: &str) -> Option<(Bundle, Ended)> {
    let mut lines = text.lines();
    if lines.next()? != VERSION {
        return None;
    }
    let (mut config, mut schedule, mut mutant, mut traced) = (None, Vec::new(), None, false);
    let mut ended = Ended { commit: String::new(), trace: String::new() };
    for line in lines {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "config" => config = Config::parse(rest),
            "fault" => schedule.push(Planned::parse(rest)?),
            "mutant" => mutant = Mutant::ALL.iter().find(|m| m.name() == rest).copied(),
            "traced" => traced = rest.parse().ok()?,
            "commit" => rest.clone_into(&mut ended.commit),
            "trace" => rest.clone_into(&mut ended.trace),
            "failed" => {}
            _ => return None,
        }
    }
    config.map(|config| (Bundle { config, schedule, mutant, traced }, ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(trace: [u8; 32]) -> Outcome {
        Outcome {
            trace,
            violation: None,
            coverage: super::super::Coverage::new(),
            timeline: Vec::new(),
            steps: Vec::new(),
        }
    }

    #[test]
    fn a_bundle_comes_back_as_it_was_written() {
        let config = Config::draw(7).with_liar();
        let (schedule, mutant) = (config.schedule(), Some(Mutant::SmallQuorum));
        for traced in [false, true] {
            let bundle = Bundle { config, schedule: schedule.clone(), mutant, traced };
            let text = bundle.write("abc", &ended([3; 32]));
            let trace = Hex(&[3; 32]).to_string();
            assert_eq!(read(&text), Some((bundle, Ended { commit: "abc".into(), trace })));
        }
        assert_eq!(read("kimberlite simulation 2\n"), None);
    }

    #[test]
    fn the_bundle_of_a_traced_run_does_the_same_again() {
        let (config, schedule) = Config::traced(1);
        let bundle = Bundle { config, schedule, mutant: None, traced: true };
        let outcome = bundle.run();
        let (again, before) = read(&bundle.write("abc", &outcome)).unwrap();
        assert_eq!(differences(&before, "abc", &again.run()), Vec::<String>::new());
        let untraced = Bundle { traced: false, ..bundle };
        assert_ne!(untraced.run().trace, outcome.trace, "it would be another run");
    }

    #[test]
    fn another_commit_and_another_run_are_told() {
        let before = Ended { commit: "abc".into(), trace: Hex(&[3; 32]).to_string() };
        let told = |commit, trace| differences(&before, commit, &ended(trace)).len();
        assert_eq!([told("abc", [3; 32]), told("abd", [3; 32]), told("abd", [4; 32])], [0, 1, 2]);
    }
}
