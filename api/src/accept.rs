//! Which format an answer has, by `Accept`.

use axum::http::{HeaderMap, header};

use crate::problem::{Code, Problem};

/// A format that events can be read in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`: a page.
    Json,
    /// `application/x-ndjson`: the whole range.
    Ndjson,
    /// `text/event-stream`: the whole range, then live.
    Sse,
    /// `application/cloudevents-batch+json`: a page.
    CloudEvents,
}

const FORMATS: [(Format, &str); 4] = [
    (Format::Json, "application/json"),
    (Format::Ndjson, "application/x-ndjson"),
    (Format::Sse, "text/event-stream"),
    (Format::CloudEvents, "application/cloudevents-batch+json"),
];

impl Format {
    /// The best that the caller accepts; JSON where it does not say.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        choose(headers, &FORMATS)
    }
}

/// The best of these formats that the caller accepts; the first where it does not say.
pub(crate) fn choose<T: Copy>(
    headers: &HeaderMap,
    formats: &[(T, &'static str)],
) -> Result<T, Problem> {
    let sent = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let ranges: Vec<(&str, f32)> = sent
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .map(|range| {
            let (kind, parameters) = range.split_once(';').unwrap_or((range, ""));
            (kind.trim(), quality(parameters))
        })
        .collect();
    let mut best: Option<(T, f32, usize)> = None;
    for (format, name) in formats {
        let Some(place) = closest(&ranges, name) else { continue };
        let weight = ranges[place].1;
        let better = best.is_none_or(|(_, other, there)| {
            weight > other || (weight.total_cmp(&other).is_eq() && place < there)
        });
        if weight > 0.0 && better {
            best = Some((*format, weight, place));
        }
    }
    match best {
        Some((format, ..)) => Ok(format),
        None if ranges.is_empty() => Ok(formats[0].0),
        None => {
            let names: Vec<&str> = formats.iter().map(|(_, name)| *name).collect();
            let detail = format!("Accept one of {}.", names.join(", "));
            Err(Problem::new(Code::NotAcceptable, detail))
        }
    }
}

/// Which range speaks for a media type: the most specific that matches it (RFC 9110, section
/// 12.5.1), the first of equals.
fn closest(ranges: &[(&str, f32)], name: &str) -> Option<usize> {
    let whole_type = name.split_once('/').map(|(kind, _)| format!("{kind}/*"));
    [Some(name), whole_type.as_deref(), Some("*/*")]
        .into_iter()
        .flatten()
        .find_map(|form| ranges.iter().position(|(range, _)| range.eq_ignore_ascii_case(form)))
}

/// `q`; 1 where it is not given, 0 where it is no number.
fn quality(parameters: &str) -> f32 {
    let given = parameters
        .split(';')
        .map(str::trim)
        .find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q=")));
    given.map_or(1.0, |q| q.parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_known_format_wins_and_the_first_of_equals() {
        let of = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            Format::of(&headers).ok()
        };
        assert_eq!(Format::of(&HeaderMap::new()).ok(), Some(Format::Json));
        assert_eq!(of("*/*"), Some(Format::Json));
        assert_eq!(of("text/event-stream"), Some(Format::Sse));
        assert_eq!(of("text/html, application/x-ndjson;q=0.5, */*;q=0.1"), Some(Format::Ndjson));
        assert_eq!(of("application/json;q=0.2, text/event-stream"), Some(Format::Sse));
        assert_eq!(of("text/event-stream, application/json"), Some(Format::Sse));
        assert_eq!(of("text/html"), None);
        assert_eq!(of("application/json;q=0"), None);
        assert_eq!(of("application/json;q=0, */*"), Some(Format::Ndjson));
        assert_eq!(of("*/*, application/json;q=0.1"), Some(Format::Ndjson));
        assert_eq!(of("*/*;q=0.1, application/*;q=0.2"), Some(Format::Json));
        assert_eq!(of("application/*;q=0, */*"), Some(Format::Sse));
        assert_eq!(of("*/*, text/event-stream"), Some(Format::Json));
        assert_eq!(of("Text/Event-Stream;Q=0.5, */*;q=0.1"), Some(Format::Sse));
        assert_eq!(of("*/*;q=0"), None);
    }
}
