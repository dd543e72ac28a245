//! What is asked of a time authority, and what it answers, as bytes (RFC 3161).
//!
//! An answer is kept only where it is one to the question: its digest, its nonce. Whether the authority's signature holds,
//! and whether the authority is to be trusted, is for whoever uses the token (`openssl ts -verify`): that takes certificates
//! which this server does not have.

use der::{
    AnyRef, Decode, Encode, Reader, SliceReader, Tag, TagNumber, Tagged,
    asn1::{Int, IntRef, ObjectIdentifier, OctetString, OctetStringRef},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use spki::AlgorithmIdentifier;
use x509_tsp::{MessageImprint, TimeStampReq, TimeStampResp, TspVersion};

/// SHA-256 (RFC 5754).
const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// `id-signedData` (RFC 5652).
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
/// `id-ct-TSTInfo` (RFC 3161).
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");

/// The last `PKIStatus` that comes with a token; 0 is the other.
const GRANTED_WITH_MODS: u8 = 1;

/// A question: when was this digest known?
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    digest: [u8; 32],
    /// Positive, so that it is as long in each encoding.
    nonce: [u8; 8],
}

/// What the authority signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The token alone, as it came: DER of a CMS `ContentInfo`.
    pub(crate) der: Vec<u8>,
    /// When the authority says that it was.
    pub(crate) time: Timestamp,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// Bytes that RFC 3161 does not know.
    #[error("the answer is no time-stamp response (RFC 3161)")]
    Malformed,
    /// The authority says no.
    #[error("the authority refused: status {0}")]
    Refused(u8),
    /// For something else.
    #[error("the token is of another digest")]
    OtherDigest,
    /// An old answer, or one to somebody else.
    #[error("the token answers another request")]
    OtherNonce,
}

impl From<der::Error> for AnswerError {
    fn from(_: der::Error) -> Self {
        Self::Malformed
    }
}

impl Question {
    pub(crate) fn new(digest: [u8; 32], nonce: u64) -> Self {
        // A leading one keeps it positive and free of leading zeros.
        Self { digest, nonce: (nonce >> 2 | 1 << 62).to_be_bytes() }
    }

    /// The request, in DER.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let hash_algorithm = AlgorithmIdentifier { oid: SHA_256, parameters: None };
        let hashed_message = OctetString::new(self.digest).expect("32 bytes");
        let request = TimeStampReq {
            version: TspVersion::V1,
            message_imprint: MessageImprint { hash_algorithm, hashed_message },
            req_policy: None,
            nonce: Some(Int::new(&self.nonce).expect("eight bytes")),
            // The signer's certificate, so that the token can be checked by itself.
            cert_req: true,
            extensions: None,
        };
        request.to_der().expect("plain fields encode")
    }

    /// The token of an answer to this question.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub(crate) fn accept(&self, answer: &[u8]) -> Result<Token, AnswerError> {
        let response = TimeStampResp::from_der(answer)?;
        let status = response.status.status as u8;
        if status > GRANTED_WITH_MODS {
            return Err(AnswerError::Refused(status));
        }
        let token = response.time_stamp_token.ok_or(AnswerError::Malformed)?;
        if token.content_type != SIGNED_DATA {
            return Err(AnswerError::Malformed);
        }
        let info = Info::read(signed_content(AnyRef::from(&token.content))?)?;
        if info.imprint.hash_algorithm.oid != SHA_256
            || info.imprint.hashed_message.as_bytes() != self.digest
        {
            return Err(AnswerError::OtherDigest);
        }
        match info.nonce {
            Some(nonce) if nonce == self.nonce => {}
            Some(_) | None => return Err(AnswerError::OtherNonce),
        }
        Ok(Token { der: token.to_der()?, time: info.time })
    }
}

/// What a `SignedData` is about, where that is a `TSTInfo`. Certificates and signatures are passed over: authorities put
/// their sets in an order, or twice, as a strict reader would not have it.
fn signed_content(signed: AnyRef<'_>) -> Result<&[u8], AnswerError> {
    let mut fields = inside(signed, Tag::Sequence)?;
    let _version: IntRef<'_> = fields.decode()?;
    let _digests: AnyRef<'_> = fields.decode()?;
    let mut content = inside(fields.decode()?, Tag::Sequence)?;
    let kind: ObjectIdentifier = content.decode()?;
    let explicit = Tag::ContextSpecific { constructed: true, number: TagNumber::N0 };
    let mut octets = inside(content.decode()?, explicit)?;
    let octets: OctetStringRef<'_> = octets.decode()?;
    if kind == TST_INFO { Ok(octets.as_bytes()) } else { Err(AnswerError::Malformed) }
}

/// What lies inside of a value that has this tag.
fn inside(value: AnyRef<'_>, tag: Tag) -> Result<SliceReader<'_>, AnswerError> {
    value.tag().assert_eq(tag)?;
    Ok(SliceReader::new(value.value())?)
}

/// What is read of a `TSTInfo`. The library's own type knows no fractions of a second.
struct Info<'a> {
    imprint: MessageImprint,
    time: Timestamp,
    nonce: Option<&'a [u8]>,
}

impl<'a> Info<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, AnswerError> {
        let mut fields = inside(AnyRef::from_der(bytes)?, Tag::Sequence)?;
        let _version: TspVersion = fields.decode()?;
        // Any: the library's type knows no identifiers as short as `1.2.3`.
        let policy: AnyRef<'_> = fields.decode()?;
        policy.tag().assert_eq(Tag::ObjectIdentifier)?;
        let imprint: MessageImprint = fields.decode()?;
        let _serial: IntRef<'_> = fields.decode()?;
        let time: AnyRef<'_> = fields.decode()?;
        let mut nonce = None;
        // Accuracy, ordering, nonce, then what is tagged; each may be missing, and of these only the nonce is an integer.
        while !fields.is_finished() {
            let field: AnyRef<'_> = fields.decode()?;
            if field.tag() == Tag::Integer {
                nonce = Some(field.value());
            }
        }
        let time = match time.tag() {
            Tag::GeneralizedTime => generalized(time.value()),
            _ => None,
        };
        Ok(Self { imprint, time: time.ok_or(AnswerError::Malformed)?, nonce })
    }
}

/// `YYYYMMDDhhmmss[.s…]Z`.
fn generalized(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(w, f)| (w, Some(f)));
    if whole.len() != 14 || fraction.is_some_and(|f| f.is_empty() || f.len() > 9) {
        return None;
    }
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return None;
    }
    let part = |at: std::ops::Range<usize>| whole[at].parse::<i16>().ok();
    let small = |at: std::ops::Range<usize>| whole[at].parse::<i8>().ok();
    let nanos = fraction.map_or(Some(0), |f| format!("{f:0<9}").parse::<i32>().ok())?;
    let (month, day) = (small(4..6)?, small(6..8)?);
    let civil = DateTime::new(
        part(0..4)?,
        month,
        day,
        small(8..10)?,
        small(10..12)?,
        small(12..14)?,
        nanos,
    );
    civil.ok()?.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp())
}

#[cfg(test)]
mod tests;
