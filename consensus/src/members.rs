//! Who the members of a cluster are, and which disk each of them is known by.
//!
//! The members as of an op stand in its header, once they are not those that the cluster began with. So they are known
//! from any one header, wherever a log is read on from, and of ops whose bodies nobody has sent.

use std::fmt;

use bytes::Bytes;

use crate::{
    limits::REPLICAS_MAX,
    message::ReplicaId,
    quorum::{self, Voters},
};

/// The incarnation of every replica when a cluster begins.
pub const FIRST_INCARNATION: u64 = 1;

/// Bytes of one seat.
const SEAT_BYTES: usize = 1 + 1 + 8;
/// The role of who votes; there is no other yet.
const VOTES: u8 = 1;
/// No incarnation is beyond.
const INCARNATION_MAX: u64 = 1 << 53;

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    replica: ReplicaId,
    incarnation: u64,
}

/// The members of a cluster as of an op, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    seats: Vec<Seat>,
}

impl Members {
    /// Of a cluster of so many, as it begins.
    pub fn first(replicas: u8) -> Self {
        assert!((1..=REPLICAS_MAX).contains(&replicas), "a cluster has a size");
        let seat = |r| Seat { replica: ReplicaId(r), incarnation: FIRST_INCARNATION };
        Self { seats: (0..replicas).map(seat).collect() }
    }

    /// The incarnation that a replica counts with; 0 for who is no member.
    pub fn incarnation(&self, replica: ReplicaId) -> u64 {
        let seat = self.seats.iter().find(|s| s.replica == replica);
        seat.map_or(0, |s| s.incarnation)
    }

    /// Who votes.
    pub fn voters(&self) -> Voters {
        let mut voters = Voters::default();
        self.seats.iter().for_each(|s| voters.add(s.replica));
        voters
    }

    /// Whether a majority of the members is among these.
    pub fn have_quorum(&self, who: Voters) -> bool {
        let voters = self.voters();
        voters.and(who).count() >= quorum::replication(voters.count())
    }

    /// The members once a replica goes on with another disk; `None` for who is no member, or was known by a later one.
    #[must_use]
    pub fn with_reset(&self, replica: ReplicaId, incarnation: u64) -> Option<Self> {
        let mut next = self.clone();
        let seat = next.seats.iter_mut().find(|s| s.replica == replica)?;
        let rises = seat.incarnation < incarnation && incarnation < INCARNATION_MAX;
        seat.incarnation = incarnation;
        rises.then_some(next)
    }

    /// The members once another replica is one; `None` for who is, and where there is no place for it.
    #[must_use]
    pub fn with(&self, replica: ReplicaId, incarnation: u64) -> Option<Self> {
        let at = self.seats.binary_search_by_key(&replica, |s| s.replica).err()?;
        let fits = (FIRST_INCARNATION..INCARNATION_MAX).contains(&incarnation);
        if !fits || replica.0 >= REPLICAS_MAX {
            return None;
        }
        let mut next = self.clone();
        next.seats.insert(at, Seat { replica, incarnation });
        Some(next)
    }

    /// The members once a replica is none any more; `None` for who is none, and for the last one.
    #[must_use]
    pub fn without(&self, replica: ReplicaId) -> Option<Self> {
        let at = self.seats.binary_search_by_key(&replica, |s| s.replica).ok()?;
        let mut next = self.clone();
        next.seats.remove(at);
        (!next.seats.is_empty()).then_some(next)
    }

    /// Whether one logged step leads from `before` to these: a replica goes on with another disk, becomes a member, or
    /// is none any more.
    pub fn is_step_from(&self, before: &Self) -> bool {
        let of = |members: &Self, r| members.incarnation(r);
        let all = (0..REPLICAS_MAX).map(ReplicaId);
        let mut changed = all.filter(|r| of(self, *r) != of(before, *r));
        let (Some(replica), None) = (changed.next(), changed.next()) else { return false };
        // A seat that is kept is kept by the same disk, or by a later one.
        matches!(of(self, replica), 0) || of(self, replica) > of(before, replica)
    }

    /// Whether one of them is no member of the other's.
    pub(crate) fn differ_in_voters(&self, other: &Self) -> bool {
        self.voters() != other.voters()
    }

    /// How many bytes [`Members::encode`] appends.
    pub(crate) const fn encoded_bytes(&self) -> usize {
        1 + self.seats.len() * SEAT_BYTES
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.seats.len() as u8);
        for Seat { replica, incarnation } in &self.seats {
            out.extend_from_slice(&[replica.0, VOTES]);
            out.extend_from_slice(&incarnation.to_le_bytes());
        }
    }

    /// Reads what [`Members::encode`] wrote at the front of `bytes`, and how many bytes that was.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let (count, rest) = bytes.split_first()?;
        let encoded = rest.get(..usize::from(*count) * SEAT_BYTES)?;
        let mut seats: Vec<Seat> = Vec::with_capacity(usize::from(*count));
        for seat in encoded.chunks_exact(SEAT_BYTES) {
            let replica = ReplicaId(seat[0]);
            let incarnation = u64::from_le_bytes(seat[2..].try_into().expect("8"));
            let rises = seats.last().is_none_or(|last| last.replica < replica);
            let known = replica.0 < REPLICAS_MAX && seat[1] == VOTES;
            if !(rises && known && (FIRST_INCARNATION..INCARNATION_MAX).contains(&incarnation)) {
                return None;
            }
            seats.push(Seat { replica, incarnation });
        }
        let members = Self { seats };
        let length = members.encoded_bytes();
        (*count > 0).then_some((members, length))
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seat = |s: &Seat| format!("{}/{}", s.replica, s.incarnation);
        f.write_str(&self.seats.iter().map(seat).collect::<Vec<_>>().join(" "))
    }
}

/// The members at the front of a part of a message; no bytes but a zero stand for none.
pub(crate) fn decode_known(bytes: &Bytes) -> Option<(Option<Members>, usize)> {
    match bytes.first() {
        Some(0) => Some((None, 1)),
        Some(_) | None => Members::decode(bytes).map(|(members, length)| (Some(members), length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_back_as_they_were_and_no_cut_or_changed_role_does() {
        let members = Members::first(5).with_reset(ReplicaId(3), 7).unwrap();
        let mut bytes = Vec::new();
        members.encode(&mut bytes);
        assert_eq!(Members::decode(&bytes), Some((members.clone(), bytes.len())));
        assert_eq!(bytes.len(), members.encoded_bytes());
        for n in 0..bytes.len() {
            assert_eq!(Members::decode(&bytes[..n]), None, "{n} bytes");
        }
        let refused = |at: usize, to: u8| {
            let mut changed = bytes.clone();
            changed[at] = to;
            assert_eq!(Members::decode(&changed), None, "byte {at}");
        };
        refused(0, 0);
        refused(1, 1);
        refused(1 + SEAT_BYTES, REPLICAS_MAX);
        refused(2, 2);
        refused(3, 0);
        refused(10, 1);
    }

    #[test]
    fn a_step_raises_one_incarnation() {
        let first = Members::first(3);
        let reset = |m: &Members, r| m.with_reset(ReplicaId(r), 2);
        let one = reset(&first, 1).unwrap();
        let two = reset(&one, 2).unwrap();
        assert_eq!((one.incarnation(ReplicaId(1)), one.incarnation(ReplicaId(0))), (2, 1));
        assert!(one.is_step_from(&first) && two.is_step_from(&one));
        assert!(!two.is_step_from(&first), "two at once");
        assert!(!first.is_step_from(&one), "back");
        assert!(!one.is_step_from(&one), "nothing");
        assert!(!one.is_step_from(&Members::first(5)), "two at once");
        assert_eq!(reset(&one, 1), None, "known already");
        assert_eq!(reset(&first, 3), None, "no member");
    }

    #[test]
    fn a_step_adds_or_removes_one_member() {
        let three = Members::first(3);
        let four = three.with(ReplicaId(4), 7).unwrap();
        assert_eq!((four.voters().count(), four.incarnation(ReplicaId(4))), (4, 7));
        assert!(four.is_step_from(&three) && three.is_step_from(&four));
        assert_eq!(four.without(ReplicaId(4)), Some(three.clone()));
        let two = three.without(ReplicaId(0)).unwrap();
        assert!(two.is_step_from(&three) && !two.is_step_from(&four));
        let other = two.with(ReplicaId(3), 1).unwrap();
        assert!(!other.is_step_from(&three), "one for another");
        let both = four.with_reset(ReplicaId(1), 2).unwrap();
        assert!(!both.is_step_from(&three), "a member and a disk");
        assert_eq!(three.with(ReplicaId(2), 3), None, "a member already");
        assert_eq!(three.with(ReplicaId(REPLICAS_MAX), 1), None, "no such replica");
        assert_eq!(three.with(ReplicaId(3), 0), None, "no such disk");
        assert_eq!(three.without(ReplicaId(3)), None, "no member");
        assert_eq!(Members::first(1).without(ReplicaId(0)), None, "the last one");
        let mut bytes = Vec::new();
        four.encode(&mut bytes);
        assert_eq!(Members::decode(&bytes), Some((four, bytes.len())));
    }
}
