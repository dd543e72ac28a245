//! Resolve: what a command rests on, looked up in committed state, on the caller's task.
//!
//! Payloads are salted and hashed here too, so the task that owns the log only copies them.

use crate::{
    append::{
        Append, AppendError, Condition, DeleteStream, MatchItem, NewEvent, Receipt, StreamAppend,
    },
    error::ReadError,
    fragment::RecordReader,
    index::{IdempotencyBody, TenantIndex, idempotency_digest},
    kernel::{
        IdState, IdempotencyHit, NameUse, PreparedAppend, PreparedCondition, PreparedDelete,
        PreparedEvent, PreparedIdempotency, Seen, StreamUse,
    },
    limits::COMMAND_BYTES_MAX,
    read::{Direction, Filter},
    record::{PayloadKind, Payloads, json_string},
    tenant::TenantShared,
    words::{Actor, EventType, Hex, Position, Reference, StreamName, Timestamp, Version},
};

/// An append with its footprint, and how many records were committed for it.
pub(crate) fn append(
    tenant: &TenantShared,
    command: &Append,
) -> Result<(PreparedAppend, u64), AppendError> {
    let events: Vec<Vec<PreparedEvent>> =
        command.appends.iter().map(|a| a.events.iter().map(prepare_event).collect()).collect();
    let bytes: usize = events.iter().flatten().map(|e| e.payloads.stored.len()).sum();
    if bytes > COMMAND_BYTES_MAX {
        return Err(AppendError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
    }
    let index = tenant.index.read();
    let seen_at = index.count;
    let actor = actor_use(&index, &command.actor);
    let mut prepared = PreparedAppend {
        actor,
        appends: Vec::with_capacity(events.len()),
        conditions: Vec::new(),
        idempotency: None,
    };
    let mut id_hits = Vec::new();
    for (asked, events) in command.appends.iter().zip(events) {
        let (stream, hits) = stream_use(&index, asked, events);
        prepared.appends.push(stream);
        id_hits.push(hits);
    }
    let key = command.idempotency.as_ref().map(|key| {
        let records = command.appends.iter().map(|a| a.events.len() as u32).sum();
        prepare_key(&index, key, &prepared.actor, records)
    });
    prepared.idempotency = key;
    drop(index);
    for ((asked, stream), hits) in command.appends.iter().zip(&mut prepared.appends).zip(&id_hits) {
        stream.ids = judge_ids(tenant, asked, hits)?;
    }
    for condition in &command.conditions {
        prepared.conditions.push(resolve_condition(tenant, condition, seen_at));
    }
    Ok((prepared, seen_at))
}

/// A deletion with its footprint.
pub(crate) fn delete(tenant: &TenantShared, command: &DeleteStream) -> (PreparedDelete, u64) {
    let index = tenant.index.read();
    let prepared = PreparedDelete {
        actor: actor_use(&index, &command.actor),
        id: uuid::Uuid::now_v7().into_bytes(),
        stream: command.stream.clone(),
        head: index.names.stream(command.stream.as_str()).map(|s| s.head),
        expected: command.expected,
        payloads: Payloads::default(),
    };
    (prepared, index.count)
}

/// How an actor is known.
pub(crate) fn actor_use(index: &TenantIndex, actor: &Actor) -> NameUse<Actor> {
    let seen = match index.names.actor(actor) {
        Some(reference) => Seen::Known(reference),
        None => fresh(PayloadKind::ActorName, actor.as_str()),
    };
    NameUse { name: actor.clone(), seen }
}

fn fresh(kind: PayloadKind, name: &str) -> Seen {
    Seen::Fresh(Reference::random(), Payloads::name(kind, name))
}

/// Salts and hashes an event's payloads. Its type is looked up later.
fn prepare_event(event: &NewEvent) -> PreparedEvent {
    let mut payloads = Payloads::default();
    if let Some(data) = &event.data {
        payloads.push_clear(PayloadKind::Data, data);
    }
    if let Some(metadata) = &event.metadata {
        payloads.push_clear(PayloadKind::Metadata, metadata);
    }
    if let Some(at) = event.occurred_at {
        payloads.push_clear(PayloadKind::OccurredAt, &json_string(&at.to_string()));
    }
    if !event.tags.is_empty() {
        payloads.push_clear(PayloadKind::Tags, &tags_json(event));
    }
    PreparedEvent {
        id: event.id.unwrap_or_else(uuid::Uuid::now_v7).into_bytes(),
        client_id: event.id.is_some(),
        event_type: NameUse {
            name: event.event_type.clone(),
            seen: Seen::Known(Reference([0; 16])),
        },
        payloads,
        tags: event.tags.clone(),
    }
}

fn tags_json(event: &NewEvent) -> Vec<u8> {
    let tags: Vec<&str> = event.tags.iter().map(crate::words::Tag::as_str).collect();
    serde_json::to_vec(&tags).expect("strings serialise")
}

/// Looks up the stream, its events' types, and which of their ids are taken where.
fn stream_use(
    index: &TenantIndex,
    asked: &StreamAppend,
    mut events: Vec<PreparedEvent>,
) -> (StreamUse, Vec<Option<u64>>) {
    let head = index.names.stream(asked.stream.as_str()).map(|s| s.head);
    let fresh_name = head.is_none().then(|| {
        let name = asked.stream.as_str();
        (Reference::random(), Payloads::name(PayloadKind::StreamName, name))
    });
    for event in &mut events {
        event.event_type.seen = type_seen(index, &event.event_type.name);
    }
    let hits =
        events.iter().map(|e| if e.client_id { index.find_id(&e.id) } else { None }).collect();
    let stream = StreamUse {
        stream: asked.stream.clone(),
        head,
        fresh: fresh_name,
        expected: asked.expected,
        recreate: asked.recreate,
        ids: IdState::New,
        events,
    };
    (stream, hits)
}

fn type_seen(index: &TenantIndex, name: &EventType) -> Seen {
    match index.names.type_reference(name) {
        Some(reference) => Seen::Known(reference),
        None => fresh(PayloadKind::TypeName, name.as_str()),
    }
}

/// Whether taken ids mean that these very events are there already.
fn judge_ids(
    tenant: &TenantShared,
    asked: &StreamAppend,
    hits: &[Option<u64>],
) -> Result<IdState, ReadError> {
    let Some(first) = hits.iter().position(Option::is_some) else {
        return Ok(IdState::New);
    };
    let conflict = |i: usize, position: Option<u64>| IdState::Conflict {
        id: asked.events[i].id.unwrap_or_default(),
        position: position.and_then(Position::new),
    };
    let mut reader = RecordReader::point();
    let mut last: Option<u64> = None;
    for (i, (event, hit)) in asked.events.iter().zip(hits).enumerate() {
        let Some(position) = *hit else {
            return Ok(conflict(first, hits[first]));
        };
        let stored = reader.event(tenant, position)?;
        let same = stored.is_some_and(|s| {
            s.stream == asked.stream
                && s.event_type == event.event_type
                && s.data == event.data
                && s.metadata == event.metadata
                && s.occurred_at == event.occurred_at
                && s.tags == event.tags
        });
        if !same || last.is_some_and(|last| position <= last) {
            return Ok(conflict(i, Some(position)));
        }
        last = Some(position);
    }
    let (first, last) = (hits[0].unwrap_or(0), last.unwrap_or(0));
    let index = tenant.index.read();
    Ok(IdState::Replay(receipt(&index, &asked.stream, first, last)))
}

/// The receipt of events that are in the log.
fn receipt(index: &TenantIndex, stream: &StreamName, first: u64, last: u64) -> Receipt {
    let entry = |position| index.entry(position).expect("a committed position").1;
    let version = |n| Version::new(n).expect("below positions");
    let position = |n| Position::new(n).expect("below 2^53");
    Receipt {
        stream: stream.clone(),
        first_version: version(entry(first).version),
        last_version: version(entry(last).version),
        first_position: position(first),
        last_position: position(last),
        time: Timestamp::from_micros(entry(last).time).expect("op times are valid"),
        hash: entry(last).hash,
    }
}

fn prepare_key(
    index: &TenantIndex,
    key: &crate::append::Idempotency,
    actor: &NameUse<Actor>,
    records: u32,
) -> PreparedIdempotency {
    let reference = match &actor.seen {
        Seen::Known(reference) | Seen::Fresh(reference, _) => *reference,
    };
    let digest = idempotency_digest(reference, key.route, &key.key);
    let body = IdempotencyBody {
        route: key.route.to_owned(),
        key: key.key.clone(),
        request: Hex(&key.request_digest).to_string(),
        records,
    };
    let mut payloads = Payloads::default();
    let json = serde_json::to_vec(&body).expect("plain fields serialise");
    payloads.push_clear(PayloadKind::Idempotency, &json);
    let hit = index.find_idempotency(&digest).map(|(position, entry)| IdempotencyHit {
        request: entry.request,
        time: entry.time,
        receipts: receipts(index, position, u64::from(entry.records)),
    });
    PreparedIdempotency { digest, request: key.request_digest, payloads, hit }
}

/// The receipts of a command that wrote `records` records from `first` on: a run of each stream.
fn receipts(index: &TenantIndex, first: u64, records: u64) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    let (mut from, end) = (first, first + records);
    while from < end {
        let stream = index.entry(from).expect("a committed position").1.stream;
        let same = |p: &u64| index.entry(*p).is_some_and(|(_, e)| e.stream == stream);
        let last = (from..end).take_while(same).last().expect("the first is the same");
        receipts.push(receipt(index, &index.names.stream_at(stream).name, from, last));
        from = last + 1;
    }
    receipts
}

fn resolve_condition(
    tenant: &TenantShared,
    condition: &Condition,
    seen_at: u64,
) -> PreparedCondition {
    match condition {
        // A head later than `seen_at` would be wrong only if the window did not know better; it does.
        Condition::Stream { stream, expected } => PreparedCondition::Stream {
            stream: stream.clone(),
            expected: *expected,
            head: tenant.index.read().names.stream(stream.as_str()).map(|s| s.head),
        },
        Condition::NoMatch { items, after } => {
            let from = after.map_or(0, |p| p.get() + 1);
            let hit = items.iter().filter_map(|i| first_match(tenant, i, from..seen_at)).min();
            PreparedCondition::NoMatch { items: items.clone(), after: *after, hit }
        }
    }
}

/// The first event in `range` that is what `item` says.
fn first_match(
    tenant: &TenantShared,
    item: &MatchItem,
    range: std::ops::Range<u64>,
) -> Option<u64> {
    let filter = |types| Filter { types, tags: item.tags.clone(), ..Filter::default() };
    let filters: Vec<Filter> = if item.types.is_empty() {
        vec![filter(Vec::new())]
    } else {
        item.types.iter().map(|t| filter(vec![t.clone()])).collect()
    };
    filters
        .iter()
        .filter_map(|filter| {
            let mut from = range.start;
            while from < range.end {
                let index = tenant.index.read();
                let found = index.select(None, filter, from..range.end, Direction::Forward, 1);
                if let Some(position) = found.positions.first() {
                    return Some(*position);
                }
                from = found.reached;
            }
            None
        })
        .min()
}

/// Lines of a bulk load, each with its footprint, all against the same state.
pub(crate) fn lines(
    tenant: &TenantShared,
    actor: &Actor,
    lines: &[StreamAppend],
) -> Result<(Vec<PreparedAppend>, u64), AppendError> {
    let mut seen_at = u64::MAX;
    let mut prepared = Vec::with_capacity(lines.len());
    for line in lines {
        let command = Append {
            actor: actor.clone(),
            appends: vec![line.clone()],
            conditions: Vec::new(),
            idempotency: None,
        };
        let (one, at) = append(tenant, &command)?;
        prepared.push(one);
        seen_at = seen_at.min(at);
    }
    Ok((prepared, seen_at))
}
