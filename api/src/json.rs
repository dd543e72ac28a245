//! What the JSON grammar allows and we do not: unbounded depth, an object with a key twice, half a
//! surrogate pair.
//!
//! Readers disagree about the last two (first or last value; replacement, error or garbage), so one
//! party could be shown other data than another. They are refused before they are stored.

mod once;
mod scan;

use kimberlite_store::limits::JSON_DEPTH_MAX;
use serde::{
    Deserialize,
    de::{Deserializer, Visitor},
    forward_to_deserialize_any,
};
use serde_path_to_error::Segment;

use crate::problem::{Code, FieldError, Problem};
pub(crate) use once::Raw;
use scan::Scan;

/// Parses a body. The grammar is checked for all of it, the form of what `T` names; what else is refused inside of a
/// [`Raw`] by [`Raw::check`].
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let detail = format!("is not UTF-8 at byte {}", e.valid_up_to());
        Problem::at(Code::MalformedJson, "", detail)
    })?;
    if let Some(read) = once::read(text) {
        return Ok(read);
    }
    serde_json::from_str(text).map_err(|error| explain::<T>(text, &error))
}

/// Lets derived structs be read from JSON objects alone: by themselves they also take an array, as
/// their fields by position. Wants `#[serde(remote = "Self")]` on each.
macro_rules! only_from_objects {
    ($($name:ident $(<$lifetime:lifetime>)?),* $(,)?) => {
        $(impl<'de $(: $lifetime, $lifetime)?> serde::Deserialize<'de> for $name $(<$lifetime>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::deserialize(crate::json::OnlyObjects(deserializer))
            }
        })*
    };
}
pub(crate) use only_from_objects;

/// See [`only_from_objects`].
pub(crate) struct OnlyObjects<D>(pub(crate) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for OnlyObjects<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A field that is `null` counts as left out.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Parses again, slowly, to say where it went wrong.
fn explain<'a, T: Deserialize<'a>>(text: &'a str, error: &serde_json::Error) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let traced = serde_path_to_error::deserialize::<_, T>(&mut deserializer);
    let pointer = traced.as_ref().err().map(|e| pointer(e.path())).unwrap_or_default();
    if !error.is_data() {
        let place = format!("line {} column {}", error.line(), error.column());
        return Problem::at(
            Code::MalformedJson,
            pointer,
            format!("is not JSON ({place}): {}", said(error)),
        );
    }
    let said = said(error);
    let key = said.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    if let Some((twice, _)) =
        said.strip_prefix("duplicate field `").and_then(|rest| rest.split_once('`'))
    {
        // The grammar allows it; we refuse it as we do inside of data.
        return Problem::at(
            Code::MalformedJson,
            pointer,
            format!("holds an object with the key {twice:?} twice"),
        );
    }
    match key {
        Some((key, _)) => {
            // The path leads up to the key, or to the object that holds it.
            let key = format!("/{}", escape(key));
            let whole = if pointer.ends_with(&key) { pointer } else { pointer + &key };
            Problem::at(Code::InvalidBody, whole, "is not known here")
        }
        None => Problem::at(Code::InvalidBody, pointer, in_words_of_json(&said)),
    }
}

/// What the library says of a wrong type or value, without its names for them.
fn in_words_of_json(said: &str) -> String {
    let Some((found, expected)) = said
        .strip_prefix("invalid ")
        .and_then(|rest| rest.split_once(": "))
        .and_then(|(_, rest)| rest.rsplit_once(", expected "))
    else {
        return said.to_owned();
    };
    let expected = match expected {
        "a sequence" => "an array",
        "u64" => "a whole number that is not negative",
        name if name.starts_with("struct ") => "an object",
        said => said,
    };
    let found = match found.split([' ', '`']).next() {
        Some("null") => "null",
        Some("boolean") => "a boolean",
        Some("integer" | "floating" | "number") => "a number",
        Some("string") => "a string",
        Some("sequence") => "an array",
        Some("map") => "an object",
        _ => return format!("must be {expected}"),
    };
    format!("is {found}; it must be {expected}")
}

/// The error without the place that serde adds to it.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |at| text[..at].to_owned())
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    let segments = path.iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } | Segment::Enum { variant: key } => format!("/{}", escape(key)),
        Segment::Unknown => String::new(),
    });
    segments.collect()
}

/// A key as a part of a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What a JSON text does that we do not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Deeper than [`JSON_DEPTH_MAX`].
    TooDeep,
    /// An object has this key twice.
    DuplicateKey(String),
    /// Half a surrogate pair, at this byte.
    LoneSurrogate(usize),
    /// It is no JSON, at this byte.
    Grammar(usize),
}

impl Fault {
    /// As a place in the body.
    pub(crate) fn at(self, pointer: String) -> (Code, FieldError) {
        match self {
            Self::TooDeep => {
                let detail = format!("is nested deeper than {JSON_DEPTH_MAX} levels");
                (Code::LimitExceeded, FieldError::at(pointer, detail))
            }
            Self::DuplicateKey(key) => {
                let detail = format!("holds an object with the key {key:?} twice");
                (Code::MalformedJson, FieldError::at(pointer, detail))
            }
            Self::LoneSurrogate(at) => {
                let detail = format!("holds half a surrogate pair at byte {at}");
                (Code::MalformedJson, FieldError::at(pointer, detail))
            }
            Self::Grammar(at) => {
                let detail = format!("is not JSON at byte {at}");
                (Code::MalformedJson, FieldError::at(pointer, detail))
            }
        }
    }
}

/// Checks one JSON value.
pub(crate) fn check(text: &str) -> Result<(), Fault> {
    let mut scan = Scan::new(text);
    scan.value()?;
    if scan.is_at_end() { Ok(()) } else { Err(Fault::Grammar(scan.at)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_take_passes() {
        let wide: Vec<String> = (0..100).map(|n| format!("\"k{n}\":[{n}]")).collect();
        let deep = format!("{}1{}", "[".repeat(JSON_DEPTH_MAX), "]".repeat(JSON_DEPTH_MAX));
        for text in [
            "null",
            "1e400",
            "\"a,b{\\\"[\"",
            "[]",
            "{}",
            r#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}"#,
            r#"{"a":"b","b":"a"}"#,
            r#"["\ud83d\ude00", "\\ud800", "\u0061"]"#,
            r#"{"":1," ":2}"#,
            &deep,
            &format!("{{{}}}", wide.join(",")),
            r#"[{"a":1},{"a":1}]"#,
            r#"{"a":"\\","b":"\""}"#,
        ] {
            let _: &serde_json::value::RawValue = serde_json::from_str(text).unwrap();
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_we_refuse_is_found_wherever_it_stands() {
        let key = |k: &str| Err(Fault::DuplicateKey(k.to_owned()));
        assert_eq!(check(r#"{"a":1,"a":2}"#), key("a"));
        assert_eq!(check(r#"{"a":1,"\u0061":2}"#), key("a"));
        assert_eq!(check(r#"[{"x":{"a":[1,{}],"b":{"c":1,"c":1}}}]"#), key("c"));
        assert_eq!(check(r#"{"o":{"p":1},"q":{"p":1},"o":0}"#), key("o"));
        let mut wide: Vec<String> = (0..100).map(|n| format!("\"k{n}\":{{\"a\":1}}")).collect();
        wide.push("\"k0\":0".to_owned());
        assert_eq!(check(&format!("{{{}}}", wide.join(","))), key("k0"));
        for (text, at) in [
            (r#""\ud800""#, 1),
            (r#""\udc00""#, 1),
            (r#""\ud800\ud800\udc00""#, 1),
            (r#""x\ud800\n""#, 2),
            (r#"{"\udfff":1}"#, 2),
            (r#""\ud83d\ude00\uDEAD""#, 13),
        ] {
            assert_eq!(check(text), Err(Fault::LoneSurrogate(at)), "{text}");
        }
        let deep = JSON_DEPTH_MAX + 1;
        assert_eq!(
            check(&format!("{}{}", "[".repeat(deep), "]".repeat(deep))),
            Err(Fault::TooDeep)
        );
        assert_eq!(
            check(&format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep))),
            Err(Fault::TooDeep)
        );
    }
}
