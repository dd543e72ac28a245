//! The header of an op: its order, its time, and what it says of its body.

use std::fmt;

use bytes::Bytes;

use crate::members::Members;

/// An op's number, from 1; 0 is the root that no replica stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(pub u64);

impl Op {
    /// The op behind this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A view's number: an epoch with one primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View(pub u64);

/// The BLAKE3 hash of a header: what replicas agree on.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 32]);

impl Identity {
    /// The parent of op 1.
    pub fn root(cluster: [u8; 16]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"kimberlite root");
        hasher.update(&cluster);
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(")?;
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("…)")
    }
}

/// Bytes of one section's entry in a header.
pub const SECTION_BYTES: usize = 64;

/// Of an op whose members are those that the cluster began with.
const VERSION: u16 = 1;
/// Of an op that says who they are.
const VERSION_MEMBERS: u16 = 2;
const FIXED_BYTES: usize = 2 + 2 + 16 + 8 + 8 + 32 + 8;
const SECTIONS_MAX: usize = 1024;

/// An op's header. Its encoding is canonical; `store/FORMAT.md` has the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// The op's number.
    pub op: Op,
    /// The view it was prepared in.
    pub view: View,
    /// Identity of the op before.
    pub parent: Identity,
    /// Microseconds since 1970-01-01 UTC; later than the parent's.
    pub time_us: i64,
    /// The members as of this op; `None` while they are those that the cluster began with.
    pub members: Option<Members>,
    /// Entries of [`SECTION_BYTES`] each, opaque here. None in an op that only changes the members.
    pub sections: Bytes,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The length does not fit the number of sections, or there are none or too many.
    #[error("a header of this length cannot be")]
    Length,
    /// Another version.
    #[error("unknown header version")]
    Version,
    /// No members, or such as cannot be.
    #[error("a header's members cannot be")]
    Members,
}

impl Header {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let count = self.sections.len() / SECTION_BYTES;
        assert!(self.sections.len().is_multiple_of(SECTION_BYTES) && count <= SECTIONS_MAX);
        assert!(count > 0 || self.members.is_some(), "an op says something");
        let members_bytes = self.members.as_ref().map_or(0, Members::encoded_bytes);
        let version = if self.members.is_some() { VERSION_MEMBERS } else { VERSION };
        let mut out = Vec::with_capacity(FIXED_BYTES + members_bytes + self.sections.len());
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&(count as u16).to_le_bytes());
        out.extend_from_slice(&self.cluster);
        out.extend_from_slice(&self.op.0.to_le_bytes());
        out.extend_from_slice(&self.view.0.to_le_bytes());
        out.extend_from_slice(&self.parent.0);
        out.extend_from_slice(&self.time_us.to_le_bytes());
        if let Some(members) = &self.members {
            members.encode(&mut out);
        }
        out.extend_from_slice(&self.sections);
        out
    }

    /// Reads what [`Header::encode`] wrote.
    ///
    /// # Errors
    /// [`HeaderError`]; never panics, whatever the bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, HeaderError> {
        if bytes.len() < FIXED_BYTES {
            return Err(HeaderError::Length);
        }
        let u64_at = |at: usize| u64::from_le_bytes(take(bytes, at));
        let (members, sections_at) = match u16::from_le_bytes(take(bytes, 0)) {
            VERSION => (None, FIXED_BYTES),
            VERSION_MEMBERS => {
                let decoded = Members::decode(&bytes[FIXED_BYTES..]);
                let (members, length) = decoded.ok_or(HeaderError::Members)?;
                (Some(members), FIXED_BYTES + length)
            }
            _ => return Err(HeaderError::Version),
        };
        let count = usize::from(u16::from_le_bytes(take(bytes, 2)));
        let possible = count <= SECTIONS_MAX && (count > 0 || members.is_some());
        if !possible || bytes.len() != sections_at + count * SECTION_BYTES {
            return Err(HeaderError::Length);
        }
        Ok(Self {
            cluster: take(bytes, 4),
            op: Op(u64_at(20)),
            view: View(u64_at(28)),
            parent: Identity(take(bytes, 36)),
            time_us: i64::from_le_bytes(take(bytes, 68)),
            members,
            sections: bytes.slice(sections_at..),
        })
    }

    /// The hash of the encoded header.
    pub fn identity(&self) -> Identity {
        Identity(*blake3::hash(&self.encode()).as_bytes())
    }
}

/// `N` bytes from `at`; the caller has checked the length.
fn take<const N: usize>(bytes: &Bytes, at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ReplicaId;

    fn header() -> Header {
        Header {
            cluster: [7; 16],
            op: Op(3),
            view: View(1),
            parent: Identity([9; 32]),
            time_us: -5,
            members: None,
            sections: Bytes::from(vec![1; 128]),
        }
    }

    fn with_members(sections: usize) -> Header {
        let members = Members::first(3).with_reset(ReplicaId(2), 9);
        assert!(members.is_some());
        Header { members, sections: Bytes::from(vec![1; sections * SECTION_BYTES]), ..header() }
    }

    #[test]
    fn headers_come_back_as_they_were() {
        let bytes = Bytes::from(header().encode());
        assert_eq!((bytes.len(), bytes[0]), (76 + 128, 1));
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for sections in [0, 1, 2] {
            let header = with_members(sections);
            let bytes = Bytes::from(header.encode());
            assert_eq!((bytes.len(), bytes[0]), (76 + 31 + sections * 64, 2));
            assert_eq!(Header::decode(&bytes), Ok(header));
        }
    }

    #[test]
    fn members_stand_between_time_and_sections() {
        let bytes = with_members(1).encode();
        assert_eq!(bytes[..4], [2, 0, 1, 0]);
        let seat = |r: u8, incarnation: u8| [r, 1, incarnation, 0, 0, 0, 0, 0, 0, 0];
        let seats = [seat(0, 1), seat(1, 1), seat(2, 9)].concat();
        assert_eq!((bytes[76], &bytes[77..107]), (3, &seats[..]));
        assert_eq!(bytes[107..], [1; 64]);
    }

    #[test]
    fn an_op_without_sections_says_who_the_members_are() {
        let mut bytes = with_members(0).encode();
        bytes.truncate(76);
        assert_eq!(Header::decode(&Bytes::from(bytes.clone())), Err(HeaderError::Members));
        bytes[0] = 1;
        assert_eq!(Header::decode(&Bytes::from(bytes)), Err(HeaderError::Length));
    }

    #[test]
    fn every_cut_and_every_wrong_length_is_refused() {
        for header in [header(), with_members(0), with_members(2)] {
            let bytes = Bytes::from(header.encode());
            for n in 0..bytes.len() {
                assert!(Header::decode(&bytes.slice(..n)).is_err(), "{n} bytes");
            }
        }
        let bytes = Bytes::from(header().encode());
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(Header::decode(&Bytes::from(longer)), Err(HeaderError::Length));
        let mut other = bytes.to_vec();
        other[0] = 3;
        assert_eq!(Header::decode(&Bytes::from(other)), Err(HeaderError::Version));
    }

    #[test]
    fn every_byte_of_a_header_is_part_of_its_identity() {
        for header in [header(), with_members(1)] {
            let bytes = header.encode();
            for at in 4..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 0x40;
                // Bytes of members that cannot be are no header.
                let Ok(changed) = Header::decode(&Bytes::from(changed)) else {
                    assert!(header.members.is_some(), "byte {at}");
                    continue;
                };
                assert_ne!(changed.identity(), header.identity(), "byte {at}");
            }
        }
    }
}
