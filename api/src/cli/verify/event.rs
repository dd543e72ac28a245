//! An event's JSON, held against its leaf, its payloads, and the names that stand in earlier records.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::opening::{OpenedLeaf, Opening, SUBJECT};

/// Digits of the leaf hash in a cursor.
const CURSOR_DIGITS: usize = 8;

/// What is known of a name.
pub(super) enum Named {
    /// It is this JSON string.
    Is(String),
    /// Nobody can say, and why.
    Unknown(String),
    /// What was to tell it is wrong, which was said already.
    Wrong,
}

/// What came out.
#[derive(Default)]
pub(super) struct Compared {
    pub(super) wrong: Vec<String>,
    pub(super) not_checked: Vec<String>,
}

/// An object's members as they are written, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Each).map(Members)
    }
}

/// Compares an event with what its leaf and payloads say, and with its names as far as they are known.
pub(super) fn compare(
    event: &RawValue,
    opening: &Opening,
    leaf: &OpenedLeaf,
    names: &[(&str, Named)],
) -> Compared {
    let mut compared = Compared::default();
    let Ok(Members(members)) = serde_json::from_str(event.get()) else {
        compared.wrong.push("it is no JSON object".to_owned());
        return compared;
    };
    let mut shown = Shown { left: members, compared };
    shown.fields(opening, leaf);
    shown.names(names);
    for name in ["data", "metadata", "occurred_at", "tags"] {
        let absent = if name == "tags" { "[]" } else { "null" };
        let payload = opening.payload(name);
        let found = shown.take(name);
        let gone = payload.is_some_and(|p| p.json.is_none()) && found == "null";
        let expected = payload.and_then(|p| p.json.as_deref()).map_or(absent.into(), bare);
        if found != expected && !gone {
            shown.wrong(format!("its {name} is not what the leaf commits to"));
        }
    }
    shown.rest(opening);
    shown.compared
}

/// What is left of an event to be compared.
struct Shown<'a> {
    left: Vec<(String, &'a RawValue)>,
    compared: Compared,
}

impl Shown<'_> {
    fn wrong(&mut self, what: String) {
        self.compared.wrong.push(what);
    }

    /// A member's value, which is nothing where there is no such member. One that stands there twice is left over.
    fn take(&mut self, name: &str) -> String {
        let at = self.left.iter().position(|(member, _)| member == name);
        at.map_or_else(String::new, |at| bare(self.left.remove(at).1.get()))
    }

    fn fields(&mut self, opening: &Opening, leaf: &OpenedLeaf) {
        let text = |text: &dyn fmt::Display| format!("\"{text}\"");
        let (fields, hash) = (&leaf.fields, leaf.hash.to_string());
        let cursor = format!("{}.{}", opening.position, &hash[..CURSOR_DIGITS]);
        if fields.kind != "event" {
            self.wrong(format!("the leaf is of a {}", fields.kind));
        }
        for (name, expected) in [
            ("position", opening.position.to_string()),
            ("cursor", text(&cursor)),
            ("id", text(&fields.id)),
            ("version", fields.version.to_string()),
            ("time", text(&fields.time)),
            ("hash", text(&hash)),
        ] {
            if self.take(name) != expected {
                self.wrong(format!("its {name} is not the leaf's"));
            }
        }
        let subjects = self.take("subjects");
        if leaf.reference(SUBJECT).is_some() {
            self.compared.not_checked.push("its subjects stand in other records".to_owned());
        } else if subjects != "[]" {
            self.wrong("its subjects are not the leaf's, which has none".to_owned());
        }
    }

    fn names(&mut self, names: &[(&str, Named)]) {
        for kind in ["stream", "type"] {
            let found = self.take(kind);
            match names.iter().find(|(name, _)| *name == kind) {
                Some((_, Named::Is(name))) if found == bare(name) => {}
                Some((_, Named::Wrong)) => {}
                Some((_, Named::Unknown(why))) => self.compared.not_checked.push(why.clone()),
                Some((_, Named::Is(_))) => {
                    self.wrong(format!("its {kind} is not the one that the leaf refers to"));
                }
                None => self.wrong(format!("the leaf has no {kind}")),
            }
        }
    }

    /// What not every event has, and what none has.
    fn rest(&mut self, opening: &Opening) {
        for (name, value) in std::mem::take(&mut self.left) {
            let is_gone = opening.payloads.iter().any(|payload| payload.state == name);
            match (name.as_str(), value.get()) {
                ("erased" | "expired", "true") if is_gone => {}
                ("stream_deleted", "true") => {
                    let later = "that its stream was deleted stands in a later record";
                    self.compared.not_checked.push(later.to_owned());
                }
                _ => self
                    .wrong(format!("its member {name} is once too often, or none of an event's")),
            }
        }
    }
}

/// JSON without the whitespace between its parts, so that a file may be laid out anew. Numbers and strings stay as they are.
pub(super) fn bare(json: &str) -> String {
    let (mut out, mut quoted, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if quoted || !c.is_ascii_whitespace() {
            out.push(c);
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
    }
    out
}
