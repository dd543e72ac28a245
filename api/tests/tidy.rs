//! House rules that a machine can hold and that neither rustfmt nor clippy does. Each rule is shown to fail on a
//! planted breach.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crates from the bottom to the top. One may depend on those before it.
const LAYERS: [&str; 7] = ["consensus", "store", "query", "compliance", "studio", "api", "openapi"];
/// Neither of these knows the other.
const APART: [&str; 2] = ["query", "compliance"];
/// What stands at the top beside the crates.
const FOLDERS: [&str; 3] = ["specs", "web", "examples"];
/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 6] = ["utils", "common", "helpers", "misc", "types", "manager"];
const LINES_MAX: usize = 600;
/// What decides and must not do anything else.
const PURE: [&str; 4] =
    ["consensus/src/", "store/src/kernel.rs", "store/src/kernel/", "store/src/node/machine.rs"];
/// What clippy.toml cannot name.
const IMPURE: [&str; 9] = [
    "async ",
    ".await",
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "std::time",
    "rand::",
    "allow(clippy::",
];
const STATUSES: [&str; 10] = [
    "BAD_REQUEST",
    "UNAUTHORIZED",
    "FORBIDDEN",
    "NOT_FOUND",
    "CONFLICT",
    "GONE",
    "PRECONDITION_FAILED",
    "UNPROCESSABLE_ENTITY",
    "TOO_MANY_REQUESTS",
    "SERVICE_UNAVAILABLE",
];

/// A file: its path from the top, and its text.
struct Source {
    path: String,
    text: String,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap()
}

/// Every Rust file of the crates that are there.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = LAYERS.iter().map(|c| top().join(c)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(top()).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 50, "{} files", found.len());
    found
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

/// Holds a rule against all sources, after showing that it sees each of `planted`.
fn hold(rule: fn(&Source) -> Option<String>, planted: &[Source]) {
    // This file names what is forbidden.
    let sources = sources().into_iter().filter(|s| s.path != "api/tests/tidy.rs");
    let breaches: Vec<String> =
        sources.filter_map(|s| rule(&s).map(|what| format!("{}: {what}", s.path))).collect();
    assert!(breaches.is_empty(), "{breaches:#?}");
    for breach in planted {
        assert!(rule(breach).is_some(), "not seen: {} {:?}", breach.path, breach.text);
    }
}

#[test]
fn files_have_names_of_the_domain() {
    fn rule(source: &Source) -> Option<String> {
        let name = source.path.rsplit('/').next()?.trim_end_matches(".rs");
        // Cargo would take `tests/support.rs` for a test of its own.
        if name == "mod" && source.path != "api/tests/support/mod.rs" {
            return Some("foo.rs and foo/bar.rs, not foo/mod.rs".into());
        }
        let version = name.rsplit_once("_v").is_some_and(|(_, n)| n.parse::<u32>().is_ok());
        (EMPTY_NAMES.contains(&name) || version).then(|| "a name that says nothing".into())
    }
    hold(
        rule,
        &[
            source("store/src/log/mod.rs", ""),
            source("store/src/utils.rs", ""),
            source("store/src/log_v2.rs", ""),
        ],
    );
}

#[test]
fn files_are_short() {
    fn rule(source: &Source) -> Option<String> {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{lines} lines; the limit is {LINES_MAX}"))
    }
    hold(rule, &[source("store/src/a.rs", &"\n".repeat(LINES_MAX + 1))]);
}

#[test]
fn comments_hold_no_history_and_tests_are_not_switched_off() {
    fn rule(source: &Source) -> Option<String> {
        let comments = source.text.lines().filter_map(|l| l.split_once("//").map(|(_, c)| c));
        let word = |c: &&str| ["TODO", "FIXME", "XXX:", "HACK"].iter().any(|w| c.contains(w));
        let ticket = |c: &&str| {
            c.match_indices('#')
                .any(|(at, _)| c[at + 1..].starts_with(|d: char| d.is_ascii_digit()))
        };
        if let Some(comment) = comments.clone().find(word).or_else(|| comments.clone().find(ticket))
        {
            return Some(format!("//{comment}"));
        }
        source.text.contains("#[ignore").then(|| "an ignored test".into())
    }
    hold(
        rule,
        &[
            source("a.rs", "// TODO: later"),
            source("a.rs", "let a = 1; // see #123"),
            source("a.rs", "#[test]\n#[ignore]\nfn a() {}"),
        ],
    );
}

#[test]
fn the_pure_parts_know_nothing_of_the_world() {
    fn rule(source: &Source) -> Option<String> {
        if !PURE.iter().any(|p| source.path.starts_with(p)) {
            return None;
        }
        let code = source.text.split("\n#[cfg(test)]\nmod tests {").next()?;
        let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        let mut found = lines.filter(|l| IMPURE.iter().any(|w| l.contains(w)));
        found.next().map(ToOwned::to_owned)
    }
    let planted = IMPURE.map(|w| source("store/src/kernel/window.rs", w));
    hold(rule, &planted);
}

/// Clippy is told by each file itself.
#[test]
fn the_pure_parts_refuse_what_clippy_can_see() {
    const METHODS: &str = "clippy::disallowed_methods";
    let warned = |text: &str| {
        let (_, list) = text.split_once("#![warn(").unwrap_or_default();
        list.split_once(")]").is_some_and(|(list, _)| list.contains(METHODS))
    };
    assert!(!warned("#![allow(clippy::disallowed_methods)]"));
    for path in ["store/src/kernel.rs", "store/src/node/machine.rs"] {
        assert!(warned(&read(path)), "{path}");
    }
    // A crate's clippy.toml stands in the place of the workspace's: it has to repeat it.
    let repeats = |text: &str| read("clippy.toml").lines().all(|l| text.lines().any(|t| t == l));
    assert!(!repeats("disallowed-methods = []"));
    for path in ["consensus/clippy.toml", "store/clippy.toml"] {
        assert!(repeats(&read(path)), "{path} lacks a line of the workspace's");
    }
}

#[test]
fn only_the_table_of_problems_knows_their_statuses() {
    fn rule(source: &Source) -> Option<String> {
        let ours = source.path.starts_with("api/src/") && source.path != "api/src/problem.rs";
        // The page for people that says that there is no such page; and who only reads statuses.
        let other = source.path == "api/src/docs.rs" || source.path.starts_with("api/src/cli/");
        // What a witness answers is another standard's; here it is read.
        let witness = ["api/src/problem/witness.rs", "api/src/witnesses.rs"];
        let other = other || witness.contains(&source.path.as_str());
        if !ours || other {
            return None;
        }
        let status = STATUSES.iter().find(|s| source.text.contains(&format!("StatusCode::{s}")));
        status.map(ToString::to_string)
    }
    let planted =
        STATUSES.map(|s| source("api/src/v1/read.rs", &format!("empty(StatusCode::{s})")));
    hold(rule, &planted);
}

/// The crates of ours that a manifest names.
fn ours(manifest: &str) -> impl Iterator<Item = &str> {
    let names = manifest.lines().filter_map(|l| l.strip_prefix("kimberlite-"));
    names.map(|l| l.split(['.', ' ', '=']).next().unwrap())
}

fn upward(name: &str, manifest: &str) -> Option<String> {
    let place = |name: &str| LAYERS.iter().position(|l| *l == name).expect("a crate of ours");
    let apart = |other: &str| APART.contains(&name) && APART.contains(&other);
    // A crate may name itself for its benches.
    let wrong = |other: &&str| *other != name && (place(other) > place(name) || apart(other));
    ours(manifest).find(wrong).map(|other| format!("{name} depends on {other}"))
}

#[test]
fn dependencies_point_down_and_every_crate_has_the_lints() {
    for name in LAYERS.iter().filter(|c| top().join(c).exists()) {
        let manifest = read(&format!("{name}/Cargo.toml"));
        assert_eq!(upward(name, &manifest), None);
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} has not the lints");
    }
    assert!(upward("store", "kimberlite-api.workspace = true").is_some());
    assert!(upward("consensus", "kimberlite-store = { path = \"../store\" }").is_some());
    assert!(upward("compliance", "kimberlite-query.workspace = true").is_some());
    assert_eq!(upward("api", "kimberlite-store.workspace = true"), None);
}

/// Dependencies of the workspace without a word on why they are there.
fn unexplained(manifest: &str) -> Vec<&str> {
    let (_, list) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let list = list.split("\n[").next().unwrap();
    let lines = list.lines().filter(|l| l.contains(" = ") && !l.contains("path = "));
    lines.filter(|l| l.split_once(" # ").is_none_or(|(_, why)| why.trim().is_empty())).collect()
}

#[test]
fn each_dependency_says_why_it_is_there() {
    assert_eq!(unexplained(&read("Cargo.toml")), [] as [&str; 0]);
    assert_eq!(unexplained("[workspace.dependencies]\nleft-pad = \"1\"\n[x]").len(), 1);
}

fn unknown_folders(names: &[String]) -> Vec<&String> {
    let known = |n: &&str| FOLDERS.contains(n) || LAYERS.contains(n) || n.starts_with('.');
    names.iter().filter(|n| !known(&n.as_str())).collect()
}

/// Also what git does not keep: a build's `target`, the data of `dev`.
#[test]
fn the_top_level_is_the_architecture() {
    let ignored = read(".gitignore");
    let entries = fs::read_dir(top()).unwrap().map(Result::unwrap);
    let folders = entries.filter(|e| e.file_type().unwrap().is_dir());
    let names = folders.map(|e| e.file_name().into_string().unwrap());
    let kept = |n: &String| !ignored.lines().any(|l| l.trim_start_matches('/') == n);
    let names: Vec<String> = names.filter(kept).collect();
    assert_eq!(unknown_folders(&names), [] as [&String; 0]);
    assert_eq!(unknown_folders(&["scripts".to_owned()]).len(), 1);
}
