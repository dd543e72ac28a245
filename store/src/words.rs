//! The words of the log as types: positions, versions, names, times, hashes. Invalid values cannot exist.
//!
//! This module does not know HTTP or files.

use std::{fmt, sync::Arc};

use crate::limits::NAME_BYTES_MAX;

/// Largest integer that JSON readers handle exactly: 2^53 - 1.
const INTEGER_MAX: u64 = (1 << 53) - 1;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The first one.
            pub const ZERO: Self = Self(0);

            /// `None` at or above 2^53, which JSON numbers cannot hold exactly.
            pub const fn new(n: u64) -> Option<Self> {
                if n <= INTEGER_MAX { Some(Self(n)) } else { None }
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one `n` after this one.
            ///
            /// # Panics
            /// Beyond 2^53: a log cannot grow that far.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                let sum = self.0 + n;
                assert!(sum <= INTEGER_MAX, "a log cannot hold 2^53 records");
                Self(sum)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// A record's index in its tenant's log, from 0, without gaps.
    Position
);
counter!(
    /// An event's index in its stream, from 0.
    Version
);

/// A random 128-bit reference that stands for a name inside leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference(pub [u8; 16]);

impl Reference {
    /// A new random reference.
    pub fn random() -> Self {
        Self(crate::chance::random())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({})", Hex(&self.0))
    }
}

/// A SHA-256 hash: of a leaf, a payload, a log's head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// Shows bytes as lower-case hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hash in one piece: each receipt shows one.
        let mut digits = Vec::with_capacity(64);
        self.0.chunks(32).try_for_each(|bytes| {
            digits.clear();
            push_hex(&mut digits, bytes);
            f.write_str(std::str::from_utf8(&digits).expect("digits are ASCII"))
        })
    }
}

/// Appends `bytes` as lower-case hexadecimal digits.
pub(crate) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for b in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]);
    }
}

/// Microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since 1970-01-01 UTC; `None` outside the years -9999 to 9999.
    pub fn from_micros(us: i64) -> Option<Self> {
        jiff::Timestamp::from_microsecond(us).ok().map(|_| Self(us))
    }

    /// The wall clock.
    pub fn now() -> Self {
        Self(crate::chance::now_us())
    }

    /// Microseconds since 1970-01-01 UTC.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// From RFC 3339 with any offset, years 0000 to 9999, also in UTC; finer than a microsecond is cut off.
    pub fn parse(text: &str) -> Option<Self> {
        // jiff reads more than RFC 3339: signed years, times without seconds, zones in brackets.
        if !is_rfc3339(text.as_bytes()) {
            return None;
        }
        let time = text.parse::<jiff::Timestamp>().ok()?;
        // An offset may lead out of year 0000, which has no way to be written; 9999 is as far as jiff goes.
        (time >= YEAR_ZERO).then(|| Self(time.as_microsecond()))
    }
}

/// 0000-01-01T00:00:00Z.
const YEAR_ZERO: jiff::Timestamp = jiff::Timestamp::constant(-62_167_219_200, 0);

/// Whether a text has the form of RFC 3339's `date-time`; its numbers may still be no date.
fn is_rfc3339(text: &[u8]) -> bool {
    let Some((front, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let rest = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &fraction[digits..]
        }
        None => rest,
    };
    has_form(front, b"0000-00-00T00:00:00") && is_offset(rest)
}

fn is_offset(text: &[u8]) -> bool {
    let numeric = has_form(text, b"+00:00") || has_form(text, b"-00:00");
    has_form(text, b"Z") || (numeric && text[1..3] < b"24"[..] && text[4] < b'6')
}

/// Whether a text has digits where `form` has zeros, and else the same characters, letters in either case.
fn has_form(text: &[u8], form: &[u8]) -> bool {
    let same = |(t, f): (&u8, &u8)| {
        if *f == b'0' { t.is_ascii_digit() } else { t.eq_ignore_ascii_case(f) }
    };
    text.len() == form.len() && text.iter().zip(form).all(same)
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = jiff::Timestamp::from_microsecond(self.0).expect("checked when made");
        write!(f, "{t:.6}")
    }
}

/// Why a name is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Names have at least one byte.
    #[error("must not be empty")]
    Empty,
    /// Names have at most [`NAME_BYTES_MAX`] bytes.
    #[error("is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
    /// A byte that this kind of name does not allow.
    #[error("holds a character that is not allowed here")]
    Character,
    /// `.` and `..` mean folders in a URL's path, so a stream of that name could not be addressed.
    #[error("is '.' or '..', which no URL can address")]
    Dots,
    /// Names that start with `$` belong to the system.
    #[error("starts with '$', which is reserved")]
    Reserved,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] names the rule that `text` breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                if text.is_empty() {
                    return Err(NameError::Empty);
                }
                if text.len() > NAME_BYTES_MAX {
                    return Err(NameError::TooLong);
                }
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

fn printable(text: &str) -> Result<(), NameError> {
    if text.chars().any(char::is_control) { Err(NameError::Character) } else { Ok(()) }
}

fn stream_characters(text: &str) -> Result<(), NameError> {
    if text.starts_with('$') {
        return Err(NameError::Reserved);
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._~@:/-".contains(&b);
    match text {
        "." | ".." => Err(NameError::Dots),
        _ if text.bytes().all(fits) => Ok(()),
        _ => Err(NameError::Character),
    }
}

fn tenant_characters(text: &str) -> Result<(), NameError> {
    if text.len() > 63 {
        return Err(NameError::TooLong);
    }
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.bytes().all(fits) { Ok(()) } else { Err(NameError::Character) }
}

name!(
    /// A stream's name: 1 to 256 bytes of `[A-Za-z0-9._~@:/-]`, but not `.` or `..`.
    StreamName,
    stream_characters
);

impl StreamName {
    /// Takes a name that is in the log: names that an earlier version allowed stay names.
    pub(crate) fn stored(text: &str) -> Result<Self, NameError> {
        match Self::new(text) {
            Err(NameError::Dots) => Ok(Self(Arc::from(text))),
            checked => checked,
        }
    }

    /// Checks what names of streams may start with; `.` and `..` may stand there.
    ///
    /// # Errors
    /// [`NameError`] names the rule that `text` breaks.
    pub fn check_prefix(text: &str) -> Result<(), NameError> {
        match Self::new(text) {
            Ok(_) | Err(NameError::Dots) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

name!(
    /// An event's type: 1 to 256 bytes of UTF-8 without control characters.
    EventType,
    printable
);
name!(
    /// A tag: 1 to 256 bytes of UTF-8 without control characters.
    Tag,
    printable
);
name!(
    /// Who wrote a record: 1 to 256 bytes of UTF-8 without control characters.
    Actor,
    printable
);
name!(
    /// A tenant's name and id: 1 to 63 bytes of `[a-z0-9-]`.
    TenantName,
    tenant_characters
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_they_must() {
        assert_eq!(StreamName::new(""), Err(NameError::Empty));
        assert_eq!(StreamName::new("$system"), Err(NameError::Reserved));
        assert_eq!(StreamName::new("a b"), Err(NameError::Character));
        assert_eq!(StreamName::new(&"a".repeat(257)), Err(NameError::TooLong));
        for dots in [".", ".."] {
            assert_eq!(StreamName::new(dots), Err(NameError::Dots));
            assert_eq!(StreamName::check_prefix(dots), Ok(()));
        }
        assert!(StreamName::stored("..").is_ok() && StreamName::stored("$a").is_err());
        assert!(StreamName::new("...").is_ok() && StreamName::new("a/..").is_ok());
        assert_eq!(StreamName::check_prefix("a b"), Err(NameError::Character));
        assert!(StreamName::new("github/octo-org:x@y~z._1").is_ok());
        assert_eq!(EventType::new("a\nb"), Err(NameError::Character));
        assert!(EventType::new("Größe").is_ok());
        assert_eq!(TenantName::new("Acme"), Err(NameError::Character));
    }

    #[test]
    fn times_show_six_decimals_in_utc() {
        let t = Timestamp::parse("2026-11-22T10:59:58.1234567+01:00").unwrap();
        assert_eq!(t.to_string(), "2026-11-22T09:59:58.123456Z");
        assert!(Timestamp::parse("2026-11-22").is_none());
    }

    #[test]
    fn times_are_rfc_3339_and_nothing_else() {
        let check = |text: &str, shown: Option<&str>| {
            let time = Timestamp::parse(text).map(|t| t.to_string());
            assert_eq!(time.as_deref(), shown, "{text}");
        };
        check("2026-06-30T23:59:00Z", Some("2026-06-30T23:59:00.000000Z"));
        check("2026-06-30t23:59:00.5z", Some("2026-06-30T23:59:00.500000Z"));
        check("2026-06-30T23:59:00.123456789-02:30", Some("2026-07-01T02:29:00.123456Z"));
        check("2026-06-30T23:59:00-00:00", Some("2026-06-30T23:59:00.000000Z"));
        check("2024-02-29T00:00:00+23:59", Some("2024-02-28T00:01:00.000000Z"));
        // A leap second is the one before it: a day has no room for it.
        check("2016-12-31T23:59:60Z", Some("2016-12-31T23:59:59.000000Z"));
        check("0000-01-01T00:00:00Z", Some("0000-01-01T00:00:00.000000Z"));
        check("9999-12-30T22:00:00Z", Some("9999-12-30T22:00:00.000000Z"));
        for refused in [
            "",
            "2026-06-30",
            "2026-06-30T23:59Z",
            "2026-06-30T23Z",
            "2026-06-30T23:59:00",
            "2026-06-30 23:59:00Z",
            "2026-06-30T23:59:00,5Z",
            "2026-06-30T23:59:00.Z",
            "20260630T235900Z",
            "2026-W27-2T23:59:00Z",
            "2026-06-30T23:59:00+02",
            "2026-06-30T23:59:00+0200",
            "2026-06-30T23:59:00+02:00:30",
            "2026-06-30T23:59:00+24:00",
            "2026-06-30T23:59:00+02:60",
            "2026-06-30T23:59:00+02:00[Europe/Berlin]",
            "2026-06-30T23:59:00Z[u-ca=hebrew]",
            " 2026-06-30T23:59:00Z",
            "2026-06-30T23:59:00Z ",
            "2026-02-29T00:00:00Z",
            "2026-06-30T24:00:00Z",
            "2026-06-30T23:60:00Z",
            "-000001-01-01T00:00:00Z",
            "+002026-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-23:59",
            "2026-06-30T23:59:00\u{2212}02:00",
            "\u{ff12}026-06-30T23:59:00Z",
        ] {
            check(refused, None);
        }
    }

    #[test]
    fn counters_stay_below_two_to_the_53() {
        assert!(Position::new(1 << 53).is_none());
        assert_eq!(Position::new((1 << 53) - 1).unwrap().get(), (1 << 53) - 1);
    }
}
