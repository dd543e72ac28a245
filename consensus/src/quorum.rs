//! How many of a cluster's replicas must agree.

use crate::message::ReplicaId;

/// Replicas on whose disks an op lies before it is committed.
pub const fn replication(replicas: u8) -> u8 {
    replicas / 2 + 1
}

/// Replicas that take part in a change of the view.
pub const fn view_change(replicas: u8) -> u8 {
    replicas / 2 + 1
}

/// A set of replicas, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Voters(u16);

impl Voters {
    /// Counts a replica; twice is once.
    pub fn add(&mut self, replica: ReplicaId) {
        self.0 |= 1 << replica.0;
    }

    /// Counts a replica no more.
    pub fn remove(&mut self, replica: ReplicaId) {
        self.0 &= !(1 << replica.0);
    }

    /// Those that were counted in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it was counted.
    pub const fn has(self, replica: ReplicaId) -> bool {
        self.0 >> replica.0 & 1 == 1
    }

    /// How many were counted.
    pub const fn count(self) -> u8 {
        self.0.count_ones() as u8
    }
}

impl FromIterator<ReplicaId> for Voters {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(replicas: I) -> Self {
        let mut voters = Self::default();
        replicas.into_iter().for_each(|r| voters.add(r));
        voters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLICAS_MAX;

    /// Replicas that say they never had an op, from which on it cannot have been committed. Nobody counts them: that a view
    /// begins with as many is why (`specs/decisions/0013-damage.md`).
    const fn nack(replicas: u8) -> u8 {
        replicas - replication(replicas) + 1
    }

    /// All sets of so many out of `replicas`.
    fn sets(replicas: u8, size: u8) -> impl Iterator<Item = u16> + Clone {
        (0..1_u16 << replicas).filter(move |set| set.count_ones() == u32::from(size))
    }

    #[test]
    fn all_quorums_of_one_to_seven_replicas_meet() {
        for n in 1..=7 {
            let (replication, view_change) = (replication(n), view_change(n));
            for a in sets(n, replication) {
                assert!(sets(n, view_change).all(|b| a & b != 0), "{n}: a view without an op");
                assert!(sets(n, nack(n)).all(|b| a & b != 0), "{n}: a committed op is denied");
            }
            for a in sets(n, view_change) {
                assert!(sets(n, view_change).all(|b| a & b != 0), "{n}: two primaries");
            }
        }
    }

    #[test]
    fn no_quorum_of_one_to_seven_replicas_is_larger_than_it_must_be() {
        for n in 1..=7 {
            let meet = |a: u8, b: u8| sets(n, a).all(|x| sets(n, b).all(|y| x & y != 0));
            let less = view_change(n) - 1;
            assert!(!meet(less, less), "{n}: two primaries");
            assert!(!meet(replication(n), nack(n) - 1), "{n}: a committed op is denied");
        }
    }

    #[test]
    fn quorums_meet_in_clusters_of_any_size() {
        for n in 1..=u8::MAX {
            let (r, v, nack) = (replication(n), view_change(n), nack(n));
            assert!(u16::from(r) + u16::from(v) > u16::from(n) && v > n / 2);
            assert!(u16::from(r) + u16::from(nack) == u16::from(n) + 1 && nack <= v);
            assert!(n - r < r && n - v < v, "{n}: a minority may fail");
        }
        assert!(u32::from(REPLICAS_MAX) < u16::BITS);
    }

    #[test]
    fn a_voter_counts_once() {
        let mut voters = Voters::default();
        for id in [2, 0, 2, 14] {
            voters.add(ReplicaId(id));
        }
        assert_eq!(voters.count(), 3);
        assert!(voters.has(ReplicaId(14)) && !voters.has(ReplicaId(1)));
        voters.remove(ReplicaId(14));
        assert!(voters.count() == 2 && !voters.has(ReplicaId(14)));
    }
}
