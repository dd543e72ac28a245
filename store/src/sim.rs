//! The store under simulation: the production engine, kernel, log and recovery on a disk in memory.
//!
//! Nothing here stands in for anything of the store. What is simulated is what lies outside of it: the disk's
//! surface, the clock, chance, the network.

pub mod command;
mod damage;
mod follow;
mod load;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use kimberlite_consensus::{
    Change, ChangeRefused, Envelope, Header, Identity, Input, Notice, Op, Recovered, Replica,
    Superblock,
    prng::Prng,
    sim::{Failure, Harm, Harmed, Host, Mutant, Reply, Stopped, Told, Work},
};
use sha2::{Digest, Sha256};

use crate::{
    append::AppendError,
    chance,
    checkpoint::Due,
    disk::{
        Disk,
        simulated::{Fault, ReadFault, SimulatedDisk},
    },
    error::ReadError,
    fragment::RecordReader,
    kernel::{IdState, Prepared, PreparedAppend, PreparedCommand, Refusal},
    log::{Log, holes, recovery},
    node::{
        Files, SYSTEM,
        engine::{Done, Engine},
        machine::{Answer, Machine},
        mend::{Mended, Mending},
    },
    opening,
    read::Cursor,
    resolve,
    tenant::TenantShared,
};
use follow::{Asks, Followings};
use load::{Command, Load};

const CLUSTER: [u8; 16] = [5; 16];
const TENANT: [u8; 16] = [9; 16];
const LOG_ID: [u8; 16] = [7; 16];
const SEGMENT_BYTES: u64 = 64 << 10;
/// Windows are small enough to forget.
const WINDOW_RECORDS: u64 = 256;
/// Checkpoints come often enough to matter.
const DUE: Due = Due { records: 700, bytes: 1 << 30 };

/// What survives a crash.
#[derive(Debug)]
pub(crate) struct SimDisk(Arc<SimulatedDisk>);

/// A replica with its store.
#[derive(Debug)]
pub(crate) struct SimHost {
    disk: Arc<SimulatedDisk>,
    /// Members, and all replicas.
    size: (u8, u8),
    mutant: Option<Mutant>,
    state: State,
    repaired: Vec<(Op, Identity)>,
}

#[derive(Debug)]
enum State {
    Runs(Box<Runs>),
    /// Its log has a hole.
    Mends(Box<Mending>),
}

/// A replica that takes part.
#[derive(Debug)]
struct Runs {
    engine: Engine<u64>,
    tenant: Arc<TenantShared>,
    followings: Followings,
}

fn stopped(error: &dyn std::error::Error) -> Stopped {
    Stopped(crate::error::chain(error))
}

impl Host for SimHost {
    type Disk = SimDisk;
    type Load = Load;
    type Cursor = Cursor;

    fn format(replica: u8, incarnation: u64, mutant: Option<Mutant>) -> SimDisk {
        let disk = SimulatedDisk::new();
        let replica = u32::from(replica);
        let fresh = Superblock { replica, incarnation, ..Superblock::fresh(CLUSTER) };
        recovery::create(&*disk, fresh, SEGMENT_BYTES).expect("an empty disk in memory");
        if mutant == Some(Mutant::NoSync) {
            disk.forget_syncs();
        }
        if mutant == Some(Mutant::GoesOn) {
            disk.hide_failed_syncs();
        }
        SimDisk(disk)
    }

    fn open(
        disk: &SimDisk,
        now_ms: u64,
        members: u8,
        replicas: u8,
        mutant: Option<Mutant>,
    ) -> Result<Self, Stopped> {
        let disk = Arc::clone(&disk.0);
        let state = State::start(&disk, now_ms, (members, replicas), mutant)?;
        let size = (members, replicas);
        Ok(Self { disk, size, mutant, state, repaired: Vec::new() })
    }

    fn crash(disk: &mut SimDisk, survives: &mut dyn FnMut() -> bool) {
        disk.0 = disk.0.crashed(survives);
    }

    fn fail(disk: &SimDisk, n: u64, how: Failure) {
        match how {
            Failure::Power => disk.0.fail(n, Fault::Power),
            Failure::Change => disk.0.fail(n, Fault::Error),
            Failure::Half => disk.0.fail(n, Fault::Torn),
            Failure::Room => disk.0.fail(n, Fault::Full),
            Failure::Read => disk.0.fail_read(n, ReadFault::Error),
            Failure::Turned => disk.0.fail_read(n, ReadFault::Turned),
            Failure::Astray => disk.0.fail_read(n, ReadFault::Astray),
        }
    }

    fn op(disk: &SimDisk, back: u64) -> Option<Op> {
        let frames = damage::frames(&*disk.0).ok()?;
        frames.iter().rev().nth(back as usize).map(|(_, op, ..)| *op)
    }

    fn harm(disk: &SimDisk, how: Harm, back: u64, at: u64) -> Option<Harmed> {
        damage::harm(&disk.0, how, back, at)
    }

    fn hit(disk: &SimDisk, back: u64, at: u64) -> Option<Op> {
        damage::hit(&disk.0, back, at)
    }

    fn misreads(disk: &SimDisk) -> [u64; 2] {
        disk.0.misreads()
    }

    fn damage(disk: &SimDisk, back: u64, bit: u64) -> Option<Op> {
        let frames = damage::frames(&*disk.0).ok()?;
        let (path, op, at, length) = frames.iter().rev().nth(back as usize)?;
        let bit = bit % (length * 8);
        disk.0.flip(path, (at + bit / 8) as usize, (bit % 8) as u8);
        Some(*op)
    }

    fn replica(&self) -> Option<&Replica> {
        self.runs().map(|r| r.engine.machine.replica())
    }

    fn step(&mut self, now_ms: u64, input: Input) -> Result<(), Stopped> {
        let mending = match &mut self.state {
            State::Runs(runs) => return runs.engine.step(now_ms, input).map_err(|e| stopped(&e)),
            State::Mends(mending) => mending,
        };
        let mended = mending.step(now_ms, input);
        self.repaired.append(&mut mending.repaired);
        let next = match mended.map_err(|e| stopped(&e))? {
            Mended::NotYet => return Ok(()),
            Mended::Whole => State::mend(&self.disk, now_ms, self.size, self.mutant)?,
            Mended::CutOff => None,
        };
        self.state = match next {
            Some(mending) => State::Mends(Box::new(mending)),
            None => State::start(&self.disk, now_ms, self.size, self.mutant)?,
        };
        Ok(())
    }

    fn change(&mut self, now_ms: u64, change: Change) -> Result<(), ChangeRefused> {
        match &mut self.state {
            State::Runs(runs) => runs.engine.change(now_ms, change),
            State::Mends(_) => Err(ChangeRefused::NotLeading),
        }
    }

    fn clock(&mut self, now_ms: u64, wall_us: i64) -> Result<(), Stopped> {
        match &mut self.state {
            State::Runs(runs) => runs.engine.clock(now_ms, wall_us).map_err(|e| stopped(&e)),
            State::Mends(_) => Ok(()),
        }
    }

    fn scrub(&mut self, now_ms: u64) -> Result<bool, Stopped> {
        if self.mutant == Some(Mutant::NoScrub) {
            return Ok(false);
        }
        let Some(mending) = State::mend(&self.disk, now_ms, self.size, self.mutant)? else {
            return Ok(false);
        };
        self.state = State::Mends(Box::new(mending));
        Ok(true)
    }

    fn repaired(&mut self) -> Vec<(Op, Identity)> {
        std::mem::take(&mut self.repaired)
    }

    fn work(&mut self, now_ms: u64) -> Result<Work, Stopped> {
        let State::Runs(runs) = &mut self.state else { return Ok(Work::Nothing) };
        Ok(match runs.engine.work(now_ms).map_err(|e| stopped(&e))? {
            Done::Nothing => Work::Nothing,
            Done::Written { op, identity, .. } => Work::Written(op, identity),
            Done::Superblock(superblock) => Work::Superblock(superblock),
            Done::Truncated(after) => Work::Truncated(after),
            Done::Refused => Work::Refused,
        })
    }

    fn has_work(&self) -> bool {
        self.runs().is_some_and(|r| r.engine.has_work())
    }

    fn submit(&mut self, now_us: i64, id: u64, command: &Command) -> Result<bool, Stopped> {
        match &mut self.state {
            State::Runs(runs) => runs.submit(now_us, id, command),
            State::Mends(_) => Ok(false),
        }
    }

    fn seal(&mut self, now_ms: u64) -> Result<(), Stopped> {
        match &mut self.state {
            State::Runs(runs) => runs.engine.seal(now_ms).map_err(|e| stopped(&e)),
            State::Mends(_) => Ok(()),
        }
    }

    fn sent(&mut self) -> Vec<Envelope> {
        std::mem::take(match &mut self.state {
            State::Runs(runs) => &mut runs.engine.sent,
            State::Mends(mending) => &mut mending.sent,
        })
    }

    fn replies(&mut self) -> Vec<(u64, Reply<Answer>)> {
        let reply = |answer| match answer {
            None => Reply::Lost,
            Some(Answer::Refused(Refusal::Stale { .. })) => Reply::Again,
            Some(answer) => Reply::Answer(answer),
        };
        let State::Runs(runs) = &mut self.state else { return Vec::new() };
        runs.engine.answers.drain(..).map(|(id, answer)| (id, reply(answer))).collect()
    }

    fn notices(&mut self) -> Vec<Notice> {
        let State::Runs(runs) = &mut self.state else { return Vec::new() };
        std::mem::take(&mut runs.engine.notices)
    }

    fn committed(&mut self) -> Vec<Header> {
        let State::Runs(runs) = &mut self.state else { return Vec::new() };
        std::mem::take(&mut runs.engine.committed)
    }

    fn follow(
        &mut self,
        follower: u8,
        behind: Option<&Cursor>,
        anew: bool,
        events: usize,
    ) -> Result<Told<Cursor>, Stopped> {
        let State::Runs(runs) = &mut self.state else { return Ok(Told::Behind) };
        let late = self.mutant == Some(Mutant::ResumesLate);
        let asks = Asks { follower, behind, anew, events, late };
        let told = runs.followings.follow(&runs.tenant, &asks);
        told.map_err(|e| runs.read_fails(&e))
    }

    fn held(&self, look: &mut dyn FnMut(&'static str, u64, u64)) {
        if let Some(runs) = self.runs() {
            runs.engine.held(WINDOW_RECORDS, look);
        }
    }

    fn state(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        if let Some(runs) = self.runs() {
            let index = runs.tenant.index.read();
            hash.update(index.count.to_le_bytes());
            hash.update(index.chain_head.0);
            hash.update(index.generation.to_le_bytes());
        }
        hash.finalize().into()
    }

    fn content(&self) -> Result<Vec<String>, Stopped> {
        let runs = self.runs().ok_or_else(|| Stopped("it is not whole".into()))?;
        let count = runs.tenant.index.read().count;
        let mut reader = RecordReader::sequential();
        let mut content = Vec::new();
        for position in 0..count {
            let event = reader.event(&runs.tenant, position).map_err(|e| runs.read_fails(&e))?;
            content.push(match event {
                Some(e) => {
                    let data = e.data.unwrap_or_default();
                    let data = String::from_utf8_lossy(&data).into_owned();
                    let at = e.time.micros();
                    format!("{} {} {} {} {at}", e.stream, e.version.get(), e.id.simple(), data)
                }
                None => runs.deletion(position).map_err(|e| runs.read_fails(&e))?,
            });
        }
        Ok(content)
    }
}

impl SimHost {
    fn runs(&self) -> Option<&Runs> {
        match &self.state {
            State::Runs(runs) => Some(runs),
            State::Mends(_) => None,
        }
    }
}

impl State {
    /// What a replica does with what its disk holds.
    fn start(
        disk: &Arc<SimulatedDisk>,
        now_ms: u64,
        size: (u8, u8),
        mutant: Option<Mutant>,
    ) -> Result<Self, Stopped> {
        match Runs::open(disk, now_ms, size, mutant) {
            Ok(runs) => Ok(Self::Runs(Box::new(runs))),
            Err(Stopped(why)) => match Self::mend(disk, now_ms, size, mutant)? {
                Some(mending) => Ok(Self::Mends(Box::new(mending))),
                None => Err(Stopped(why)),
            },
        }
    }

    /// The first hole of the log, and how it is filled.
    fn mend(
        disk: &Arc<SimulatedDisk>,
        now_ms: u64,
        size: (u8, u8),
        mutant: Option<Mutant>,
    ) -> Result<Option<Mending>, Stopped> {
        let disk: Arc<dyn Disk> = Arc::clone(disk) as Arc<dyn Disk>;
        let (_, replicas) = size;
        if replicas == 1 {
            return Ok(None);
        }
        let hole = holes::first(&*disk, CLUSTER).map_err(|e| stopped(&e))?;
        let Some(hole) = hole else { return Ok(None) };
        let superblock = recovery::open_superblock(&*disk).map_err(|e| stopped(&e))?;
        let run = (now_ms, chance::random());
        let mut mending = Mending::new(disk, superblock, run, replicas, hole);
        mending.plant(mutant);
        Ok(Some(mending))
    }
}

impl Runs {
    fn open(
        disk: &Arc<SimulatedDisk>,
        now_ms: u64,
        size: (u8, u8),
        mutant: Option<Mutant>,
    ) -> Result<Self, Stopped> {
        let disk: Arc<dyn Disk> = Arc::clone(disk) as Arc<dyn Disk>;
        let (members, replicas) = size;
        let holds = if replicas == 1 { 0 } else { kimberlite_consensus::limits::PIPELINE_MAX };
        let opened = opening::open(
            &disk,
            DUE,
            None,
            &|tenants| {
                for (reference, log_id) in [(SYSTEM, CLUSTER), (TENANT, LOG_ID)] {
                    if tenants.by_reference(&reference).is_none() {
                        tenants.add(Arc::new(tenants.make(None, reference, log_id)));
                    }
                }
            },
            holds as usize,
        )
        .map_err(|e| stopped(&e))?;
        let recovery = opened.recovery;
        if let Some(damage) = recovery.damage {
            return Err(stopped(&damage));
        }
        if opened.damaged {
            return Err(Stopped("an op of the log is damaged".into()));
        }
        let (end, segments) = (recovery.end(), recovery.segments);
        let log = Log::new(Arc::clone(&disk), CLUSTER, SEGMENT_BYTES, end, segments)
            .map_err(|e| stopped(&e))?;
        let suffix = opened.suffix.iter().map(|u| u.header.clone()).collect();
        let tip = opened.committed;
        let superblock = recovery.superblock;
        let nonce = chance::random();
        let recovered =
            Recovered { superblock, replicas: members, slots: replicas, tip, suffix, nonce };
        let mut replica = Replica::new(now_ms, recovered);
        if let Some(mutant) = mutant {
            replica.plant(mutant);
        }
        let files = Files { disk, log, superblock: recovery.superblock_file };
        let tenant = opened.tenants.by_reference(&TENANT).expect("added above");
        let mut engine = Engine::new(
            Machine::new(replica),
            files,
            opened.checkpoints,
            opened.tenants,
            opened.suffix,
        );
        engine.mutant = mutant;
        let never = mutant == Some(Mutant::NeverForgets);
        engine.machine.window_records = if never { u64::MAX } else { WINDOW_RECORDS };
        Ok(Self { engine, tenant, followings: Followings::default() })
    }

    fn submit(&mut self, now_us: i64, id: u64, command: &Command) -> Result<bool, Stopped> {
        let now_us = if self.engine.mutant == Some(Mutant::Chance) {
            now_us + (RandomState::new().hash_one(id) % 1000).cast_signed()
        } else {
            now_us
        };
        chance::set_now(now_us);
        if !self.engine.leads() {
            return Ok(false);
        }
        if self.engine.mutant == Some(Mutant::ForgetsCommands) && id % 1000 == 7 {
            return Ok(true);
        }
        let (command, seen_at) = match command {
            Command::Append(append) => {
                let resolved = resolve::append(&self.tenant, append);
                let (prepared, seen_at) = resolved.map_err(|e| match e {
                    AppendError::Read(e) => self.read_fails(&e),
                    e => stopped(&e),
                })?;
                (PreparedCommand::Append(prepared), seen_at)
            }
            Command::Delete(delete) => {
                let resolved = resolve::delete(&self.tenant, delete);
                let (prepared, seen_at) = resolved.map_err(|e| self.read_fails(&e))?;
                (PreparedCommand::Delete(prepared), seen_at)
            }
        };
        let command = match command {
            PreparedCommand::Append(append) if self.engine.mutant == Some(Mutant::ForgetsIds) => {
                PreparedCommand::Append(forget_ids(append))
            }
            other => other,
        };
        let prepared = Prepared { tenant: TENANT, seen_at, command, bytes: 0 };
        self.engine.submit(now_us, prepared, id);
        Ok(true)
    }

    /// What is damaged is noted, as the store does it.
    fn read_fails(&self, error: &ReadError) -> Stopped {
        if let ReadError::Damaged(damage) = error {
            self.tenant.damaged(damage);
        }
        stopped(error)
    }

    /// A record that is no event is the deletion of a stream.
    fn deletion(&self, position: u64) -> Result<String, ReadError> {
        let missing = ReadError::NoRecord;
        let view = self.tenant.view();
        let Some((_, entry)) = view.entry(position)? else { return Err(missing) };
        let state = self.tenant.stream_state(entry.stream)?;
        Ok(format!("{} deleted", state.ok_or(missing)?.name))
    }
}

/// As if nothing of it were known.
fn forget_ids(mut append: PreparedAppend) -> PreparedAppend {
    append.appends.iter_mut().for_each(|a| a.ids = IdState::New);
    if let Some(key) = &mut append.idempotency {
        key.hit = None;
    }
    append
}

/// From here on this thread draws the same each time.
fn begin(seed: u64) {
    chance::simulate(Prng::new(seed).next());
}
