//! Keys by name: what verifies a note, and what signs it (C2SP signed-note, tlog-cosignature).

use std::{fmt, str::FromStr};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::{NoteSignature, Signed, from_base64, to_base64};

/// Bytes of an Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;

/// What a key's signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Ed25519 over a note's text: a log's own key.
    Log = 0x01,
    /// Ed25519 over a time and a checkpoint's text: a witness's or another cosigner's.
    Cosigner = 0x04,
}

/// Why a text is no verifier key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `name+8 hex digits+base64`.
    #[error("a verifier key is `name+key id+base64`")]
    Form,
    /// The name is empty, or has a space, a plus or a control character.
    #[error("a key's name has no spaces, no plus and no control characters, and is not empty")]
    Name,
    /// The key's type is none that is read here.
    #[error("the key is neither Ed25519 (type 1) nor an Ed25519 cosigner (type 4)")]
    Kind,
    /// The bytes are no point of the curve.
    #[error("the key is no Ed25519 public key")]
    Key,
    /// The id is not that of this name and key.
    #[error("the key id is not that of this name and key")]
    Id,
}

/// Whether a text may name a key.
pub(super) fn is_name(name: &str) -> bool {
    let barred = |c: char| c.is_whitespace() || c == '+' || c < ' ';
    !name.is_empty() && !name.contains(barred)
}

fn id(name: &str, kind: KeyKind, public: &[u8; 32]) -> u32 {
    let mut hasher = Sha256::new();
    hasher.update(name);
    hasher.update([b'\n', kind as u8]);
    hasher.update(public);
    let hash: [u8; 32] = hasher.finalize().into();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// What a cosigner signs.
fn cosigned(text: &str, unix_s: u64) -> String {
    format!("cosignature/v1\ntime {unix_s}\n{text}")
}

/// A public key with its name. As text it is a *vkey*: `name+key id+base64(type ‖ key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, kind: KeyKind, key: VerifyingKey) -> Self {
        Self { name: name.to_owned(), id: id(name, kind, key.as_bytes()), kind, key }
    }

    /// A log's is its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First four bytes of SHA-256(name ‖ line feed ‖ type ‖ key).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What its signatures cover.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Whether a signature names this key.
    pub fn is_of(&self, signature: &NoteSignature) -> bool {
        self.id == signature.id && self.name == signature.name
    }

    /// What a signature of this key shows; `None` when it does not hold.
    pub(super) fn holds(&self, text: &str, signature: &NoteSignature) -> Option<Signed<'_>> {
        let (message, bytes, time_s) = match self.kind {
            KeyKind::Log => (text.to_owned(), signature.bytes.as_slice(), None),
            KeyKind::Cosigner => {
                let (time, bytes) = signature.bytes.split_first_chunk::<8>()?;
                let time_s = Some(u64::from_be_bytes(*time)).filter(|s| i64::try_from(*s).is_ok());
                (cosigned(text, time_s?), bytes, time_s)
            }
        };
        self.ed25519(message.as_bytes(), bytes).then_some(Signed { key: self, time_s })
    }

    fn ed25519(&self, message: &[u8], signature: &[u8]) -> bool {
        <&[u8; SIGNATURE_BYTES]>::try_from(signature).is_ok_and(|bytes| {
            self.key.verify_strict(message, &Signature::from_bytes(bytes)).is_ok()
        })
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = [&[self.kind as u8], self.key.as_bytes().as_slice()].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, to_base64(&typed))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        // A name has no plus; base64 may.
        let (name, rest) = text.split_once('+').ok_or(KeyError::Form)?;
        let (given, typed) = rest.split_once('+').ok_or(KeyError::Form)?;
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        if given.len() != 8 || !given.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(KeyError::Form);
        }
        let given = u32::from_str_radix(given, 16).map_err(|_| KeyError::Form)?;
        let typed = from_base64(typed).ok_or(KeyError::Form)?;
        let (kind, public) = typed.split_first().ok_or(KeyError::Form)?;
        let kind = match kind {
            0x01 => KeyKind::Log,
            0x04 => KeyKind::Cosigner,
            _ => return Err(KeyError::Kind),
        };
        let public = <&[u8; 32]>::try_from(public).map_err(|_| KeyError::Key)?;
        let key = VerifyingKey::from_bytes(public).map_err(|_| KeyError::Key)?;
        // Signatures of such a key would hold for any text.
        if key.is_weak() {
            return Err(KeyError::Key);
        }
        let key = Self::new(name, kind, key);
        if key.id == given { Ok(key) } else { Err(KeyError::Id) }
    }
}

/// The key that signs a log's checkpoints. Not printed, wiped from memory when dropped.
pub struct LogKey {
    verifier: VerifierKey,
    key: SigningKey,
}

impl LogKey {
    /// From its seed (RFC 8032's private key). A log's name is its origin.
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let (verifier, key) = pair(name, KeyKind::Log, seed)?;
        Ok(Self { verifier, key })
    }

    /// What checks its signatures.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs a note's text, which ends in a line feed.
    pub fn sign(&self, text: &str) -> NoteSignature {
        let bytes = self.key.sign(text.as_bytes()).to_bytes().to_vec();
        NoteSignature { name: self.verifier.name.clone(), id: self.verifier.id, bytes }
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({})", self.verifier)
    }
}

/// The key with which a witness says what it saw. Not printed, wiped from memory when dropped.
pub struct CosignerKey {
    verifier: VerifierKey,
    key: SigningKey,
}

impl CosignerKey {
    /// From its seed (RFC 8032's private key).
    ///
    /// # Errors
    /// [`KeyError::Name`].
    pub fn new(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let (verifier, key) = pair(name, KeyKind::Cosigner, seed)?;
        Ok(Self { verifier, key })
    }

    /// What checks its cosignatures.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Says that as of `unix_s` (seconds since 1970, at most 2^63 - 1) the checkpoint of this text is the largest one seen of
    /// its log, and follows from those before.
    pub fn cosign(&self, text: &str, unix_s: u64) -> NoteSignature {
        let mut bytes = unix_s.to_be_bytes().to_vec();
        bytes.extend(self.key.sign(cosigned(text, unix_s).as_bytes()).to_bytes());
        NoteSignature { name: self.verifier.name.clone(), id: self.verifier.id, bytes }
    }
}

impl fmt::Debug for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CosignerKey({})", self.verifier)
    }
}

fn pair(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<(VerifierKey, SigningKey), KeyError> {
    if !is_name(name) {
        return Err(KeyError::Name);
    }
    let key = SigningKey::from_bytes(seed);
    Ok((VerifierKey::new(name, kind, key.verifying_key()), key))
}
