//! Which events a caller asks for: the same filters everywhere.

use std::fmt::Write as _;

use kimberlite_store::{
    limits::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX},
    read::{After, Cursor, Direction, Filter, Selection, Source},
    words::{EventType, NameError, Position, StreamName, Tag},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    limits::PAGE_EVENTS,
    problem::{Code, Problem},
    query::{Query, invalid, whole_number},
};

/// What stays as it is in the values that we write into paths and queries.
const PLAIN: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'@');

/// Which events to read, and from where.
#[derive(Default, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "read by name from the query; this describes it")]
pub(crate) struct FilterParams {
    /// Start behind this: an event's cursor, a position, or `head`. A cursor that this log cannot
    /// have issued gives 409.
    #[param(example = "0")]
    after: Option<String>,
    /// Order of the answer; following goes forward only.
    #[param(inline)]
    direction: Option<DirectionParam>,
    /// Events in a page, 100 where it is left out; the most lines of an NDJSON answer, all where it
    /// is left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// Any of these types.
    #[param(rename = "type", max_items = 32)]
    types: Option<Vec<String>>,
    /// All of these tags.
    #[param(rename = "tag", max_items = 32)]
    tags: Option<Vec<String>>,
    /// Has no meaning in this version, and is refused with 422.
    subject: Option<String>,
    /// Committed at or after this time (RFC 3339).
    #[param(format = DateTime)]
    from_time: Option<String>,
    /// Occurred at or after this time (RFC 3339).
    #[param(format = DateTime)]
    occurred_from: Option<String>,
    /// Occurred before this time (RFC 3339).
    #[param(format = DateTime)]
    occurred_to: Option<String>,
}

#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum DirectionParam {
    Forward,
    Backward,
}

/// A selection as it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) selection: Selection,
    /// Whether the caller set `limit`.
    pub(crate) limited: bool,
}

impl Asked {
    /// For `/v1/events`.
    pub(crate) fn of_log(query: &mut Query<'_>) -> Result<Self, Problem> {
        let prefix = query.one("stream_prefix")?.filter(|p| !p.is_empty());
        let prefix = prefix.map(|p| {
            StreamName::check_prefix(&p)
                .map(|()| p.into_owned())
                .map_err(|e| wrong("stream_prefix", e))
        });
        let mut asked = Self::read(query, Source::Log)?;
        asked.selection.filter.stream_prefix = prefix.transpose()?;
        Ok(asked)
    }

    /// For `/v1/streams/{stream}/events`.
    pub(crate) fn of_stream(query: &mut Query<'_>, name: StreamName) -> Result<Self, Problem> {
        let from = query.version("from")?;
        let asked = Self::read(query, Source::Stream { name, from })?;
        if from.is_some() && asked.selection.after != After::Nothing {
            return Err(invalid("from", "cannot be used together with after"));
        }
        Ok(asked)
    }

    fn read(query: &mut Query<'_>, source: Source) -> Result<Self, Problem> {
        if !query.many("subject")?.is_empty() {
            let detail = "has no meaning yet: this version takes no events with subjects";
            return Err(Problem::parameter(Code::SubjectsUnavailable, "subject", detail));
        }
        let after = query.parsed("after", "is no cursor, no position and not head", parse_after)?;
        let direction =
            query.parsed("direction", "is neither forward nor backward", |text| match text {
                "forward" => Some(Direction::Forward),
                "backward" => Some(Direction::Backward),
                _ => None,
            })?;
        let limit = limit(query)?;
        let types = query.many("type")?;
        let types = types.iter().map(|t| EventType::new(t).map_err(|e| wrong("type", e)));
        let filter = Filter {
            types: types.collect::<Result<_, _>>()?,
            tags: query
                .many("tag")?
                .iter()
                .map(|t| Tag::new(t).map_err(|e| wrong("tag", e)))
                .collect::<Result<_, _>>()?,
            stream_prefix: None,
            from_time: query.time("from_time")?,
            occurred_from: query.time("occurred_from")?,
            occurred_to: query.time("occurred_to")?,
        };
        let selection = Selection {
            source,
            after: after.unwrap_or_default(),
            filter,
            direction: direction.unwrap_or_default(),
            limit: limit.unwrap_or(PAGE_EVENTS),
            bytes: PAGE_BYTES_MAX,
        };
        Ok(Self { selection, limited: limit.is_some() })
    }

    /// The path of the page behind `cursor`.
    pub(crate) fn next(&self, cursor: Cursor) -> String {
        let Selection { source, filter, direction, limit, .. } = &self.selection;
        let mut path = match source {
            Source::Log => "/v1/events".to_owned(),
            Source::Stream { name, .. } => format!("/v1/streams/{}/events", encode(name.as_str())),
        };
        let mut push = |name: &str, value: &str| {
            let separator = if path.contains('?') { '&' } else { '?' };
            write!(path, "{separator}{name}={}", encode(value)).expect("strings take all");
        };
        push("after", &cursor_text(cursor));
        if *direction == Direction::Backward {
            push("direction", "backward");
        }
        push("limit", &limit.to_string());
        for name in &filter.types {
            push("type", name.as_str());
        }
        for tag in &filter.tags {
            push("tag", tag.as_str());
        }
        if let Some(prefix) = &filter.stream_prefix {
            push("stream_prefix", prefix);
        }
        for (name, time) in [
            ("from_time", filter.from_time),
            ("occurred_from", filter.occurred_from),
            ("occurred_to", filter.occurred_to),
        ] {
            if let Some(time) = time {
                push(name, &time.to_string());
            }
        }
        path
    }
}

/// `limit`, 1 to 1000.
pub(crate) fn limit(query: &mut Query<'_>) -> Result<Option<usize>, Problem> {
    let parse =
        |text: &str| whole_number(text).filter(|n| (1..=PAGE_EVENTS_MAX as u64).contains(n));
    Ok(query.parsed("limit", "is not between 1 and 1000", parse)?.map(|n| n as usize))
}

/// A part of a path or a query.
pub(crate) fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, &PLAIN)
}

/// `<position>.<8 hex digits>`.
pub(crate) fn cursor_text(cursor: Cursor) -> String {
    format!("{}.{:08x}", cursor.position, u32::from_be_bytes(cursor.check))
}

/// Reads what [`cursor_text`] writes.
pub(crate) fn parse_cursor(text: &str) -> Option<Cursor> {
    let (position, check) = text.split_once('.')?;
    if position.is_empty()
        || check.len() != 8
        || !check.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let position = Position::new(whole_number(position)?)?;
    Some(Cursor { position, check: u32::from_str_radix(check, 16).ok()?.to_be_bytes() })
}

fn parse_after(text: &str) -> Option<After> {
    if text == "head" {
        return Some(After::Head);
    }
    let position = || whole_number(text).filter(|_| !text.is_empty()).and_then(Position::new);
    parse_cursor(text).map(After::Cursor).or_else(|| position().map(After::Position))
}

fn wrong(name: &str, error: NameError) -> Problem {
    invalid(name, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_what_they_write_and_nothing_else() {
        let cursor = Cursor { position: Position::new(1042).unwrap(), check: [0, 0xab, 1, 0xff] };
        assert_eq!(cursor_text(cursor), "1042.00ab01ff");
        assert_eq!(parse_cursor("1042.00ab01ff"), Some(cursor));
        for text in [
            "",
            ".",
            "1042",
            "1042.",
            ".00ab01ff",
            "1042.00AB01FF",
            "+1.00000000",
            "1.0000000g",
            "1.000000000",
        ] {
            assert_eq!(parse_cursor(text), None, "{text}");
        }
    }

    #[test]
    fn the_next_page_is_the_same_question_from_another_place() {
        let text = "type=a%20b&tag=x%3A1&tag=%26&limit=7&direction=backward&from_time=2026-01-01T00:00:00Z&stream_prefix=a/";
        let mut query = Query::parse(Some(text)).unwrap();
        let asked = Asked::of_log(&mut query).unwrap();
        query.finish().unwrap();
        let cursor = Cursor { position: Position::ZERO, check: [1; 4] };
        let next = asked.next(cursor);
        let mut query = Query::parse(next.strip_prefix("/v1/events?")).unwrap();
        let again = Asked::of_log(&mut query).unwrap();
        query.finish().unwrap();
        assert_eq!(again.selection.filter, asked.selection.filter);
        assert_eq!(again.selection.after, After::Cursor(cursor));
        assert_eq!((again.selection.direction, again.selection.limit), (Direction::Backward, 7));
    }
}
