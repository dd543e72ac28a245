//! Signed notes: a text, an empty line, and lines of signatures (C2SP signed-note).

use std::fmt;

use super::{VerifierKey, from_base64, key::is_name, to_base64};

/// Longest note that is read, in bytes: room for all its signatures, also of post-quantum keys.
pub const NOTE_BYTES_MAX: usize = 512 << 10;
/// Most signatures on a note.
pub const SIGNATURES_MAX: usize = 64;
const DASH: &str = "\u{2014} ";

/// Why a note is not read, or not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Over [`NOTE_BYTES_MAX`] or [`SIGNATURES_MAX`].
    #[error(
        "the note is longer than {NOTE_BYTES_MAX} bytes or has over {SIGNATURES_MAX} signatures"
    )]
    TooLong,
    /// Not UTF-8, or control characters.
    #[error("the note is not UTF-8 without control characters")]
    NotText,
    /// No text that an empty line ends, or nothing behind it.
    #[error("the note is no text with an empty line and signatures behind it")]
    Form,
    /// A line behind the text is no signature.
    #[error("line {0} behind the note's text is no signature")]
    Line(usize),
    /// A known key's signature does not hold.
    #[error("the signature of {0} does not hold")]
    Wrong(String),
    /// No known key signed.
    #[error("no signature is of a known key")]
    Unknown,
}

/// A signature on a note: an em dash, the key's name, base64 of the key's id and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    pub(super) name: String,
    pub(super) id: u32,
    pub(super) bytes: Vec<u8>,
}

impl NoteSignature {
    /// Reads one line, without its line feed.
    pub fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
        let decoded = from_base64(encoded)?;
        let (id, bytes) = decoded.split_first_chunk::<4>()?;
        (is_name(name) && !bytes.is_empty()).then(|| Self {
            name: name.to_owned(),
            id: u32::from_be_bytes(*id),
            bytes: bytes.to_vec(),
        })
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key's id.
    pub fn id(&self) -> u32 {
        self.id
    }
}

/// The line, with its line feed.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id.to_be_bytes(), self.bytes.as_slice()].concat();
        writeln!(f, "{DASH}{} {}", self.name, to_base64(&bytes))
    }
}

/// A known key's signature that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// The key.
    pub key: &'a VerifierKey,
    /// When a cosigner saw the checkpoint, in seconds since 1970; `None` for a log's own signature.
    pub time_s: Option<u64>,
}

/// A text and its signatures. Reading one says nothing about whether they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// A text that ends in a line feed, with its first signature.
    ///
    /// # Panics
    /// For another text: it would be read otherwise than it was signed.
    pub fn new(text: String, signature: NoteSignature) -> Self {
        let plain = text.bytes().all(|b| b >= b' ' || b == b'\n');
        assert!(text.ends_with('\n') && plain, "a note's text is lines without control characters");
        Self { text, signatures: vec![signature] }
    }

    /// Reads a note, to the byte.
    ///
    /// # Errors
    /// [`NoteError::TooLong`], [`NoteError::NotText`], [`NoteError::Form`], [`NoteError::Line`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong);
        }
        if bytes.iter().any(|b| *b < b' ' && *b != b'\n') {
            return Err(NoteError::NotText);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        let end = whole.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, lines) = (&whole[..=end], &whole[end + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form)?;
        let mut signatures = Vec::new();
        for (at, line) in lines.split('\n').enumerate() {
            if at == SIGNATURES_MAX {
                return Err(NoteError::TooLong);
            }
            signatures.push(NoteSignature::parse(line).ok_or(NoteError::Line(at + 1))?);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// What is signed: lines, the last of which ends too.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// In the note's order.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Adds a signature, in place of an earlier one of the same key. One too many is left out.
    pub fn add(&mut self, signature: NoteSignature) {
        let same = |s: &&mut NoteSignature| s.id == signature.id && s.name == signature.name;
        if let Some(earlier) = self.signatures.iter_mut().find(same) {
            *earlier = signature;
        } else if self.signatures.len() < SIGNATURES_MAX {
            self.signatures.push(signature);
        }
    }

    /// Checks every signature of a known key, and says which there are. Those of other keys are as good as absent.
    ///
    /// # Errors
    /// [`NoteError::Wrong`] when one does not hold, whatever the others do; [`NoteError::Unknown`] when there is none.
    pub fn verify<'a>(
        &self,
        known: impl IntoIterator<Item = &'a VerifierKey>,
    ) -> Result<Vec<Signed<'a>>, NoteError> {
        let mut signed: Vec<Signed<'a>> = Vec::new();
        for key in known {
            for signature in self.signatures.iter().filter(|s| key.is_of(s)) {
                let Some(holds) = key.holds(&self.text, signature) else {
                    return Err(NoteError::Wrong(key.name().to_owned()));
                };
                if signed.iter().all(|s| s.key != key) {
                    signed.push(holds);
                }
            }
        }
        if signed.is_empty() { Err(NoteError::Unknown) } else { Ok(signed) }
    }
}

/// The note, as it is read.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|s| s.fmt(f))
    }
}
