//! Viewstamped Replication, sans I/O.
//!
//! A [`Replica`] is a state machine: [`Replica::step`] takes the time and one [`Input`] and pushes what must be done
//! to an [`Outbox`]. It never reads a clock, a file, a socket or a random number, so a server and a simulator
//! drive the same code. It orders *headers*; the bodies of ops are opaque and stay with the driver.
//!
//! # The protocol on one page
//!
//! **Views.** The primary of view `v` is replica `v mod s`, of the `s` replicas that there may be. It prepares ops in order, several at a time; backups
//! write them, and say so once they are durable under a durable log view; a quorum's word commits. Heartbeats tell how
//! much is committed, with its identity. A primary that no quorum answers stops speaking.
//!
//! **Change of view.** A replica that hears no primary says that it wants the next view, and changes nothing. A quorum
//! that wants it joins it: durably first, then each says what log it has, under which log view, to the new
//! primary. Of a quorum's logs that of the latest log view wins, of those the longest. The new primary makes it
//! its own, has it durable under the new log view, and says so; backups do the same before they acknowledge anything.
//! It takes requests once all that it inherited is committed.
//!
//! **The log's end.** A primary prepares at most [`limits::PIPELINE_MAX`] ops beyond its last committed one. So an op's mere
//! existence says that all so far behind it are committed, and what views have to agree on is bounded.
//!
//! **Durability.** The driver's disk does what it is told in order. View and log view are durable before anything is
//! said that depends on them. A suffix is cut between two superblocks, so that a crash in between cuts it again.
//!
//! **Repair.** What a replica lacks it asks for by number, and by identity where it is not committed. An op of this log is cut
//! only when another one is known to stand in its place.
//!
//! **Liars.** Majority quorums do not tolerate a replica that lies. It is detected where it can be: what no honest replica
//! says is not followed, and a [`Notice`] tells of it (`specs/decisions/0015-liars-and-traps.md`).
//!
//! **Damage.** What cannot be read any more is neither had nor not had. Inside a log its identity is known from what follows, and
//! a [`Mender`] has it put back before the replica takes part. A replica whose log lost its end says so, durably, before
//! anything else is written there; until it has the log of a view that began later, or that its primary told of since, it
//! acknowledges nothing, and its vote says that it is uncertain: that counts only beside a vote of a later log view.
//!
//! **Lost disks.** A replica with another disk is another incarnation of it. It copies the log and says nothing that counts
//! before an op that lets it in is committed, and that it knows so is durable. The members with their incarnations stand in
//! headers, so that a vote of a lost disk is seen to be one in any log that knows better.
//!
//! **Standbys.** A replica that is no member follows like a backup: it is counted for nothing and leads nothing. It wants
//! a view where it hears no primary, since it may have been added and not know it; whose log does not have it as a
//! member counts that for nothing. A view whose turn would be a standby's is passed over.
//!
//! **Growth.** One op adds a standby that has caught up, or removes a member. It counts from where it stands in a log; it is
//! ordered when all before it is committed and a quorum has the log of the view.
//!
//! **Time.** With its heartbeats a primary asks what the others' clocks show, and stamps ops with its own as far as a quorum's allow it.
//! Times of ops rise. A closed time is promised, below which none will fall: it is told once a quorum keeps it durably, and
//! votes carry it to later views (`specs/decisions/0016-time.md`).
//!
//! A cluster of one is the same code: a quorum of one, no messages, no timers. `specs/decisions/0011-replication.md` has the
//! choices and why each is safe.

#![warn(clippy::float_arithmetic, clippy::wildcard_enum_match_arm)]

mod clock;
mod codec;
mod header;
pub mod limits;
mod members;
mod mender;
mod message;
#[cfg(feature = "sim")]
pub mod prng;
pub mod quorum;
mod replica;
#[cfg(feature = "sim")]
pub mod sim;
mod step;
mod timer;

pub use codec::{CodecError, decode, encode};
pub use header::{Header, HeaderError, Identity, Op, SECTION_BYTES, View};
pub use members::{FIRST_INCARNATION, Members};
pub use mender::{Gap, Mender, Told};
pub use message::{Entry, Envelope, Message, ReplicaId, Tail};
pub use replica::{Replica, Status};
pub use step::{Change, ChangeRefused, Form, Input, Notice, Outbox, Output, Recovered, Superblock};
