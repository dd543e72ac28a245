//! Bodies of the usual form are read in one pass: the few fields that we name, and the text of what callers keep with us,
//! grammar and repeated keys checked on the way.
//!
//! Whatever is unusual (escapes in our own fields, numbers with a fraction, anything wrong) is given up, and read again by the
//! parser that explains.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::value::RawValue;

use super::{Fault, check, scan::Scan};

/// How [`Once`] is asked for a value's text.
const TEXT_OF_VALUE: &str = "kimberlite text of a JSON value";
/// Levels of our own fields.
const DEPTH_MAX: u32 = 16;

/// A JSON value as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    text: &'a str,
    checked: bool,
}

impl<'a> Raw<'a> {
    /// Its text.
    pub(crate) fn get(&self) -> &'a str {
        self.text
    }

    /// Finds what we do not take, unless that is done.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.checked { Ok(()) } else { check(self.text) }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Raw<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Raw<'de>, E> {
                Ok(Raw { text, checked: true })
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Raw<'de>, D::Error> {
                let raw = <&RawValue>::deserialize(deserializer)?;
                Ok(Raw { text: raw.get(), checked: false })
            }
        }

        deserializer.deserialize_newtype_struct(TEXT_OF_VALUE, Text)
    }
}

/// Reads a text, or gives it up.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Option<T> {
    let mut scan = Scan::new(text);
    let read = T::deserialize(Once { scan: &mut scan, depth: 0 }).ok()?;
    scan.is_at_end().then_some(read)
}

/// Not in one pass.
#[derive(Debug)]
struct GivenUp;

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("given up")
    }
}

impl std::error::Error for GivenUp {}

impl serde::de::Error for GivenUp {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl From<Fault> for GivenUp {
    fn from(_: Fault) -> Self {
        Self
    }
}

struct Once<'s, 'de> {
    scan: &'s mut Scan<'de>,
    depth: u32,
}

impl<'de> Once<'_, 'de> {
    fn plain_string(&mut self) -> Result<&'de str, GivenUp> {
        match self.scan.string()? {
            (_, true) => Err(GivenUp),
            (quoted, false) => Ok(&quoted[1..quoted.len() - 1]),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), GivenUp> {
        if !self.scan.text.as_bytes()[self.scan.at..].starts_with(word.as_bytes()) {
            return Err(GivenUp);
        }
        self.scan.at += word.len();
        Ok(())
    }

    /// A number without sign, fraction and exponent.
    fn whole_number(&mut self) -> Result<u64, GivenUp> {
        self.scan.value()?.parse().map_err(|_| GivenUp)
    }
}

impl<'de> Deserializer<'de> for Once<'_, 'de> {
    type Error = GivenUp;

    fn deserialize_any<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, GivenUp> {
        if self.depth == DEPTH_MAX {
            return Err(GivenUp);
        }
        let first = self.scan.token();
        match first {
            b'{' | b'[' => {
                self.scan.at += 1;
                let mut items = Items { scan: self.scan, depth: self.depth + 1, any: false };
                let value = if first == b'{' {
                    visitor.visit_map(&mut items)?
                } else {
                    visitor.visit_seq(&mut items)?
                };
                items.end(if first == b'{' { b'}' } else { b']' })?;
                Ok(value)
            }
            b'"' => visitor.visit_borrowed_str(self.plain_string()?),
            b'0'..=b'9' => visitor.visit_u64(self.whole_number()?),
            b't' => self.word("true").and_then(|()| visitor.visit_bool(true)),
            b'f' => self.word("false").and_then(|()| visitor.visit_bool(false)),
            b'n' => self.word("null").and_then(|()| visitor.visit_unit()),
            _ => Err(GivenUp),
        }
    }

    /// An array is no object, though visitors of structs would take it.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, GivenUp> {
        if self.scan.token() == b'{' { self.deserialize_any(visitor) } else { Err(GivenUp) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, GivenUp> {
        self.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, GivenUp> {
        if self.scan.token() == b'n' {
            self.word("null")?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, GivenUp> {
        if name == TEXT_OF_VALUE {
            return visitor.visit_borrowed_str(self.scan.value()?);
        }
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct enum identifier ignored_any
    }
}

/// What stands in an array or object.
struct Items<'s, 'de> {
    scan: &'s mut Scan<'de>,
    depth: u32,
    /// One has been read.
    any: bool,
}

impl<'de> Items<'_, 'de> {
    fn next<T: DeserializeSeed<'de>>(
        &mut self,
        end: u8,
        seed: T,
    ) -> Result<Option<T::Value>, GivenUp> {
        let token = self.scan.token();
        if token == end {
            return Ok(None);
        }
        if self.any {
            if token != b',' {
                return Err(GivenUp);
            }
            self.scan.at += 1;
        }
        self.any = true;
        if end == b'}' && self.scan.token() != b'"' {
            return Err(GivenUp);
        }
        seed.deserialize(Once { scan: self.scan, depth: self.depth }).map(Some)
    }

    fn end(&mut self, end: u8) -> Result<(), GivenUp> {
        if self.scan.token() != end {
            return Err(GivenUp);
        }
        self.scan.at += 1;
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = GivenUp;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, GivenUp> {
        self.next(b']', seed)
    }
}

impl<'de> MapAccess<'de> for Items<'_, 'de> {
    type Error = GivenUp;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, GivenUp> {
        self.next(b'}', seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, GivenUp> {
        self.scan.colon()?;
        seed.deserialize(Once { scan: self.scan, depth: self.depth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{append::AppendBody, new_event::LineBody, transactions::TransactionBody};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body<'a> {
        #[serde(borrow)]
        name: std::borrow::Cow<'a, str>,
        number: Option<u64>,
        flag: Option<bool>,
        #[serde(borrow)]
        raw: Option<Raw<'a>>,
        #[serde(borrow)]
        other: Option<Raw<'a>>,
        #[serde(borrow, default)]
        list: Vec<&'a str>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        version: u64,
    }

    /// Only what was read here is known to be checked; what the parser that explains has read is still to be.
    #[test]
    fn a_body_of_the_usual_form_is_read_in_one_pass() {
        for (body, once) in [
            (r#"{"name":"n","number":1,"raw":{"a":[1.5,"x"]}}"#, true),
            (r#"{"name":"\u006e","raw":{"a":1}}"#, false),
        ] {
            let read: Body<'_> = crate::json::parse(body.as_bytes()).unwrap();
            assert_eq!(read.name, "n");
            assert_eq!(read.raw.unwrap().checked, once, "{body}");
        }
    }

    impl Body<'_> {
        fn shown(&self) -> String {
            let Self { name, number, flag, raw, other, list, inner } = self;
            let (raw, other) = (raw.map(|r| r.text), other.map(|r| r.text));
            let version = inner.as_ref().map(|i| i.version);
            format!("{name} {number:?} {flag:?} {raw:?} {other:?} {list:?} {version:?}")
        }
    }

    /// What the parser that explains takes, all of it checked.
    fn slow(text: &str) -> Option<String> {
        let body: Body<'_> = serde_json::from_str(text).ok()?;
        assert!([body.raw, body.other].iter().flatten().all(|raw| !raw.checked));
        let checked = body.raw.is_none_or(|r| check(r.text).is_ok())
            && body.other.is_none_or(|r| check(r.text).is_ok());
        checked.then(|| body.shown())
    }

    fn fast(text: &str) -> Option<String> {
        let body: Body<'_> = read(text)?;
        assert!([body.raw, body.other].iter().flatten().all(|raw| raw.checked));
        Some(body.shown())
    }

    const SEEDS: [&str; 8] = [
        r#"{"name":"n","raw":{"a":[1,2.5e-3,{"b":null}],"c":"\ud83d\ude00\"\\","d":true}}"#,
        r#" { "name" : "näme" , "number" : 17 , "flag" : false , "list" : [ "a" , "b" ] } "#,
        r#"{"name":"n","raw":null,"other":[[],{},[{}],"",-0,0.5,1E+9],"inner":{"version":3}}"#,
        r#"{"name":"n","raw":{"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]},"other":"\u00e9\n"}"#,
        "{\"name\":\"n\",\n\t\"raw\": 1234567890123456789012345678901234567890 ,\"number\":18446744073709551615}",
        r#"{"name":"","raw":{"":1,"k0":0,"k1":1,"k2":2,"k3":3,"k4":4,"k5":5,"k6":6,"k7":7,"k8":8,"k9":9,"l0":0,"l1":1,"l2":2,"l3":3,"l4":4,"l5":5,"l6":6}}"#,
        r#"{"name":"long enough that words of eight bytes matter","raw":"0123456789\"abcdefghijklmnop\\qrstuv"}"#,
        r#"{"name":"n","flag":true,"number":0,"list":[],"inner":{"version":0},"other":false}"#,
    ];

    #[test]
    fn the_usual_form_is_read_in_one_pass() {
        for text in SEEDS {
            assert!(fast(text).is_some(), "{text}");
            assert_eq!(fast(text), slow(text));
        }
        let event = r#"{"type":"t","data":{"a":"\n"},"metadata":{},"id":"x","occurred_at":"y","subjects":[],"tags":["a"]}"#;
        let body = format!(r#"{{"events":[{event},{event}],"expected":{{"version":3}}}}"#);
        assert!(read::<AppendBody<'_>>(&body).is_some());
        assert!(read::<AppendBody<'_>>(r#"{"events":[{"type":"t"}],"expected":"none"}"#).is_some());
        let line = event.replacen('{', r#"{"stream":"s","expected":null,"#, 1);
        assert!(read::<LineBody<'_>>(&line).is_some());
        let both = format!(
            r#"{{"appends":[{{"stream":"s","events":[{event}]}}],"conditions":[{{"fail_if_events_match":{{"items":[{{"tags":["a"]}}]}},"after":3}}]}}"#
        );
        assert!(read::<TransactionBody<'_>>(&both).is_some());
        assert!(read::<AppendBody<'_>>(r#"[[{"type":"t"}],null]"#).is_none());
        assert!(read::<AppendBody<'_>>(r#"{"events":[["t"]]}"#).is_none());
    }

    #[test]
    fn what_is_unusual_is_given_up() {
        for text in [
            r#"{"name":"\n"}"#,
            r#"{"na\u006de":"n"}"#,
            r#"{"name":"n","number":1.0}"#,
            r#"{"name":"n","number":-1}"#,
            r#"{"name":"n","number":01}"#,
            r#"{"name":"n","name":"n"}"#,
            r#"{"name":"n","unknown":1}"#,
            r#"{"name":"n",}"#,
            r#"{"name":"n"}}"#,
            r#"{"name":"n"} x"#,
            r#"{0:"n"}"#,
            r#"["n",null,null,null,null,[],null]"#,
            r#"{"name":"n","inner":[3]}"#,
            r#"{"name":"n","list":["a",]}"#,
            r#"{"name":"n","list":[,"a"]}"#,
            r#"{"name":"n","raw":{"a":1,"\u0061":1}}"#,
            r#"{"name":"n","raw":"\ud800"}"#,
            r#"{"name":"n","raw":"\u+123"}"#,
            r#"{"name":"n","raw":"\x"}"#,
            r#"{"name":"n","raw":nul}"#,
            r#"{"name":"n","raw":.5}"#,
            r#"{"name":"n","raw":1.}"#,
            r#"{"name":"n","raw":+1}"#,
            r#"{"name":"n","raw":[1 2]}"#,
            r#"{"name":"n","raw":{"a" 1}}"#,
            r#"{"name":"n","raw":[1}}"#,
            "{\"name\":\"n\",\"raw\":\"0123456\n89\"}",
            "{\"name\":\"n\",\"raw\":\"\u{0}\"}",
            "",
            "{",
            "\"",
        ] {
            assert_eq!(fast(text), None, "{text}");
        }
    }

    /// Seeds with bytes changed, taken out, doubled and moved: the one pass takes nothing that the slow way refuses, and
    /// takes it for the same.
    #[test]
    fn one_pass_and_the_slow_way_agree() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = |n: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % n as u64) as usize
        };
        let bytes = b"{}[]\",:\\ \n\0azu018-+.eE\x7f\xc3\xa9";
        let (mut taken, mut refused, mut given_up) = (0, 0, 0);
        for _ in 0..300_000 {
            let mut text = SEEDS[draw(SEEDS.len())].as_bytes().to_vec();
            for _ in 0..=draw(3) {
                let (at, to) = (draw(text.len()), draw(text.len()));
                match draw(4) {
                    0 => text[at] = bytes[draw(bytes.len())],
                    1 => drop(text.remove(at)),
                    2 => text.insert(at, bytes[draw(bytes.len())]),
                    _ => text.insert(to, text[at]),
                }
            }
            let Ok(text) = std::str::from_utf8(&text) else { continue };
            match (fast(text), slow(text)) {
                (Some(one), Some(other)) => {
                    assert_eq!(one, other, "{text}");
                    taken += 1;
                }
                (Some(_), None) => panic!("only the one pass takes {text}"),
                (None, Some(_)) => given_up += 1,
                (None, None) => refused += 1,
            }
        }
        assert!(taken > 30_000 && refused > 100_000, "{taken} {refused}");
        assert!(given_up * 20 < taken, "{given_up} of {taken} are read twice");
    }

    #[test]
    fn depth_is_bounded_in_values_and_around_them() {
        use kimberlite_store::limits::JSON_DEPTH_MAX;
        let nested =
            |n: usize| format!("{{\"name\":\"n\",\"raw\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        assert!(fast(&nested(JSON_DEPTH_MAX)).is_some());
        assert_eq!(fast(&nested(JSON_DEPTH_MAX + 1)), None);
        let deep = "[".repeat(1 << 20);
        assert_eq!(fast(&deep), None);
        assert!(read::<serde_json::Value>(&deep).is_none());
        assert!(read::<serde::de::IgnoredAny>(&deep).is_none());
    }
}
