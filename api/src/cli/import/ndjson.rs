//! NDJSON in the form of `POST /v1/events`: lines are sent on byte for byte, with an id where they have none.

use std::io::{BufRead, BufReader, Read};

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use uuid::Uuid;

use super::{Line, Place, RowError, RowReason, ids::Ids};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a file, in order; nothing comes after an error. Blank lines hold no event.
pub(super) fn lines<R: Read>(input: R, ids: &Ids) -> Lines<R> {
    Lines { input: BufReader::with_capacity(1 << 18, input), ids: *ids, line: 0, failed: false }
}

/// The lines of an NDJSON file. A row's number is that of its line.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    ids: Ids,
    line: u64,
    failed: bool,
}

impl<R: Read> Iterator for Lines<R> {
    type Item = Result<Line, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let mut bytes = Vec::new();
            self.line += 1;
            let place = Place { row: self.line, line: self.line };
            let read = self.input.read_until(b'\n', &mut bytes).map_err(RowReason::Io);
            let mut text = bytes.as_slice();
            if self.line == 1 {
                text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
            }
            let line = match read {
                Ok(0) => return None,
                Ok(_) if text.trim_ascii().is_empty() => continue,
                Ok(_) => line(place, text.trim_ascii(), self.ids.of_row(self.line)),
                Err(reason) => Err(reason),
            };
            self.failed = line.is_err();
            return Some(line.map_err(|reason| RowError { place, column: None, reason }));
        }
        None
    }
}

#[derive(Deserialize)]
struct Event {
    stream: String,
    #[serde(default)]
    id: Id,
}

/// What a line says about its id.
#[derive(Default)]
enum Id {
    #[default]
    Missing,
    Null,
    Given,
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = Option::<IgnoredAny>::deserialize(deserializer)?;
        Ok(if id.is_some() { Self::Given } else { Self::Null })
    }
}

fn line(place: Place, text: &[u8], id: Uuid) -> Result<Line, RowReason> {
    // An array of the right values would be taken for the object.
    if text.first() != Some(&b'{') {
        return Err(RowReason::NoObject);
    }
    let event: Event = serde_json::from_slice(text)?;
    let json = match event.id {
        Id::Given => text.to_vec(),
        Id::Null => return Err(RowReason::NullId),
        // The text is an object with at least a stream in it, so a member and a comma may follow its brace.
        Id::Missing => [b"{\"id\":\"", id.to_string().as_bytes(), b"\",", &text[1..]].concat(),
    };
    Ok(Line { place, stream: event.stream, json })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str) -> Vec<Result<String, String>> {
        lines(file.as_bytes(), &Ids::of(file.as_bytes()).unwrap())
            .map(|row| match row {
                Ok(line) => Ok(String::from_utf8(line.json).unwrap()),
                Err(error) => Err(error.to_string()),
            })
            .collect()
    }

    #[test]
    fn lines_keep_their_bytes_and_get_an_id_where_they_have_none() {
        let file = "\u{feff} { \"stream\":\"a\", \"data\":[1e400,  \"\\u00e9\"]}\r\n\n\
            {\"id\":\"x\",\"stream\":\"b\",\"type\":\"t\"}";
        let id = Ids::of(file.as_bytes()).unwrap().of_row(1);
        assert_eq!(
            read(file),
            [
                Ok(format!(
                    "{{\"id\":\"{id}\", \"stream\":\"a\", \"data\":[1e400,  \"\\u00e9\"]}}"
                )),
                Ok("{\"id\":\"x\",\"stream\":\"b\",\"type\":\"t\"}".to_owned()),
            ]
        );
    }

    #[test]
    fn bad_line_says_where_and_why_and_ends_the_file() {
        let check = |line: &str, expected: &str| {
            let lines = read(&format!("{{\"stream\":\"a\"}}\n\n{line}\n{{\"stream\":\"a\"}}\n"));
            assert_eq!(lines.len(), 2, "{line}");
            let error = lines[1].as_ref().unwrap_err();
            assert!(error.starts_with("row 3 (line 3): ") && error.contains(expected), "{error}");
        };
        check("{\"stream\":\"a\"", "not an event: EOF");
        check("{\"type\":\"t\"}", "missing field `stream`");
        check("[\"a\"]", "not a JSON object");
        check("{\"stream\":\"a\",\"id\":null}", "the id is null");
        check("{\"stream\":\"a\",\"id\":\"x\",\"id\":\"y\"}", "duplicate field `id`");
    }
}
