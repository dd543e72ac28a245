//! The kernel: decides what a command does. Pure: no clock, randomness, files, threads or hash iteration.
//!
//! [`decide`] judges a [`Prepared`] command against its footprint (what `resolve` found at a committed position)
//! and the [`TenantWindow`] (what was written since, committed or in flight). It answers with effects, each of which
//! becomes one record, or with a refusal. The contract stands in `specs/decisions/0001-kernel-contract.md`.

#![warn(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::float_arithmetic,
    clippy::iter_over_hash_type,
    clippy::wildcard_enum_match_arm
)]

mod changes;
mod command;
mod window;

pub(crate) use changes::decide_change;

pub(crate) use command::{
    IdState, IdempotencyHit, NameUse, Prepared, PreparedAppend, PreparedChange, PreparedChanging,
    PreparedCommand, PreparedCondition, PreparedDelete, PreparedEvent, PreparedFork,
    PreparedIdempotency, PreparedStamp, PreparedTenant, Rests, RowDigest, Seen, StreamUse,
};
pub(crate) use window::{Recent, TenantWindow};

use crate::{
    append::{Actual, Expected, FailedCondition, MatchItem, Place, Receipt, Rejection},
    index::StreamHead,
    limits::{IDEMPOTENCY_WINDOW_US, TYPES_MAX},
    record::{Payloads, RecordKind},
    words::{Actor, EventType, Position, Reference, StreamName, Tag, Version},
};

/// Why a command is not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A deterministic refusal.
    Rejected(Rejection),
    /// The footprint is too old to decide on: resolve again once this many records are committed.
    Stale { until: u64 },
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// What a command does.
#[derive(Debug)]
pub(crate) enum Decision<'a> {
    /// These records are written, in order.
    Write(Vec<Effect<'a>>),
    /// Nothing is written: this had been done before.
    Replay(Vec<Receipt>),
}

/// One record to be. Its position, time and hash follow from where it lands.
#[derive(Debug)]
pub(crate) struct Effect<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) id: [u8; 16],
    pub(crate) version: u64,
    pub(crate) stream: Option<NameEffect<'a, StreamName>>,
    pub(crate) event_type: Option<NameEffect<'a, EventType>>,
    pub(crate) actor: NameEffect<'a, Actor>,
    pub(crate) payloads: &'a Payloads,
    pub(crate) idempotency: Option<&'a PreparedIdempotency>,
    /// The stream's state after it; only with the last event of several.
    pub(crate) head: Option<StreamHead>,
    /// The client chose the id.
    pub(crate) client_id: bool,
    pub(crate) tags: &'a [Tag],
    /// The row that it changes.
    pub(crate) row: Option<(Reference, RowDigest)>,
}

/// A name in an effect: its reference, and its payload where this record is the first to use it.
#[derive(Debug)]
pub(crate) struct NameEffect<'a, N> {
    pub(crate) name: &'a N,
    pub(crate) reference: Reference,
    pub(crate) introduced: Option<&'a Payloads>,
}

/// Decides an append. `at` is the time that its op would carry, in microseconds.
pub(crate) fn decide_append<'a>(
    window: &TenantWindow,
    seen_at: u64,
    at: i64,
    command: &'a PreparedAppend,
) -> Result<Decision<'a>, Refusal> {
    fresh(window, seen_at)?;
    let mut actor = actor_effect(window, &command.actor)?;
    if let Some(replay) = decide_idempotency(window, seen_at, at, command)? {
        return Ok(Decision::Replay(replay));
    }
    if let Some(replay) = decide_ids(window, seen_at, command)? {
        return Ok(Decision::Replay(replay));
    }
    check_boundaries(window, command)?;
    check_conditions(window, seen_at, command)?;
    let mut effects: Vec<Effect<'a>> =
        Vec::with_capacity(command.appends.iter().map(|a| a.events.len()).sum());
    let mut types_made: Vec<(&EventType, Reference)> = Vec::new();
    for append in &command.appends {
        let head = window.stream(&append.stream, append.head);
        let mut stream = stream_effect(append, head);
        let next = head.map_or(0, |h| h.version + 1);
        let visible_from = head.map_or(0, |h| if h.deleted { next } else { h.visible_from });
        let behind = next + append.events.len() as u64;
        for (version, event) in (next..).zip(&append.events) {
            let reference = stream.reference;
            let head = StreamHead { reference, version, visible_from, deleted: false };
            effects.push(Effect {
                kind: RecordKind::Event,
                id: event.id,
                version,
                stream: Some(stream.take_first()),
                event_type: Some(type_effect(window, event, &mut types_made)),
                actor: actor.take_first(),
                payloads: &event.payloads,
                idempotency: if effects.is_empty() { command.idempotency.as_ref() } else { None },
                // One command is decided at once: nobody sees what lies between.
                head: (version + 1 == behind).then_some(head),
                client_id: event.client_id,
                tags: &event.tags,
                row: None,
            });
        }
    }
    check_types(window, seen_at, command.types_seen, &types_made)?;
    Ok(Decision::Write(effects))
}

/// Decides the deletion of a stream.
pub(crate) fn decide_delete<'a>(
    window: &TenantWindow,
    seen_at: u64,
    command: &'a PreparedDelete,
) -> Result<Effect<'a>, Refusal> {
    fresh(window, seen_at)?;
    let actor = actor_effect(window, &command.actor)?;
    let head = window.stream(&command.stream, command.head);
    let Some(head) = head else {
        return Err(Rejection::StreamUnknown(command.stream.clone()).into());
    };
    if head.deleted {
        return Err(Rejection::StreamDeleted(command.stream.clone()).into());
    }
    let mut failed = Vec::new();
    check_stream(
        Place::Append(0),
        &command.stream,
        command.expected,
        Some(head),
        false,
        &mut failed,
    );
    if !failed.is_empty() {
        return Err(Rejection::ConditionsFailed(failed).into());
    }
    Ok(Effect {
        kind: RecordKind::StreamDeleted,
        id: command.id,
        version: head.version,
        stream: Some(NameEffect {
            name: &command.stream,
            reference: head.reference,
            introduced: None,
        }),
        event_type: None,
        actor,
        payloads: &command.payloads,
        idempotency: None,
        head: Some(StreamHead { deleted: true, visible_from: head.version + 1, ..head }),
        client_id: false,
        tags: &[],
        row: None,
    })
}

/// Decides the creation of a tenant; `None` where it exists.
pub(crate) fn decide_tenant<'a>(
    window: &TenantWindow,
    seen_at: u64,
    command: &'a PreparedTenant,
) -> Result<Effect<'a>, Refusal> {
    fresh(window, seen_at)?;
    // Creations are rare: each waits for what is in flight, so that two of one name cannot pass.
    settled(window, seen_at)?;
    let actor = actor_effect(window, &command.actor)?;
    Ok(plain_effect(RecordKind::TenantCreated, command.id, actor, &command.payloads))
}

/// Decides a fork: it speaks of all records that were there when it was prepared, and of no others.
pub(crate) fn decide_fork<'a>(
    window: &TenantWindow,
    seen_at: u64,
    command: &'a PreparedFork,
) -> Result<Effect<'a>, Refusal> {
    fresh(window, seen_at)?;
    settled(window, seen_at)?;
    let actor = actor_effect(window, &command.actor)?;
    Ok(plain_effect(RecordKind::LogForked, command.id, actor, &command.payloads))
}

/// Decides a time stamp: it speaks of an earlier checkpoint, so whatever came since does not matter.
pub(crate) fn decide_stamp<'a>(
    window: &TenantWindow,
    seen_at: u64,
    command: &'a PreparedStamp,
) -> Result<Effect<'a>, Refusal> {
    fresh(window, seen_at)?;
    let actor = actor_effect(window, &command.actor)?;
    Ok(plain_effect(RecordKind::CheckpointStamped, command.id, actor, &command.payloads))
}

/// A record outside of all streams.
fn plain_effect<'a>(
    kind: RecordKind,
    id: [u8; 16],
    actor: NameEffect<'a, Actor>,
    payloads: &'a Payloads,
) -> Effect<'a> {
    Effect {
        kind,
        id,
        version: 0,
        stream: None,
        event_type: None,
        actor,
        payloads,
        idempotency: None,
        head: None,
        client_id: false,
        tags: &[],
        row: None,
    }
}

/// Nothing is in flight behind what was seen.
fn settled(window: &TenantWindow, seen_at: u64) -> Result<(), Refusal> {
    if window.next() > seen_at {
        return Err(Refusal::Stale { until: window.next() });
    }
    Ok(())
}

/// A footprint older than the window cannot be judged.
fn fresh(window: &TenantWindow, seen_at: u64) -> Result<(), Refusal> {
    if seen_at < window.base() { Err(Refusal::Stale { until: window.base() }) } else { Ok(()) }
}

fn actor_effect<'a>(
    window: &TenantWindow,
    actor: &'a NameUse<Actor>,
) -> Result<NameEffect<'a, Actor>, Refusal> {
    match &actor.seen {
        Seen::Known(reference) => {
            Ok(NameEffect { name: &actor.name, reference: *reference, introduced: None })
        }
        // Keys are found by the actor's reference, so one that came up since means: look again.
        Seen::Fresh(..) if window.knows_actor(&actor.name) => {
            Err(Refusal::Stale { until: window.next() })
        }
        Seen::Fresh(reference, payloads) => {
            Ok(NameEffect { name: &actor.name, reference: *reference, introduced: Some(payloads) })
        }
    }
}

fn stream_effect(append: &StreamUse, head: Option<StreamHead>) -> NameEffect<'_, StreamName> {
    let name = &append.stream;
    match (head, &append.fresh) {
        (Some(head), _) => NameEffect { name, reference: head.reference, introduced: None },
        (None, Some((reference, payloads))) => {
            NameEffect { name, reference: *reference, introduced: Some(payloads) }
        }
        (None, None) => unreachable!("resolve prepares a name for every stream it did not find"),
    }
}

fn type_effect<'a>(
    window: &TenantWindow,
    event: &'a PreparedEvent,
    made: &mut Vec<(&'a EventType, Reference)>,
) -> NameEffect<'a, EventType> {
    let name = &event.event_type.name;
    let plain = |reference| NameEffect { name, reference, introduced: None };
    match &event.event_type.seen {
        Seen::Known(reference) => plain(*reference),
        Seen::Fresh(reference, payloads) => {
            let known = window.event_type(name);
            let known = known.or_else(|| made.iter().find(|(n, _)| *n == name).map(|(_, r)| *r));
            if let Some(known) = known {
                return plain(known);
            }
            made.push((name, *reference));
            NameEffect { name, reference: *reference, introduced: Some(payloads) }
        }
    }
}

impl<'a, N> NameEffect<'a, N> {
    /// This name for one record; later ones do not introduce it again.
    fn take_first(&mut self) -> NameEffect<'a, N> {
        let introduced = self.introduced.take();
        NameEffect { name: self.name, reference: self.reference, introduced }
    }
}

fn decide_idempotency(
    window: &TenantWindow,
    seen_at: u64,
    at: i64,
    command: &PreparedAppend,
) -> Result<Option<Vec<Receipt>>, Refusal> {
    let Some(key) = &command.idempotency else { return Ok(None) };
    if let Some(position) = window.idempotency(&key.digest)
        && position >= seen_at
    {
        return Err(Refusal::Stale { until: position + 1 });
    }
    let Some(hit) = &key.hit else { return Ok(None) };
    if at - hit.time > IDEMPOTENCY_WINDOW_US {
        return Ok(None);
    }
    if hit.request != key.request {
        return Err(Rejection::IdempotencyMismatch.into());
    }
    Ok(Some(hit.receipts.clone()))
}

fn decide_ids(
    window: &TenantWindow,
    seen_at: u64,
    command: &PreparedAppend,
) -> Result<Option<Vec<Receipt>>, Refusal> {
    for event in command.appends.iter().flat_map(|a| &a.events).filter(|e| e.client_id) {
        if let Some(position) = window.id(&event.id)
            && position >= seen_at
        {
            return Err(Refusal::Stale { until: position + 1 });
        }
    }
    let mut replays = Vec::new();
    for append in &command.appends {
        match &append.ids {
            IdState::New => {}
            IdState::Replay(receipt) => replays.push(receipt.clone()),
            IdState::Conflict { id, position } => {
                let (id, position) = (*id, *position);
                return Err(Rejection::EventIdConflict { id, position }.into());
            }
        }
    }
    if replays.is_empty() {
        return Ok(None);
    }
    if let Some(new) = command.appends.iter().find(|a| matches!(a.ids, IdState::New)) {
        let id = uuid::Uuid::from_bytes(new.events[0].id);
        return Err(Rejection::EventIdConflict { id, position: None }.into());
    }
    Ok(Some(replays))
}

/// Behind a position that the log has not reached nothing ever matches: such a boundary would guard nothing.
fn check_boundaries(window: &TenantWindow, command: &PreparedAppend) -> Result<(), Refusal> {
    for condition in &command.conditions {
        if let PreparedCondition::NoMatch { after: Some(position), .. } = condition
            && position.get() >= window.next()
        {
            return Err(Rejection::Diverged { position: *position }.into());
        }
    }
    Ok(())
}

/// Callers choose types, and each stays in memory for good.
fn check_types(
    window: &TenantWindow,
    seen_at: u64,
    seen: usize,
    made: &[(&EventType, Reference)],
) -> Result<(), Refusal> {
    if made.is_empty() {
        return Ok(());
    }
    let room = TYPES_MAX.saturating_sub(seen + window.types_since(seen_at));
    match made.get(room) {
        Some((first, _)) => Err(Rejection::TypesExhausted { event_type: (*first).clone() }.into()),
        None => Ok(()),
    }
}

fn check_conditions(
    window: &TenantWindow,
    seen_at: u64,
    command: &PreparedAppend,
) -> Result<(), Refusal> {
    let mut failed = Vec::new();
    for (i, append) in command.appends.iter().enumerate() {
        let head = window.stream(&append.stream, append.head);
        if head.is_some_and(|h| h.deleted) && !append.recreate {
            return Err(Rejection::StreamDeleted(append.stream.clone()).into());
        }
        let place = Place::Append(i);
        check_stream(place, &append.stream, append.expected, head, append.recreate, &mut failed);
    }
    for (i, condition) in command.conditions.iter().enumerate() {
        let place = Place::Condition(i);
        match condition {
            PreparedCondition::Stream { stream, expected, head } => {
                let head = window.stream(stream, *head);
                check_stream(place, stream, *expected, head, false, &mut failed);
            }
            PreparedCondition::NoMatch { items, after, hit } => {
                let since = seen_at.max(after.map_or(0, |p| p.get() + 1));
                let hit = hit.or_else(|| window.first_match(since, |r| matches(items, r)));
                if let Some(position) = hit {
                    let position = Position::new(position).expect("a position of this log");
                    failed.push(FailedCondition::Match { place, position });
                }
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Rejection::ConditionsFailed(failed).into()) }
}

/// Whether an event is one that `items` speak of.
fn matches(items: &[MatchItem], event: &Recent) -> bool {
    items.iter().any(|item| {
        (item.types.is_empty() || item.types.contains(&event.event_type))
            && item.tags.iter().all(|tag| event.tags.contains(tag))
    })
}

fn check_stream(
    place: Place,
    stream: &StreamName,
    expected: Expected,
    head: Option<StreamHead>,
    recreate: bool,
    failed: &mut Vec<FailedCondition>,
) {
    let version = |n| Version::new(n).expect("a version of this log");
    let actual = match head {
        None => Actual::Absent,
        Some(h) if h.deleted => Actual::Deleted(version(h.version)),
        Some(h) => Actual::Version(version(h.version)),
    };
    let holds = match (expected, actual) {
        (Expected::Any, _)
        | (Expected::None, Actual::Absent | Actual::Deleted(_))
        | (Expected::Exists, Actual::Version(_)) => true,
        (Expected::Version(want), Actual::Version(is)) => want == is,
        // Versions go on over a deletion, so who recreates may name the last one.
        (Expected::Version(want), Actual::Deleted(is)) => recreate && want == is,
        (Expected::None, Actual::Version(_))
        | (Expected::Exists | Expected::Version(_), Actual::Absent)
        | (Expected::Exists, Actual::Deleted(_)) => false,
    };
    if !holds {
        let stream = stream.clone();
        failed.push(FailedCondition::Stream { place, stream, expected, actual });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{record::PayloadKind, words::Hash};

    const SEEN_AT: u64 = 5;

    /// One event under a key that was used at time 1,000 with `request`.
    fn under_a_used_key(request: [u8; 32]) -> PreparedAppend {
        let known = Seen::Known(Reference([1; 16]));
        let event_type = NameUse { name: EventType::new("t").unwrap(), seen: known };
        let payloads = Payloads::name(PayloadKind::Data, "x");
        let tags = Vec::new();
        let event = PreparedEvent { id: [2; 16], client_id: false, event_type, payloads, tags };
        let stream = StreamUse {
            stream: StreamName::new("s").unwrap(),
            head: None,
            fresh: Some((Reference([3; 16]), Payloads::name(PayloadKind::StreamName, "s"))),
            expected: Expected::Any,
            recreate: false,
            ids: IdState::New,
            events: vec![event],
        };
        let hit = IdempotencyHit { request: [4; 32], time: 1_000, receipts: Vec::new() };
        let payloads = Payloads::name(PayloadKind::Idempotency, "k");
        let key = PreparedIdempotency { digest: [5; 16], request, payloads, hit: Some(hit) };
        PreparedAppend {
            actor: NameUse {
                name: Actor::new("a").unwrap(),
                seen: Seen::Known(Reference([6; 16])),
            },
            appends: vec![stream],
            conditions: Vec::new(),
            idempotency: Some(key),
            types_seen: 0,
        }
    }

    #[test]
    fn an_idempotency_key_holds_for_its_window_and_not_a_microsecond_longer() {
        assert_eq!(IDEMPOTENCY_WINDOW_US, 7 * 24 * 60 * 60 * 1_000_000, "7 days");
        let window = TenantWindow::new(SEEN_AT, Hash::default());
        let (same, other) = (under_a_used_key([4; 32]), under_a_used_key([7; 32]));
        let last = 1_000 + IDEMPOTENCY_WINDOW_US;
        for at in [1_001, last] {
            let replay = decide_append(&window, SEEN_AT, at, &same);
            assert!(matches!(replay, Ok(Decision::Replay(_))), "{at}: {replay:?}");
            let mismatch = decide_append(&window, SEEN_AT, at, &other).unwrap_err();
            assert_eq!(mismatch, Rejection::IdempotencyMismatch.into(), "{at}");
        }
        for command in [&same, &other] {
            let new = decide_append(&window, SEEN_AT, last + 1, command);
            let Ok(Decision::Write(effects)) = new else { panic!("{new:?}") };
            assert!(effects[0].idempotency.is_some(), "the key is kept anew");
        }
    }

    /// Events of new types `0`, `1`, .. of which `seen` others are known, and no key.
    fn of_new_types(numbers: std::ops::Range<u8>, seen: usize) -> PreparedAppend {
        let mut append = under_a_used_key([4; 32]);
        append.idempotency = None;
        append.types_seen = seen;
        append.appends[0].events = numbers
            .map(|n| {
                let name = EventType::new(&n.to_string()).unwrap();
                let payloads = Payloads::name(PayloadKind::TypeName, name.as_str());
                PreparedEvent {
                    id: [n; 16],
                    client_id: false,
                    event_type: NameUse { name, seen: Seen::Fresh(Reference([n; 16]), payloads) },
                    payloads: Payloads::name(PayloadKind::Data, "x"),
                    tags: Vec::new(),
                }
            })
            .collect();
        append
    }

    #[test]
    fn a_tenant_has_no_more_types_than_there_can_be() {
        let refused = |window: &TenantWindow, append: &PreparedAppend| match decide_append(
            window, SEEN_AT, 0, append,
        ) {
            Ok(Decision::Write(effects)) => {
                assert_eq!(effects.len(), append.appends[0].events.len());
                None
            }
            Err(Refusal::Rejected(Rejection::TypesExhausted { event_type })) => {
                Some(event_type.to_string())
            }
            other => panic!("{other:?}"),
        };
        let mut window = TenantWindow::new(SEEN_AT, Hash::default());
        assert_eq!(refused(&window, &of_new_types(0..3, TYPES_MAX - 3)), None);
        assert_eq!(refused(&window, &of_new_types(0..3, TYPES_MAX - 2)).as_deref(), Some("2"));
        assert_eq!(refused(&window, &of_new_types(0..3, TYPES_MAX)).as_deref(), Some("0"));
        // One type in an op that was committed since, one in an op in flight.
        for op in [1, 2] {
            let writes = window.open(op);
            writes.next += 1;
            let name = EventType::new(&format!("{}", op - 1)).unwrap();
            writes.types.insert(name, Reference([op as u8; 16]));
        }
        window.commit(1);
        assert_eq!(refused(&window, &of_new_types(0..2, TYPES_MAX)), None, "both are known");
        assert_eq!(refused(&window, &of_new_types(0..5, TYPES_MAX - 5)), None);
        assert_eq!(refused(&window, &of_new_types(0..5, TYPES_MAX - 4)).as_deref(), Some("4"));
        // Who looked later has counted the first of them already.
        let append = of_new_types(2..5, TYPES_MAX - 4);
        let later = decide_append(&window, SEEN_AT + 1, 0, &append);
        assert!(matches!(later, Ok(Decision::Write(_))), "{later:?}");
    }
}
