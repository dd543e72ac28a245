//! Messages as bytes: bounded, with a checksum in front. Whatever comes in is decoded or refused, never believed.
//!
//! `version (2) ‖ kind (1) ‖ from (1) ‖ to (1) ‖ cluster (16) ‖ incarnation (8) ‖ fields ‖ body`, behind the BLAKE3 of all that (32).
//! A checksum shows that bytes changed on the way. It does not show who sent them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    header::{Header, Identity, Op, View},
    limits::{BODY_BYTES_MAX, PIPELINE_MAX, REPLICAS_MAX, TIME_MAX_US},
    members::{self, Members},
    message::{Entry, Envelope, Message, ReplicaId, Tail},
};

const VERSION: u16 = 2;
const SEAL_BYTES: usize = 32;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They are not what was sent.
    #[error("a message's checksum does not match")]
    Checksum,
    /// Another version.
    #[error("unknown message version")]
    Version,
    /// A kind, a length or a number that cannot be.
    #[error("a message that cannot be")]
    Malformed,
}

/// The bytes of a message.
pub fn encode(envelope: &Envelope) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    out.put_bytes(0, SEAL_BYTES);
    out.put_u16_le(VERSION);
    out.put_u8(kind(&envelope.message));
    out.put_u8(envelope.from.0);
    out.put_u8(envelope.to.0);
    out.put_slice(&envelope.cluster);
    out.put_u64_le(envelope.incarnation);
    put_fields(&envelope.message, &mut out);
    let seal = *blake3::hash(&out[SEAL_BYTES..]).as_bytes();
    out[..SEAL_BYTES].copy_from_slice(&seal);
    out.freeze()
}

const fn kind(message: &Message) -> u8 {
    match message {
        Message::Prepare { .. } => 1,
        Message::PrepareOk { .. } => 2,
        Message::Commit { .. } => 3,
        Message::Alive { .. } => 4,
        Message::StartViewChange { .. } => 5,
        Message::DoViewChange { .. } => 6,
        Message::StartView { .. } => 7,
        Message::RequestStartView { .. } => 8,
        Message::Fetch { .. } => 9,
        Message::Supply { .. } => 10,
        Message::Follows { .. } => 11,
        Message::Close { .. } => 12,
        Message::Reading { .. } => 13,
    }
}

fn put_fields(message: &Message, out: &mut BytesMut) {
    match message {
        Message::Prepare { view, commit, entry } => {
            out.put_u64_le(view.0);
            out.put_u64_le(commit.0);
            put_entry(entry, out);
        }
        Message::PrepareOk { view, op, identity } => {
            out.put_u64_le(view.0);
            out.put_u64_le(op.0);
            out.put_slice(&identity.0);
        }
        Message::Commit { view, op, identity, round } => {
            out.put_u64_le(view.0);
            out.put_u64_le(op.0);
            out.put_slice(&identity.0);
            out.put_u64_le(*round);
        }
        Message::Alive { view, round } => {
            out.put_u64_le(view.0);
            out.put_u64_le(*round);
        }
        Message::Follows { view, op } => {
            out.put_u64_le(view.0);
            out.put_u64_le(op.0);
        }
        Message::StartViewChange { view, joined } => {
            out.put_u64_le(view.0);
            out.put_u64_le(joined.0);
        }
        Message::DoViewChange { view, log_view, certain, closed_us, tail } => {
            out.put_u64_le(view.0);
            out.put_u64_le(log_view.0);
            out.put_u8(u8::from(*certain));
            out.put_i64_le(*closed_us);
            put_tail(tail, out);
        }
        Message::StartView { view, nonce, tail } => {
            out.put_u64_le(view.0);
            out.put_u64_le(*nonce);
            put_tail(tail, out);
        }
        Message::RequestStartView { view, nonce } => {
            out.put_u64_le(view.0);
            out.put_u64_le(*nonce);
        }
        Message::Fetch { op, identity } => {
            out.put_u64_le(op.0);
            out.put_u8(u8::from(identity.is_some()));
            out.put_slice(&identity.unwrap_or_default().0);
        }
        Message::Supply { committed, entry } => {
            out.put_u8(u8::from(*committed));
            put_entry(entry, out);
        }
        Message::Close { view, round, close_us, closed_us, op } => {
            out.put_u64_le(view.0);
            out.put_u64_le(*round);
            out.put_i64_le(*close_us);
            out.put_i64_le(*closed_us);
            out.put_u64_le(op.0);
        }
        Message::Reading { view, round, clock_us, closed_us } => {
            out.put_u64_le(view.0);
            out.put_u64_le(*round);
            out.put_i64_le(*clock_us);
            out.put_i64_le(*closed_us);
        }
    }
}

fn put_header(header: &Header, out: &mut BytesMut) {
    let bytes = header.encode();
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(&bytes);
}

fn put_entry(entry: &Entry, out: &mut BytesMut) {
    put_header(&entry.header, out);
    out.put_slice(&entry.body);
}

fn put_tail(tail: &Tail, out: &mut BytesMut) {
    out.put_u64_le(tail.commit.0);
    out.put_slice(&tail.identity.0);
    match &tail.members {
        Some(members) => {
            let mut bytes = Vec::with_capacity(members.encoded_bytes());
            members.encode(&mut bytes);
            out.put_slice(&bytes);
        }
        None => out.put_u8(0),
    }
    out.put_u8(tail.headers.len() as u8);
    tail.headers.iter().for_each(|header| put_header(header, out));
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// [`CodecError`]; never panics, and takes no more memory than the bytes do.
pub fn decode(bytes: &Bytes) -> Result<Envelope, CodecError> {
    let (seal, sealed) = bytes.split_at_checked(SEAL_BYTES).ok_or(CodecError::Malformed)?;
    if seal != blake3::hash(sealed).as_bytes() {
        return Err(CodecError::Checksum);
    }
    let mut from = Cursor { bytes, at: SEAL_BYTES };
    if u16::from_le_bytes(from.take()?) != VERSION {
        return Err(CodecError::Version);
    }
    let [kind, sender, to] = from.take()?;
    if sender >= REPLICAS_MAX || to >= REPLICAS_MAX {
        return Err(CodecError::Malformed);
    }
    let envelope = Envelope {
        cluster: from.take()?,
        from: ReplicaId(sender),
        to: ReplicaId(to),
        incarnation: from.number()?,
        message: message(kind, &mut from)?,
    };
    if from.at == bytes.len() { Ok(envelope) } else { Err(CodecError::Malformed) }
}

fn message(kind: u8, from: &mut Cursor<'_>) -> Result<Message, CodecError> {
    Ok(match kind {
        1 => Message::Prepare { view: from.view()?, commit: from.op()?, entry: from.entry()? },
        2 => Message::PrepareOk { view: from.view()?, op: from.op()?, identity: from.identity()? },
        3 => Message::Commit {
            view: from.view()?,
            op: from.op()?,
            identity: from.identity()?,
            round: from.number()?,
        },
        4 => Message::Alive { view: from.view()?, round: from.number()? },
        5 => Message::StartViewChange { view: from.view()?, joined: from.view()? },
        6 => Message::DoViewChange {
            view: from.view()?,
            log_view: from.view()?,
            certain: from.flag()?,
            closed_us: from.time()?,
            tail: from.tail()?,
        },
        7 => Message::StartView { view: from.view()?, nonce: from.number()?, tail: from.tail()? },
        8 => Message::RequestStartView { view: from.view()?, nonce: from.number()? },
        9 => {
            let (op, known, identity) = (from.op()?, from.flag()?, from.identity()?);
            Message::Fetch { op, identity: known.then_some(identity) }
        }
        10 => Message::Supply { committed: from.flag()?, entry: from.entry()? },
        11 => Message::Follows { view: from.view()?, op: from.op()? },
        12 => Message::Close {
            view: from.view()?,
            round: from.number()?,
            close_us: from.time()?,
            closed_us: from.time()?,
            op: from.op()?,
        },
        13 => Message::Reading {
            view: from.view()?,
            round: from.number()?,
            clock_us: from.time()?,
            closed_us: from.time()?,
        },
        _ => return Err(CodecError::Malformed),
    })
}

/// Numbers beyond this are no counters of ours; below it, none of them can overflow.
const NUMBER_MAX: u64 = 1 << 53;

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let part = self.bytes.get(self.at..self.at + N).ok_or(CodecError::Malformed)?;
        self.at += N;
        Ok(part.try_into().expect("N bytes"))
    }

    fn number(&mut self) -> Result<u64, CodecError> {
        self.take().map(u64::from_le_bytes)
    }

    fn counter(&mut self) -> Result<u64, CodecError> {
        self.number().and_then(|n| if n < NUMBER_MAX { Ok(n) } else { Err(CodecError::Malformed) })
    }

    fn view(&mut self) -> Result<View, CodecError> {
        self.counter().map(View)
    }

    fn op(&mut self) -> Result<Op, CodecError> {
        self.counter().map(Op)
    }

    /// Microseconds since 1970, within what a time can be.
    fn time(&mut self) -> Result<i64, CodecError> {
        let us = i64::from_le_bytes(self.take()?);
        if (0..=TIME_MAX_US).contains(&us) { Ok(us) } else { Err(CodecError::Malformed) }
    }

    fn identity(&mut self) -> Result<Identity, CodecError> {
        self.take().map(Identity)
    }

    fn flag(&mut self) -> Result<bool, CodecError> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(CodecError::Malformed),
        }
    }

    fn header(&mut self) -> Result<Header, CodecError> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(CodecError::Malformed)?;
        let header = Header::decode(&self.bytes.slice(self.at..end));
        self.at = end;
        let header = header.map_err(|_| CodecError::Malformed)?;
        let counters = header.op.0 < NUMBER_MAX && header.view.0 < NUMBER_MAX;
        let time = (0..=TIME_MAX_US).contains(&header.time_us);
        if counters && time && header.op.0 > 0 { Ok(header) } else { Err(CodecError::Malformed) }
    }

    /// The rest of a message.
    fn entry(&mut self) -> Result<Entry, CodecError> {
        let header = self.header()?;
        let body = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        if body.len() <= BODY_BYTES_MAX {
            Ok(Entry { header, body })
        } else {
            Err(CodecError::Malformed)
        }
    }

    fn members(&mut self) -> Result<Option<Members>, CodecError> {
        let known = members::decode_known(&self.bytes.slice(self.at..));
        let (members, length) = known.ok_or(CodecError::Malformed)?;
        self.at += length;
        Ok(members)
    }

    fn tail(&mut self) -> Result<Tail, CodecError> {
        let (commit, identity, members) = (self.op()?, self.identity()?, self.members()?);
        let [count] = self.take()?;
        if u64::from(count) > PIPELINE_MAX {
            return Err(CodecError::Malformed);
        }
        let headers = (0..count).map(|_| self.header()).collect::<Result<Vec<_>, _>>()?;
        let tail = Tail { commit, identity, members, headers };
        if tail.is_chain() { Ok(tail) } else { Err(CodecError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::SECTION_BYTES;

    fn header(op: u64, parent: Identity) -> Header {
        Header {
            cluster: [3; 16],
            op: Op(op),
            view: View(2),
            parent,
            time_us: 5,
            members: None,
            sections: Bytes::from(vec![1; SECTION_BYTES]),
        }
    }

    fn messages() -> Vec<Message> {
        let entry =
            Entry { header: header(8, Identity([1; 32])), body: Bytes::from_static(b"body") };
        let first = header(8, Identity([1; 32]));
        let second = header(9, first.identity());
        let reset = Members::first(3).with_reset(ReplicaId(2), 9);
        let second = Header { members: reset.clone(), sections: Bytes::new(), ..second };
        let (commit, at) = (Op(7), Identity([1; 32]));
        let headers = vec![first, second];
        let tail = Tail { commit, identity: at, members: None, headers };
        let short = Tail { commit, identity: at, members: reset, headers: Vec::new() };
        let (view, op, identity) = (View(3), Op(4), Identity([6; 32]));
        let log_view = View(1);
        let vote = |certain, closed_us, tail| Message::DoViewChange {
            view,
            log_view,
            certain,
            closed_us,
            tail,
        };
        vec![
            Message::Prepare { view, commit: Op(7), entry: entry.clone() },
            Message::PrepareOk { view, op, identity },
            Message::Commit { view, op, identity, round: 12 },
            Message::Alive { view, round: 12 },
            Message::Follows { view, op },
            Message::StartViewChange { view, joined: View(2) },
            vote(true, 9, tail.clone()),
            vote(false, 0, short),
            Message::Close { view, round: 7, close_us: 30, closed_us: 20, op },
            Message::Reading { view, round: 7, clock_us: 35, closed_us: 20 },
            Message::StartView { view, nonce: 77, tail },
            Message::RequestStartView { view, nonce: 77 },
            Message::Fetch { op, identity: None },
            Message::Fetch { op, identity: Some(identity) },
            Message::Supply { committed: true, entry },
        ]
    }

    fn envelope(message: Message) -> Envelope {
        let (from, to) = (ReplicaId(1), ReplicaId(2));
        Envelope { cluster: [3; 16], from, to, incarnation: 4, message }
    }

    /// The same bytes with a checksum that holds again.
    fn sealed(mut bytes: Vec<u8>) -> Bytes {
        let seal = *blake3::hash(&bytes[SEAL_BYTES..]).as_bytes();
        bytes[..SEAL_BYTES].copy_from_slice(&seal);
        Bytes::from(bytes)
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for message in messages() {
            let envelope = envelope(message);
            assert_eq!(decode(&encode(&envelope)), Ok(envelope));
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused() {
        for message in messages() {
            let bytes = encode(&envelope(message));
            for at in 0..bytes.len() {
                let mut changed = bytes.to_vec();
                changed[at] ^= 0x10;
                assert_eq!(decode(&Bytes::from(changed)), Err(CodecError::Checksum));
            }
        }
    }

    #[test]
    fn bytes_with_a_checksum_that_holds_are_not_believed_either() {
        for message in messages() {
            let bytes = encode(&envelope(message));
            for at in SEAL_BYTES..bytes.len() {
                // A cut inside the body only shortens it.
                let _never_panics = decode(&sealed(bytes[..at].to_vec()));
                for flip in [1, 0x80, 0xff] {
                    let mut changed = bytes.to_vec();
                    changed[at] ^= flip;
                    let _never_panics = decode(&sealed(changed));
                }
            }
            assert!(decode(&bytes.slice(..SEAL_BYTES - 1)).is_err());
        }
    }

    #[test]
    fn a_time_that_cannot_be_is_refused() {
        let check = |clock_us| {
            let message = Message::Reading { view: View(1), round: 1, clock_us, closed_us: 0 };
            decode(&encode(&envelope(message))).is_ok()
        };
        assert!(check(0) && check(TIME_MAX_US));
        assert!(!check(-1) && !check(TIME_MAX_US + 1) && !check(i64::MAX) && !check(i64::MIN));
    }

    #[test]
    fn a_tail_that_is_no_chain_or_too_long_is_refused() {
        let check = |tail: Tail| {
            decode(&encode(&envelope(Message::StartView { view: View(1), nonce: 0, tail })))
        };
        let (commit, identity) = (Op(7), Identity([1; 32]));
        let stranger = header(8, Identity([2; 32]));
        let headers = vec![stranger];
        assert_eq!(
            check(Tail { commit, identity, members: None, headers }),
            Err(CodecError::Malformed)
        );
        let mut headers = Vec::new();
        let mut parent = identity;
        for op in 8..8 + PIPELINE_MAX {
            headers.push(header(op, parent));
            parent = headers.last().unwrap().identity();
        }
        let whole = Tail { commit, identity, members: None, headers };
        assert!(check(whole.clone()).is_ok());
        let mut long = whole;
        long.headers.push(header(8 + PIPELINE_MAX, parent));
        assert_eq!(check(long), Err(CodecError::Malformed));
    }
}
