//! Random commands against a naive model: the same answers, whatever is in flight, abandoned or restarted.

mod random;
mod rows;
mod signed;

use std::{collections::HashSet, sync::Arc};

use kimberlite_consensus::{Op, Recovered, Replica, Superblock};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{Answer, Machine, Sealed};
use crate::{
    append::{
        Actual, Append, Condition, DeleteStream, Expected, FailedCondition, NewEvent, Place,
        Rejection, StreamAppend,
    },
    checkpoint::{Behind, Checkpoints, Due},
    disk::{Disk, simulated::SimulatedDisk},
    fragment::RecordReader,
    kernel::{Prepared, PreparedCommand, Refusal},
    log::{Log, recovery},
    node::{SYSTEM, Tenants, apply},
    opening::recover,
    resolve,
    tenant::TenantShared,
    words::{Position, StreamName, TenantName, Version},
};
use signed::Signatures;

/// One event as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    stream: usize,
    version: u64,
    id: Option<Uuid>,
    kind: String,
    tags: Vec<String>,
    data: String,
}

/// A record: an event, a stream's deletion, the table, or a row of it and what it has.
#[derive(Clone, Debug, PartialEq)]
enum Record {
    Event(Event),
    Deleted(usize),
    Table,
    Row(i64, Option<i64>),
}

/// What one stream was answered: its number, first and last version, first and last position.
type Span = (usize, u64, u64, u64, u64);

/// What was answered, without times and hashes.
#[derive(Clone, Debug, PartialEq)]
enum Expectation {
    Appended(Vec<Span>, bool),
    Written(u64),
    Refused(Rejection),
}

#[derive(Clone, Debug)]
enum Command {
    Append(Append),
    Delete(DeleteStream),
    Row(rows::RowCommand),
}

/// The whole log, looked through from the start for every question.
#[derive(Clone, Debug, Default)]
struct Model {
    records: Vec<Record>,
    keys: Vec<(String, [u8; 32], Vec<Span>)>,
}

fn number(stream: &StreamName) -> usize {
    stream.as_str()[1..].parse().unwrap()
}

impl Model {
    fn head(&self, stream: usize) -> Option<(u64, bool)> {
        let mut head = None;
        for record in &self.records {
            match record {
                Record::Event(e) if e.stream == stream => head = Some((e.version, false)),
                Record::Deleted(s) if *s == stream => head = head.map(|(v, _)| (v, true)),
                Record::Event(_) | Record::Deleted(_) | Record::Table | Record::Row(..) => {}
            }
        }
        head
    }

    fn find(&self, id: Uuid) -> Option<u64> {
        let is = |r: &Record| matches!(r, Record::Event(e) if e.id == Some(id));
        self.records.iter().position(is).map(|p| p as u64)
    }

    fn check(
        &self,
        place: Place,
        stream: &StreamName,
        expected: Expected,
        recreate: bool,
    ) -> Option<FailedCondition> {
        let version = |v| Version::new(v).unwrap();
        let actual = match self.head(number(stream)) {
            None => Actual::Absent,
            Some((v, true)) => Actual::Deleted(version(v)),
            Some((v, false)) => Actual::Version(version(v)),
        };
        let live = matches!(actual, Actual::Version(_));
        let holds = match expected {
            Expected::Any => true,
            Expected::None => !live,
            Expected::Exists => live,
            Expected::Version(v) => {
                actual == Actual::Version(v) || (recreate && actual == Actual::Deleted(v))
            }
        };
        let stream = stream.clone();
        (!holds).then_some(FailedCondition::Stream { place, stream, expected, actual })
    }

    fn run(&mut self, command: &Command) -> Expectation {
        match command {
            Command::Append(append) => match self.append(append) {
                Ok((spans, replayed)) => Expectation::Appended(spans, replayed),
                Err(rejection) => Expectation::Refused(rejection),
            },
            Command::Delete(delete) => match self.delete(delete) {
                Ok(position) => Expectation::Written(position),
                Err(rejection) => Expectation::Refused(rejection),
            },
            Command::Row(row) => Expectation::Written(self.change(*row)),
        }
    }

    fn delete(&mut self, delete: &DeleteStream) -> Result<u64, Rejection> {
        let stream = number(&delete.stream);
        match self.head(stream) {
            None => return Err(Rejection::StreamUnknown(delete.stream.clone())),
            Some((_, true)) => return Err(Rejection::StreamDeleted(delete.stream.clone())),
            Some(_) => {}
        }
        if let Some(failed) = self.check(Place::Append(0), &delete.stream, delete.expected, false) {
            return Err(Rejection::ConditionsFailed(vec![failed]));
        }
        self.records.push(Record::Deleted(stream));
        Ok(self.records.len() as u64 - 1)
    }

    fn append(&mut self, append: &Append) -> Result<(Vec<Span>, bool), Rejection> {
        if let Some(key) = &append.idempotency
            && let Some((_, digest, spans)) = self.keys.iter().find(|(k, ..)| *k == key.key)
        {
            if *digest != key.request_digest {
                return Err(Rejection::IdempotencyMismatch);
            }
            return Ok((spans.clone(), true));
        }
        if let Some(replay) = self.ids(append)? {
            return Ok((replay, true));
        }
        for condition in &append.conditions {
            if let Condition::NoMatch { after: Some(position), .. } = condition
                && position.get() >= self.records.len() as u64
            {
                return Err(Rejection::Diverged { position: *position });
            }
        }
        let mut failed = Vec::new();
        for (i, a) in append.appends.iter().enumerate() {
            if self.head(number(&a.stream)).is_some_and(|h| h.1) && !a.recreate {
                return Err(Rejection::StreamDeleted(a.stream.clone()));
            }
            failed.extend(self.check(Place::Append(i), &a.stream, a.expected, a.recreate));
        }
        for (i, condition) in append.conditions.iter().enumerate() {
            let place = Place::Condition(i);
            match condition {
                Condition::Stream { stream, expected } => {
                    failed.extend(self.check(place, stream, *expected, false));
                }
                Condition::NoMatch { items, after } => {
                    let hit = self.records.iter().enumerate().position(|(p, r)| {
                        let Record::Event(e) = r else { return false };
                        after.is_none_or(|a| p as u64 > a.get())
                            && items.iter().any(|i| {
                                (i.types.is_empty() || i.types.iter().any(|t| t.as_str() == e.kind))
                                    && i.tags.iter().all(|t| e.tags.iter().any(|x| x == t.as_str()))
                            })
                    });
                    failed.extend(hit.map(|p| FailedCondition::Match {
                        place,
                        position: Position::new(p as u64).unwrap(),
                    }));
                }
            }
        }
        if !failed.is_empty() {
            return Err(Rejection::ConditionsFailed(failed));
        }
        let spans = append.appends.iter().map(|a| self.push(a)).collect::<Vec<_>>();
        if let Some(key) = &append.idempotency {
            self.keys.push((key.key.clone(), key.request_digest, spans.clone()));
        }
        Ok((spans, false))
    }

    fn ids(&self, append: &Append) -> Result<Option<Vec<Span>>, Rejection> {
        let mut replays = Vec::new();
        let mut new = None;
        for a in &append.appends {
            let hits: Vec<Option<u64>> =
                a.events.iter().map(|e| e.id.and_then(|id| self.find(id))).collect();
            if hits.iter().all(Option::is_none) {
                new = new.or(Some(a.events[0].id));
                continue;
            }
            let conflict = |i: usize| Rejection::EventIdConflict {
                id: a.events[i].id.unwrap_or_default(),
                position: hits[i].and_then(Position::new),
            };
            let mut last = None;
            for (i, (e, hit)) in a.events.iter().zip(&hits).enumerate() {
                let Some(p) = hit else {
                    return Err(conflict(hits.iter().position(Option::is_some).unwrap()));
                };
                let Record::Event(stored) = &self.records[*p as usize] else { unreachable!() };
                let same = *stored == Event { version: stored.version, ..event(a, e) };
                if !same || last.is_some_and(|l| *p <= l) {
                    return Err(conflict(i));
                }
                last = Some(*p);
            }
            let (first, last) = (hits[0].unwrap(), last.unwrap());
            let version = |p: u64| match &self.records[p as usize] {
                Record::Event(e) => e.version,
                Record::Deleted(_) | Record::Table | Record::Row(..) => unreachable!(),
            };
            replays.push((number(&a.stream), version(first), version(last), first, last));
        }
        match (replays.is_empty(), new) {
            (true, _) => Ok(None),
            (false, None) => Ok(Some(replays)),
            // Server-made ids are not known to the model: only that there is a conflict.
            (false, Some(id)) => {
                Err(Rejection::EventIdConflict { id: id.unwrap_or_default(), position: None })
            }
        }
    }

    fn push(&mut self, append: &StreamAppend) -> Span {
        let stream = number(&append.stream);
        let first = self.head(stream).map_or(0, |(v, _)| v + 1);
        let position = self.records.len() as u64;
        for (version, e) in (first..).zip(&append.events) {
            self.records.push(Record::Event(Event { version, ..event(append, e) }));
        }
        let last = append.events.len() as u64 - 1;
        (stream, first, first + last, position, position + last)
    }
}

/// The model's event, without its version.
fn event(append: &StreamAppend, e: &NewEvent) -> Event {
    Event {
        stream: number(&append.stream),
        version: 0,
        id: e.id,
        kind: e.event_type.to_string(),
        tags: e.tags.iter().map(ToString::to_string).collect(),
        data: String::from_utf8(e.data.clone().unwrap().to_vec()).unwrap(),
    }
}

/// The real thing, driven by hand.
struct World {
    disk: Arc<SimulatedDisk>,
    tenants: Arc<Tenants>,
    tenant: Arc<TenantShared>,
    machine: Machine<u64>,
    log: Log,
    checkpoints: Checkpoints,
    /// Sealed and not yet written.
    pipeline: Vec<Sealed>,
}

const TENANT: [u8; 16] = [9; 16];

fn start(simulated: Arc<SimulatedDisk>) -> World {
    if !recovery::exists(&*simulated).unwrap() {
        let fresh = Superblock::fresh([5; 16]);
        recovery::create(&*simulated, fresh, 16 << 10).unwrap();
    }
    let disk: Arc<dyn Disk> = Arc::clone(&simulated) as Arc<dyn Disk>;
    // Checkpoints come often enough to matter.
    let due = Due { records: 7, bytes: 1 << 20 };
    let (tenants, checkpoints, recovered) = recover(&disk, due, None, &|tenants| {
        let dev = TenantName::new("dev").ok();
        for (name, reference, log_id) in [(None, SYSTEM, [5; 16]), (dev, TENANT, [7; 16])] {
            if tenants.by_reference(&reference).is_none() {
                tenants.add(Arc::new(tenants.make(name, reference, log_id)));
            }
        }
    })
    .unwrap();
    let tenant = tenants.by_reference(&TENANT).unwrap();
    assert_eq!(recovered.damage, None);
    let end = recovered.end();
    let (superblock, tip) = (recovered.superblock, recovered.tip);
    let log = Log::new(disk, superblock.cluster, 16 << 10, end, recovered.segments).unwrap();
    let mut machine = Machine::new(Replica::new(0, Recovered::alone(superblock, tip)));
    {
        let index = tenant.index.read();
        assert_eq!(index.damage, None);
        machine.add_tenant(TENANT, index.count, index.chain_head);
    }
    World { disk: simulated, tenants, tenant, machine, log, checkpoints, pipeline: Vec::new() }
}

impl World {
    fn resolve(&self, command: &Command) -> Prepared {
        let (command, seen_at) = match command {
            Command::Append(append) => {
                let (prepared, seen_at) = resolve::append(&self.tenant, append).unwrap();
                (PreparedCommand::Append(prepared), seen_at)
            }
            Command::Delete(delete) => {
                let (prepared, seen_at) = resolve::delete(&self.tenant, delete).unwrap();
                (PreparedCommand::Delete(prepared), seen_at)
            }
            Command::Row(row) => return self.work_out(*row),
        };
        Prepared { tenant: TENANT, seen_at, command, bytes: 0 }
    }

    /// Writes the oldest sealed op; returns what was answered.
    fn write(&mut self) -> Vec<(u64, Answer)> {
        let sealed = self.pipeline.remove(0);
        let written =
            self.log.append(&sealed.frame, sealed.header.op.0, sealed.header.parent).unwrap();
        let mut answers = Vec::new();
        for committed in self.machine.written(&sealed.header) {
            let (tenants, machine) = (&self.tenants, &mut self.machine);
            let records = apply(tenants, machine, &written, &committed).unwrap();
            let bytes = committed.frame.bytes().len() as u64;
            let behind = Behind { header: committed.header, written: written.clone(), bytes };
            self.checkpoints.note(tenants, records, &behind);
            answers.extend(committed.answers);
        }
        answers
    }

    /// Drops all but the first `stays` of the ops in flight; returns whose answers are void.
    fn abandon_behind(&mut self, stays: usize) -> HashSet<u64> {
        let after = Op(self.machine.commit().0 + stays as u64);
        self.pipeline.truncate(stays);
        self.machine.abandon(after).into_iter().collect()
    }

    /// Whether an answer is still to come with an op in flight.
    fn waits(&self, reply: u64) -> bool {
        self.machine.in_flight.iter().flat_map(|f| &f.answers).any(|(r, _)| *r == reply)
    }

    /// Everything that is committed, as the model would have it.
    fn records(&self) -> Vec<Record> {
        let count = self.tenant.index.read().count;
        let mut reader = RecordReader::sequential();
        (0..count)
            .map(|p| {
                let Some(e) = reader.event(&self.tenant, p).unwrap() else {
                    let view = self.tenant.view();
                    let (segment, entry) = view.entry(p).unwrap().unwrap();
                    if let Some(record) = rows::record(&mut reader, segment, &entry) {
                        return record;
                    }
                    let state = self.tenant.stream_state(entry.stream).unwrap().unwrap();
                    return Record::Deleted(number(&state.name));
                };
                Record::Event(Event {
                    stream: number(&e.stream),
                    version: e.version.get(),
                    id: Some(e.id),
                    kind: e.event_type.to_string(),
                    tags: e.tags.iter().map(ToString::to_string).collect(),
                    data: String::from_utf8(e.data.unwrap().to_vec()).unwrap(),
                })
            })
            .collect()
    }
}

fn expectation(answer: &Answer) -> Option<Expectation> {
    match answer {
        Answer::Appended { receipts, replayed, .. } => {
            let spans = receipts.iter().map(|r| {
                let (first, last) = (r.first_position.get(), r.last_position.get());
                (number(&r.stream), r.first_version.get(), r.last_version.get(), first, last)
            });
            Some(Expectation::Appended(spans.collect(), *replayed))
        }
        Answer::Written(position) => Some(Expectation::Written(*position)),
        Answer::Refused(Refusal::Rejected(rejection)) => {
            Some(Expectation::Refused(rejection.clone()))
        }
        Answer::Refused(Refusal::Stale { .. }) => None,
        Answer::Lines { .. } => unreachable!("not asked for"),
    }
}

/// Ids that the server made are not the model's business.
fn without_made_ids(records: Vec<Record>) -> Vec<Record> {
    let strip = |r| match r {
        Record::Event(e) => {
            let id = e.id.filter(|id| id.get_version_num() == 0);
            Record::Event(Event { id, ..e })
        }
        other @ (Record::Deleted(_) | Record::Table | Record::Row(..)) => other,
    };
    records.into_iter().map(strip).collect()
}

fn same(real: &Expectation, model: &Expectation) -> bool {
    use Expectation::Refused;
    match (real, model) {
        // Where the model cannot know a server-made id, the kind of refusal is compared.
        (
            Refused(Rejection::EventIdConflict { position: None, .. }),
            Refused(Rejection::EventIdConflict { position: None, .. }),
        ) => true,
        _ => real == model,
    }
}

fn diverged(answer: &Expectation) -> bool {
    matches!(answer, Expectation::Refused(Rejection::Diverged { .. }))
}

/// Runs one seed; returns how often something was abandoned, stale, restarted, replayed, refused, diverged,
/// abandoned in part, and how many roots over what was in flight the log never had.
fn run(seed: u64) -> [usize; 8] {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut world = start(SimulatedDisk::new());
    let mut signatures = Signatures::begin(&world);
    let mut counts = [0; 8];
    // The model with everything in flight, and as it was after each op that is in flight.
    let mut model = Model::default();
    let mut committed = Model::default();
    let mut sealed_models: Vec<Model> = Vec::new();
    let mut resolved: Vec<(Command, Prepared)> = Vec::new();
    let mut expected: Vec<(u64, Expectation)> = Vec::new();
    let mut answered = HashSet::new();
    let mut clock = 1_000;
    let mut next = 0;
    for _ in 0..400 {
        clock += rng.random_range(0..3);
        match rng.random_range(0..100) {
            0..35 => {
                let command = random::command(&mut rng);
                let prepared = world.resolve(&command);
                resolved.push((command, prepared));
            }
            35..75 if !resolved.is_empty() => {
                let (command, prepared) = resolved.remove(rng.random_range(0..resolved.len()));
                next += 1;
                world.machine.submit(clock, prepared, next);
                let answer = &world.machine.waiting.last().unwrap().1;
                match expectation(answer) {
                    None => {
                        counts[1] += 1;
                        let fresh = world.resolve(&command);
                        resolved.push((command, fresh));
                    }
                    Some(real) => {
                        let model_says = model.run(&command);
                        assert!(
                            same(&real, &model_says),
                            "seed {seed}: {command:?}: {real:?} / {model_says:?}"
                        );
                        counts[3] += usize::from(matches!(real, Expectation::Appended(_, true)));
                        counts[4] += usize::from(matches!(real, Expectation::Refused(_)));
                        counts[5] += usize::from(diverged(&real));
                        expected.push((next, real));
                    }
                }
            }
            75..85 => {
                let idle = world.machine.idle_answers();
                assert!(idle.is_empty() || world.pipeline.is_empty(), "answers wait");
                take(idle, &mut expected, &mut answered);
                if let Some(sealed) = world.machine.seal() {
                    world.pipeline.push(sealed);
                    sealed_models.push(model.clone());
                    signatures.look_ahead(&world);
                }
            }
            85..95 if !world.pipeline.is_empty() => {
                let answers = world.write();
                take(answers, &mut expected, &mut answered);
                committed = sealed_models.remove(0);
                let count = world.tenant.index.read().count;
                assert_eq!(count, committed.records.len() as u64, "seed {seed}");
                signatures.sign(&world);
            }
            95..98 => {
                // A view change drops a suffix of what is not committed: none of it may have been shown.
                let stays = rng.random_range(0..=world.pipeline.len());
                let void = world.abandon_behind(stays);
                assert!(void.is_disjoint(&answered), "seed {seed}: a void answer was given");
                expected.retain(|(reply, _)| !void.contains(reply));
                let waits = |(reply, _): &(u64, _)| world.waits(*reply);
                assert!(expected.iter().all(waits), "seed {seed}: answers of ops that stay, stay");
                sealed_models.truncate(stays);
                model = sealed_models.last().unwrap_or(&committed).clone();
                counts[0] += 1;
                counts[6] += usize::from(stays > 0);
            }
            98 => {
                let disk = Arc::clone(&world.disk);
                drop(world);
                world = start(disk);
                signatures.restart(&world);
                sealed_models.clear();
                resolved.clear();
                expected.clear();
                model = committed.clone();
                counts[2] += 1;
            }
            _ => {}
        }
    }
    let world = restarted(world, &committed, seed);
    signatures.restart(&world);
    counts[7] = signatures.hold(&world);
    counts
}

/// Holds a world against what was committed, before and after a start.
fn restarted(world: World, committed: &Model, seed: u64) -> World {
    assert_eq!(without_made_ids(world.records()), committed.records, "seed {seed}");
    let disk = Arc::clone(&world.disk);
    drop(world);
    let world = start(disk);
    assert_eq!(without_made_ids(world.records()), committed.records, "seed {seed}, restarted");
    world
}

fn take(
    answers: Vec<(u64, Answer)>,
    expected: &mut Vec<(u64, Expectation)>,
    answered: &mut HashSet<u64>,
) {
    for (reply, answer) in answers {
        assert!(answered.insert(reply));
        if let Some(real) = expectation(&answer) {
            let at = expected.iter().position(|(r, _)| *r == reply).expect("not abandoned");
            assert_eq!(expected.remove(at).1, real, "an answer does not change while it waits");
        }
    }
}

#[test]
fn random_commands_are_answered_as_a_naive_model_answers_them() {
    let mut totals = [0; 8];
    for seed in 0..150 {
        let counts = run(seed);
        totals.iter_mut().zip(counts).for_each(|(t, c)| *t += c);
    }
    let names = [
        "abandoned",
        "stale",
        "restarted",
        "replayed",
        "refused",
        "diverged",
        "abandoned in part",
        "a root that the log never had",
    ];
    for (name, total) in names.iter().zip(totals) {
        assert!(total > 50, "{name} came up {total} times only");
    }
}
