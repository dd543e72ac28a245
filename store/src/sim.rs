//! The store under simulation: the production engine, kernel, log and recovery on a disk in memory.
//!
//! Nothing here stands in for anything of the store. What is simulated is what lies outside of it: the disk's
//! surface, the clock, chance, the network.

pub mod command;
mod damage;
mod load;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use kimberlite_consensus::{
    Envelope, Header, Input, Notice, Op, Recovered, Replica, Superblock,
    prng::Prng,
    sim::{Host, Mutant, Reply, Stopped, Work},
};
use sha2::{Digest, Sha256};

use crate::{
    chance,
    checkpoint::Due,
    disk::{
        Disk,
        simulated::{Fault, SimulatedDisk},
    },
    fragment::RecordReader,
    kernel::{IdState, Prepared, PreparedAppend, PreparedCommand, Refusal},
    log::{Log, recovery},
    node::{
        Files, SYSTEM,
        engine::{Done, Engine},
        machine::{Answer, Machine},
    },
    opening, resolve,
    tenant::TenantShared,
};
use load::{Command, Load};

const CLUSTER: [u8; 16] = [5; 16];
const TENANT: [u8; 16] = [9; 16];
const LOG_ID: [u8; 16] = [7; 16];
const SEGMENT_BYTES: u64 = 64 << 10;
/// Checkpoints come often enough to matter.
const DUE: Due = Due { records: 700, bytes: 1 << 30 };

/// What survives a crash.
#[derive(Debug)]
pub(crate) struct SimDisk(Arc<SimulatedDisk>);

/// A replica with its store.
#[derive(Debug)]
pub(crate) struct SimHost {
    engine: Engine<u64>,
    tenant: Arc<TenantShared>,
}

fn stopped(error: &dyn std::error::Error) -> Stopped {
    Stopped(crate::error::chain(error))
}

impl Host for SimHost {
    type Disk = SimDisk;
    type Load = Load;

    fn format(replica: u8, incarnation: u64, mutant: Option<Mutant>) -> SimDisk {
        let disk = SimulatedDisk::new();
        let replica = u32::from(replica);
        let fresh = Superblock { replica, incarnation, ..Superblock::fresh(CLUSTER) };
        recovery::create(&*disk, fresh, SEGMENT_BYTES).expect("an empty disk in memory");
        if mutant == Some(Mutant::NoSync) {
            disk.forget_syncs();
        }
        SimDisk(disk)
    }

    fn open(
        disk: &SimDisk,
        now_ms: u64,
        replicas: u8,
        mutant: Option<Mutant>,
    ) -> Result<Self, Stopped> {
        let disk: Arc<dyn Disk> = Arc::clone(&disk.0) as Arc<dyn Disk>;
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
        let log = Log::new(
            Arc::clone(&disk),
            CLUSTER,
            SEGMENT_BYTES,
            recovery.segment,
            recovery.at,
            recovery.segments,
        )
        .map_err(|e| stopped(&e))?;
        let suffix = opened.suffix.iter().map(|u| u.header.clone()).collect();
        let tip = opened.committed;
        let superblock = recovery.superblock;
        let nonce = chance::random();
        let recovered = Recovered { superblock, replicas, tip, suffix, nonce };
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
        Ok(Self { engine, tenant })
    }

    fn crash(disk: &mut SimDisk, survives: &mut dyn FnMut() -> bool) {
        disk.0 = disk.0.crashed(survives);
    }

    fn cut_power(disk: &SimDisk, n: u64) {
        disk.0.fail(n, Fault::Power);
    }

    fn damage(disk: &SimDisk, back: u64, bit: u64) -> Option<Op> {
        let frames = damage::frames(&*disk.0).ok()?;
        let (path, op, at, length) = frames.iter().rev().nth(back as usize)?;
        let bit = bit % (length * 8);
        disk.0.flip(path, (at + bit / 8) as usize, (bit % 8) as u8);
        Some(*op)
    }

    fn replica(&self) -> &Replica {
        self.engine.machine.replica()
    }

    fn step(&mut self, now_ms: u64, input: Input) -> Result<(), Stopped> {
        self.engine.step(now_ms, input).map_err(|e| stopped(&e))
    }

    fn work(&mut self, now_ms: u64) -> Result<Work, Stopped> {
        Ok(match self.engine.work(now_ms).map_err(|e| stopped(&e))? {
            Done::Nothing => Work::Nothing,
            Done::Written { op, identity, .. } => Work::Written(op, identity),
            Done::Superblock(superblock) => Work::Superblock(superblock),
            Done::Truncated(after) => Work::Truncated(after),
            Done::Refused => Work::Refused,
        })
    }

    fn has_work(&self) -> bool {
        self.engine.has_work()
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
                let (prepared, seen_at) =
                    resolve::append(&self.tenant, append).map_err(|e| stopped(&e))?;
                (PreparedCommand::Append(prepared), seen_at)
            }
            Command::Delete(delete) => {
                let (prepared, seen_at) =
                    resolve::delete(&self.tenant, delete).map_err(|e| stopped(&e))?;
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

    fn seal(&mut self, now_ms: u64) -> Result<(), Stopped> {
        self.engine.seal(now_ms).map_err(|e| stopped(&e))
    }

    fn sent(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.engine.sent)
    }

    fn replies(&mut self) -> Vec<(u64, Reply<Answer>)> {
        let reply = |answer| match answer {
            None => Reply::Lost,
            Some(Answer::Refused(Refusal::Stale { .. })) => Reply::Again,
            Some(answer) => Reply::Answer(answer),
        };
        self.engine.answers.drain(..).map(|(id, answer)| (id, reply(answer))).collect()
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.engine.notices)
    }

    fn committed(&mut self) -> Vec<Header> {
        std::mem::take(&mut self.engine.committed)
    }

    fn state(&self) -> [u8; 32] {
        let index = self.tenant.index.read();
        let mut hash = Sha256::new();
        hash.update(index.count.to_le_bytes());
        hash.update(index.chain_head.0);
        hash.update(index.generation.to_le_bytes());
        hash.finalize().into()
    }

    fn content(&self) -> Result<Vec<String>, Stopped> {
        let count = self.tenant.index.read().count;
        let mut reader = RecordReader::sequential();
        let mut content = Vec::new();
        for position in 0..count {
            let event = reader.event(&self.tenant, position).map_err(|e| stopped(&e))?;
            content.push(match event {
                Some(e) => {
                    let data = e.data.unwrap_or_default();
                    let data = String::from_utf8_lossy(&data).into_owned();
                    let at = e.time.micros();
                    format!("{} {} {} {} {at}", e.stream, e.version.get(), e.id.simple(), data)
                }
                None => self.deletion(position).map_err(|e| stopped(&e))?,
            });
        }
        Ok(content)
    }
}

impl SimHost {
    /// A record that is no event is the deletion of a stream.
    fn deletion(&self, position: u64) -> Result<String, crate::error::ReadError> {
        let missing = crate::error::ReadError::NoRecord;
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
