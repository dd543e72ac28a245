//! What a world needs of that which it runs.

use crate::{
    Change, ChangeRefused, Envelope, Header, Identity, Input, Notice, Op, Replica, Superblock,
    prng::Prng,
};

use super::Mutant;

/// Why a host stopped: its disk failed under it, or it found its own state broken.
#[derive(Clone, Debug)]
pub struct Stopped(pub String);

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The power goes, and nothing is done any more.
    Power,
    /// A change is refused; what a refused sync was for is lost.
    Change,
    /// Half of a write is done, and the rest refused.
    Half,
    /// There is no room.
    Room,
    /// A read is refused.
    Read,
    /// A bit of what is read is another one, this once.
    Turned,
    /// What is read is what lies elsewhere in the file, this once.
    Astray,
}

impl Failure {
    /// All but the power's.
    pub const OTHERS: [Self; 6] =
        [Self::Change, Self::Half, Self::Room, Self::Read, Self::Turned, Self::Astray];
}

/// What is not as it was written, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A bit of one of the superblock's copies.
    Superblock,
    /// A bit of a file that is derived from the log.
    Derived,
    /// A sector of an op: it was never written.
    Unwritten,
    /// A sector of an op: what was meant for another place lies there.
    Astray,
    /// A file of the log is shorter than it was.
    Short,
    /// A file of the log is not there.
    Missing,
    /// A file that is derived from the log is not there.
    Gone,
    /// A sector of an op: it lies in the place of a sector of another one, and where it should be nothing was written.
    Misdirected,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Superblock,
        Self::Derived,
        Self::Unwritten,
        Self::Astray,
        Self::Short,
        Self::Missing,
        Self::Gone,
        Self::Misdirected,
    ];

    /// Whether it touches only what is kept elsewhere on the same disk, or follows from what is.
    pub const fn is_spared(self) -> bool {
        matches!(self, Self::Superblock | Self::Derived | Self::Gone)
    }
}

/// What was harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harmed {
    /// Nothing that is not kept elsewhere on the same disk.
    Spare,
    /// An op.
    Op(Op),
    /// Two ops.
    Ops(Op, Op),
    /// All the ops of a file, from this one on.
    File(Op),
}

/// What a command came to.
#[derive(Clone, Debug)]
pub enum Reply<A> {
    /// It was decided, and the decision is committed.
    Answer(A),
    /// Ask again: what it was resolved against is too old.
    Again,
    /// Nobody knows whether it will be carried out.
    Lost,
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum Told<C> {
    /// The events behind its place, and its place behind them where that is another one.
    Events(Vec<String>, Option<C>),
    /// Its place lies behind what is committed here, or nothing is told here now.
    Behind,
    /// The log here has another record in its place.
    Foreign,
}

/// What a disk did.
#[derive(Clone, Debug)]
pub enum Work {
    /// There was nothing to do.
    Nothing,
    /// An op is durable.
    Written(Op, Identity),
    /// A superblock is durable.
    Superblock(Superblock),
    /// The log ends here.
    Truncated(Op),
    /// An op was not written: it is not what it says.
    Refused,
}

/// A replica with all that it runs on.
pub trait Host: Sized {
    /// What survives a crash, as far as it does.
    type Disk;
    /// What clients ask and are answered.
    type Load: Workload;
    /// A follower's place in the log.
    type Cursor: Clone;

    /// An empty disk for a replica; its first one has incarnation 1.
    fn format(replica: u8, incarnation: u64, mutant: Option<Mutant>) -> Self::Disk;
    /// Starts from what the disk holds, as one of `replicas`, of which the first so many are members.
    ///
    /// # Errors
    /// Why that cannot be.
    fn open(
        disk: &Self::Disk,
        now_ms: u64,
        members: u8,
        replicas: u8,
        mutant: Option<Mutant>,
    ) -> Result<Self, Stopped>;
    /// What is left of a disk after the power went: of what was not synced, those pieces for which `survives` says so.
    fn crash(disk: &mut Self::Disk, survives: &mut dyn FnMut() -> bool);
    /// The op that is so many before the last one that a disk holds.
    fn op(disk: &Self::Disk, back: u64) -> Option<Op>;
    /// A bit of an op on a disk that is not in use turns, `back` ops before the last one; says which op.
    fn damage(disk: &Self::Disk, back: u64, bit: u64) -> Option<Op>;
    /// Something on a disk that is not in use is not what was written there; says what, if there was any.
    fn harm(disk: &Self::Disk, how: Harm, back: u64, at: u64) -> Option<Harmed>;
    /// The op that another sector than its own would hit, where `back` and `at` say which.
    fn hit(disk: &Self::Disk, back: u64, at: u64) -> Option<Op>;
    /// How many reads got a bit that had turned, and how many what lies elsewhere, since the power came.
    fn misreads(disk: &Self::Disk) -> [u64; 2];
    /// The disk fails at the n-th change from now on, or the n-th read.
    fn fail(disk: &Self::Disk, n: u64, how: Failure);

    /// The replica; `None` while its log is being repaired.
    fn replica(&self) -> Option<&Replica>;
    /// An operator wants the members changed.
    ///
    /// # Errors
    /// Why that is not taken up here, now.
    fn change(&mut self, now_ms: u64, change: Change) -> Result<(), ChangeRefused>;
    /// Looks through the whole log; says whether something of it is damaged, and has it repaired then.
    ///
    /// # Errors
    /// The host cannot go on.
    fn scrub(&mut self, now_ms: u64) -> Result<bool, Stopped>;
    /// Ops that are put back since this was asked last, also where that fails.
    fn repaired(&mut self) -> Vec<(Op, Identity)>;
    /// Something happened to the replica.
    ///
    /// # Errors
    /// The host cannot go on.
    fn step(&mut self, now_ms: u64, input: Input) -> Result<(), Stopped>;
    /// The wall clock was looked at.
    ///
    /// # Errors
    /// The host cannot go on.
    fn clock(&mut self, now_ms: u64, wall_us: i64) -> Result<(), Stopped>;
    /// The disk does the next thing that it was told to.
    ///
    /// # Errors
    /// The host cannot go on.
    fn work(&mut self, now_ms: u64) -> Result<Work, Stopped>;
    /// Whether there is such a thing.
    fn has_work(&self) -> bool;
    /// A client's command comes in; false where it cannot be decided here.
    ///
    /// # Errors
    /// The host cannot go on.
    fn submit(
        &mut self,
        now_us: i64,
        id: u64,
        command: &<Self::Load as Workload>::Command,
    ) -> Result<bool, Stopped>;
    /// What was submitted becomes an op.
    ///
    /// # Errors
    /// The host cannot go on.
    fn seal(&mut self, now_ms: u64) -> Result<(), Stopped>;
    /// Messages to be sent.
    fn sent(&mut self) -> Vec<Envelope>;
    /// Answers to commands, by their ids.
    fn replies(&mut self) -> Vec<(u64, Reply<<Self::Load as Workload>::Answer>)>;
    /// What was noticed of others.
    fn notices(&mut self) -> Vec<Notice>;
    /// Headers of the ops that were committed since this was asked last.
    fn committed(&mut self) -> Vec<Header>;
    /// A follower reads on behind its place, so many events at most. `anew`: it comes from elsewhere.
    ///
    /// # Errors
    /// It cannot be read.
    fn follow(
        &mut self,
        follower: u8,
        behind: Option<&Self::Cursor>,
        anew: bool,
        events: usize,
    ) -> Result<Told<Self::Cursor>, Stopped>;
    /// What is kept that has a limit: its name, how much of it there is, and the limit.
    fn held(&self, look: &mut dyn FnMut(&'static str, u64, u64));
    /// A hash of the state that all committed ops led to.
    fn state(&self) -> [u8; 32];
    /// Everything that readers are told, in order: one entry each.
    ///
    /// # Errors
    /// It cannot be read.
    fn content(&self) -> Result<Vec<String>, Stopped>;
}

/// What clients do, and whether the answers can be.
pub trait Workload: Sized {
    /// What a client asks.
    type Command: Clone;
    /// What it is answered.
    type Answer;

    /// Draws what follows from the seed.
    fn new(random: Prng) -> Self;
    /// What a client asks next. `number` is the command's.
    fn next(&mut self, number: u64) -> Self::Command;
    /// The answer to a command, by its number, that was first asked at `asked_us` and answered at `now_us`; says whether it is one to what
    /// had been carried out before.
    fn answered(
        &mut self,
        asked: (u64, &Self::Command),
        asked_us: u64,
        now_us: u64,
        answer: Self::Answer,
    ) -> bool;
    /// Whether all answers fit what readers are told in the end, and so does what followers were told: by what they follow,
    /// everything or a part of it.
    ///
    /// # Errors
    /// The invariant that does not hold, and how.
    fn check(
        &self,
        content: &[String],
        followed: &[Vec<String>],
    ) -> Result<(), (&'static str, String)>;
}
