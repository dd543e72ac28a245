//! One pass over JSON text: the grammar of RFC 8259, and what we refuse beyond it.

use std::{borrow::Cow, collections::HashSet};

use kimberlite_store::limits::JSON_DEPTH_MAX;

use super::Fault;

/// Objects up to so many keys compare each new key with those before it; larger ones hash them.
const SMALL_OBJECT_KEYS: usize = 16;

/// An array or object that is open.
struct Open<'a> {
    /// `None` in an array.
    keys: Option<Keys<'a>>,
}

enum Keys<'a> {
    /// They stand from here on in the shared list.
    Few(usize),
    Many(HashSet<Cow<'a, str>>),
}

/// A place in a text.
pub(super) struct Scan<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    /// Of the value that is under way; kept for its room.
    open: Vec<Open<'a>>,
    few: Vec<Cow<'a, str>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, open: Vec::new(), few: Vec::new() }
    }

    /// The next byte; 0, which no JSON text holds outside of its errors, at the end.
    pub(super) fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// The next byte behind white space.
    pub(super) fn token(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
        self.peek()
    }

    pub(super) fn is_at_end(&mut self) -> bool {
        self.token();
        self.at == self.text.len()
    }

    fn wrong(&self) -> Fault {
        Fault::Grammar(self.at)
    }

    /// Passes a value of any depth, and says what its text is. After a fault the scan is of no further use.
    pub(super) fn value(&mut self) -> Result<&'a str, Fault> {
        self.token();
        let from = self.at;
        loop {
            match self.token() {
                b'{' | b'[' => {
                    if self.enter()? {
                        continue;
                    }
                }
                b'"' => drop(self.string()?),
                b'-' | b'0'..=b'9' => self.number()?,
                _ => self.literal()?,
            }
            if !self.goes_on()? {
                return Ok(&self.text[from..self.at]);
            }
        }
    }

    /// Opens an array or object; whether a value follows in it.
    fn enter(&mut self) -> Result<bool, Fault> {
        if self.open.len() == JSON_DEPTH_MAX {
            return Err(Fault::TooDeep);
        }
        let is_object = self.peek() == b'{';
        self.at += 1;
        if self.token() == if is_object { b'}' } else { b']' } {
            self.at += 1;
            return Ok(false);
        }
        self.open.push(Open { keys: is_object.then_some(Keys::Few(self.few.len())) });
        if is_object {
            self.key()?;
        }
        Ok(true)
    }

    /// Behind a value: closes what ends here; whether another value follows.
    fn goes_on(&mut self) -> Result<bool, Fault> {
        loop {
            let Some(top) = self.open.last() else { return Ok(false) };
            let is_object = top.keys.is_some();
            match (self.token(), is_object) {
                (b',', _) => {
                    self.at += 1;
                    if is_object {
                        self.key()?;
                    }
                    return Ok(true);
                }
                (b'}', true) | (b']', false) => {
                    self.at += 1;
                    if let Some(Open { keys: Some(Keys::Few(from)) }) = self.open.pop() {
                        self.few.truncate(from);
                    }
                }
                _ => return Err(self.wrong()),
            }
        }
    }

    fn key(&mut self) -> Result<(), Fault> {
        if self.token() != b'"' {
            return Err(self.wrong());
        }
        let (quoted, escaped) = self.string()?;
        let key = if escaped {
            Cow::Owned(serde_json::from_str(quoted).map_err(|_| self.wrong())?)
        } else {
            Cow::Borrowed(&quoted[1..quoted.len() - 1])
        };
        if let Some(Open { keys: Some(keys) }) = self.open.last_mut() {
            add_key(keys, &mut self.few, key)?;
        }
        self.colon()
    }

    pub(super) fn colon(&mut self) -> Result<(), Fault> {
        if self.token() != b':' {
            return Err(self.wrong());
        }
        self.at += 1;
        Ok(())
    }

    /// Passes a string: its text with the quotes, and whether it holds escapes.
    pub(super) fn string(&mut self) -> Result<(&'a str, bool), Fault> {
        let bytes = self.text.as_bytes();
        let (from, mut escaped) = (self.at, false);
        self.at += 1;
        loop {
            self.at = plain_end(bytes, self.at);
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok((&self.text[from..self.at], escaped));
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.wrong()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match (unit(bytes, self.at), unit(bytes, self.at + 6)) {
                (None, _) => Err(self.wrong()),
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => {
                    self.at += 12;
                    Ok(())
                }
                (Some(0xD800..=0xDFFF), _) => Err(Fault::LoneSurrogate(self.at)),
                (Some(_), _) => {
                    self.at += 6;
                    Ok(())
                }
            },
            _ => Err(self.wrong()),
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// One or more.
    fn digits(&mut self) -> Result<(), Fault> {
        if !self.peek().is_ascii_digit() {
            return Err(self.wrong());
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<(), Fault> {
        let rest = &self.text.as_bytes()[self.at..];
        let words: [&[u8]; 3] = [b"true", b"false", b"null"];
        let word = words.into_iter().find(|word| rest.starts_with(word));
        self.at += word.ok_or_else(|| self.wrong())?.len();
        Ok(())
    }
}

fn add_key<'a>(
    keys: &mut Keys<'a>,
    few: &mut Vec<Cow<'a, str>>,
    key: Cow<'a, str>,
) -> Result<(), Fault> {
    match keys {
        Keys::Few(from) if few[*from..].contains(&key) => {
            Err(Fault::DuplicateKey(key.into_owned()))
        }
        Keys::Few(from) if few.len() - *from == SMALL_OBJECT_KEYS => {
            let mut many: HashSet<_> = few.drain(*from..).collect();
            many.insert(key);
            *keys = Keys::Many(many);
            Ok(())
        }
        Keys::Few(_) => {
            few.push(key);
            Ok(())
        }
        Keys::Many(many) => match many.replace(key) {
            Some(twice) => Err(Fault::DuplicateKey(twice.into_owned())),
            None => Ok(()),
        },
    }
}

/// Where a string's plain characters end: at a quote, a backslash, a control character, or the end of the text.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const EACH: u64 = u64::MAX / 255;
    const HIGH: u64 = EACH << 7;
    // A byte's high bit is set where the byte is 0; above the first such byte it may be wrong.
    let zeros = |word: u64| word.wrapping_sub(EACH) & !word & HIGH;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(eight.try_into().expect("8 bytes"));
        let control = word.wrapping_sub(EACH * 0x20) & !word & HIGH;
        let found = control | zeros(word ^ (EACH * 0x22)) | zeros(word ^ (EACH * 0x5C));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = bytes[at.min(bytes.len())..].iter();
    at + rest.take_while(|b| !matches!(b, 0..0x20 | b'"' | b'\\')).count()
}

/// The UTF-16 unit of the escape `\uXXXX` at `at`, where there is one.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let hex = digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| hex)?;
    u16::from_str_radix(text, 16).ok()
}
