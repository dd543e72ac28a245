//! SQL as it is being typed: its pieces, and whether it is whole.

use std::ops::Range;

/// What a piece of SQL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a name.
    Word,
    Number,
    /// `'…'`, also without its end.
    Text,
    /// `"…"`, also without its end.
    Name,
    Comment,
    /// `;`
    End,
    /// Operators, brackets and white space.
    Other,
}

/// A piece, as bytes of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
    /// It has no end yet.
    pub(super) open: bool,
}

/// Takes SQL apart. The pieces are all of the text.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let piece = next(text, at);
        at = piece.range.end;
        pieces.push(piece);
    }
    pieces
}

fn next(text: &str, from: usize) -> Piece {
    let rest = &text[from..];
    let piece = |kind, len: usize| Piece { kind, range: from..from + len, open: false };
    let while_in = |fits: fn(char) -> bool| rest.find(|c| !fits(c)).unwrap_or(rest.len());
    let first = rest.chars().next().expect("there is some text left");
    match first {
        '\'' => quoted(rest, from, Kind::Text),
        '"' => quoted(rest, from, Kind::Name),
        ';' => piece(Kind::End, 1),
        '-' if rest.starts_with("--") => {
            piece(Kind::Comment, rest.find('\n').unwrap_or(rest.len()))
        }
        '/' if rest.starts_with("/*") => comment(rest, from),
        c if c.is_alphabetic() || c == '_' => {
            piece(Kind::Word, while_in(|c| c.is_alphanumeric() || matches!(c, '_' | '$')))
        }
        c if c.is_ascii_digit() => {
            piece(Kind::Number, while_in(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_')))
        }
        c => piece(Kind::Other, c.len_utf8()),
    }
}

/// A quote inside is written twice.
fn quoted(rest: &str, from: usize, kind: Kind) -> Piece {
    let quote = &rest[..1];
    let mut at = 1;
    while let Some(found) = rest[at..].find(quote) {
        at += found + 1;
        if !rest[at..].starts_with(quote) {
            return Piece { kind, range: from..from + at, open: false };
        }
        at += 1;
    }
    Piece { kind, range: from..from + rest.len(), open: true }
}

/// Comments stand inside each other.
fn comment(rest: &str, from: usize) -> Piece {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        let (open, close) = (rest[at..].find("/*"), rest[at..].find("*/"));
        match (open, close) {
            (Some(open), Some(close)) if open < close => {
                at += open + 2;
                depth += 1;
            }
            (_, Some(close)) => {
                at += close + 2;
                depth -= 1;
            }
            (_, None) => {
                return Piece { kind: Kind::Comment, range: from..from + rest.len(), open: true };
            }
        }
    }
    Piece { kind: Kind::Comment, range: from..from + at, open: false }
}

/// Whether there is nothing more to come: a command of one line, nothing at all, or statements whose last one has its `;`.
pub(super) fn is_whole(text: &str) -> bool {
    if text.trim_start().starts_with('.') || text.trim().is_empty() {
        return true;
    }
    let mut said = pieces(text).into_iter().filter(|p| {
        p.open || !(p.kind == Kind::Comment || text[p.range.clone()].trim().is_empty())
    });
    said.next_back().is_some_and(|last| last.kind == Kind::End)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_whole_with_its_semicolon() {
        for (text, whole) in [
            ("SELECT 1;", true),
            ("SELECT 1; -- that is all", true),
            ("SELECT 1; /* a /* b */ c */\n", true),
            ("SELECT 1", false),
            ("SELECT ';", false),
            ("SELECT 'it''s;", false),
            ("SELECT 'it''s';", true),
            ("SELECT \";", false),
            ("SELECT 1 -- ;", false),
            ("SELECT 1 /* ;", false),
            ("SELECT 1; SELECT", false),
            (".tables", true),
            ("  ", true),
        ] {
            assert_eq!(is_whole(text), whole, "{text}");
        }
    }

    #[test]
    fn pieces_are_all_of_the_text() {
        for text in ["SELECT a.\"b\" || 'ä' -- ü\n, $1, 1.5e3 /* é", "ß'"] {
            let pieces = pieces(text);
            let joined: String = pieces.iter().map(|p| &text[p.range.clone()]).collect();
            assert_eq!(joined, text);
        }
    }
}
