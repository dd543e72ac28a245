//! Resolve: what a command rests on, looked up in committed state, on the caller's task.
//!
//! Payloads are salted and hashed here too, so the task that owns the log only copies them.

use crate::{
    append::{
        Append, AppendError, Condition, DeleteStream, MatchItem, NewEvent, Receipt, StreamAppend,
    },
    chance,
    error::ReadError,
    fragment::RecordReader,
    index::{IdempotencyBody, Search, StreamHead, TenantIndex, View, idempotency_digest},
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
    let (view, actor, mut types, known) = {
        let index = tenant.index.read();
        let types = events.iter().map(|events| types_seen(&index, events)).collect::<Vec<_>>();
        let known = index.names.types.list.len();
        (index.view(), actor_use(&index, &command.actor), types.into_iter(), known)
    };
    let seen_at = view.count;
    let mut prepared = PreparedAppend {
        actor,
        appends: Vec::with_capacity(events.len()),
        conditions: Vec::new(),
        idempotency: None,
        types_seen: known,
    };
    for (asked, mut events) in command.appends.iter().zip(events) {
        for (event, seen) in events.iter_mut().zip(types.next().into_iter().flatten()) {
            event.event_type.seen = seen;
        }
        prepared.appends.push(stream_use(tenant, &view, asked, events)?);
    }
    if let Some(key) = &command.idempotency {
        let records = command.appends.iter().map(|a| a.events.len() as u32).sum();
        prepared.idempotency = Some(prepare_key(tenant, &view, key, &prepared.actor, records)?);
    }
    for condition in &command.conditions {
        prepared.conditions.push(resolve_condition(tenant, &view, condition)?);
    }
    Ok((prepared, seen_at))
}

/// A deletion with its footprint.
pub(crate) fn delete(
    tenant: &TenantShared,
    command: &DeleteStream,
) -> Result<(PreparedDelete, u64), ReadError> {
    let (seen_at, actor) = {
        let index = tenant.index.read();
        (index.count, actor_use(&index, &command.actor))
    };
    let prepared = PreparedDelete {
        actor,
        id: new_id(),
        stream: command.stream.clone(),
        head: stream_head(tenant, &command.stream)?,
        expected: command.expected,
        payloads: Payloads::default(),
    };
    Ok((prepared, seen_at))
}

/// A stream as it is now, or later than `seen_at`: the window then knows it too.
fn stream_head(
    tenant: &TenantShared,
    stream: &StreamName,
) -> Result<Option<StreamHead>, ReadError> {
    tenant.stream_for_command(stream.as_str())
}

/// A version 7 UUID. Its random part comes from this process's generator: asking the system for each is dear.
pub(crate) fn new_id() -> [u8; 16] {
    let millis = (Timestamp::now().micros() / 1000).unsigned_abs();
    let random: [u8; 10] = chance::random();
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes()
}

/// How an actor is known.
pub(crate) fn actor_use(index: &TenantIndex, actor: &Actor) -> NameUse<Actor> {
    let seen = match index.names.actors.get(actor).copied() {
        Some(known) => Seen::Known(known.reference),
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
        id: event.id.map_or_else(new_id, uuid::Uuid::into_bytes),
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

/// Looks up the stream, and which of its events' ids are taken where.
fn stream_use(
    tenant: &TenantShared,
    view: &View,
    asked: &StreamAppend,
    events: Vec<PreparedEvent>,
) -> Result<StreamUse, ReadError> {
    let head = stream_head(tenant, &asked.stream)?;
    let fresh_name = head.is_none().then(|| {
        let name = asked.stream.as_str();
        (Reference::random(), Payloads::name(PayloadKind::StreamName, name))
    });
    let mut hits = Vec::with_capacity(events.len());
    for event in &events {
        hits.push(if event.client_id { view.find_id(&event.id)? } else { None });
    }
    Ok(StreamUse {
        stream: asked.stream.clone(),
        head,
        fresh: fresh_name,
        expected: asked.expected,
        recreate: asked.recreate,
        ids: judge_ids(tenant, view, asked, &hits)?,
        events,
    })
}

/// How the events' types are known.
fn types_seen(index: &TenantIndex, events: &[PreparedEvent]) -> Vec<Seen> {
    events.iter().map(|event| type_seen(index, &event.event_type.name)).collect()
}

fn type_seen(index: &TenantIndex, name: &EventType) -> Seen {
    match index.names.types.reference(name) {
        Some(reference) => Seen::Known(reference),
        None => fresh(PayloadKind::TypeName, name.as_str()),
    }
}

/// Whether taken ids mean that these very events are there already.
fn judge_ids(
    tenant: &TenantShared,
    view: &View,
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
    Ok(IdState::Replay(receipt(view, &asked.stream, first, last)?))
}

/// The receipt of events that are in the log.
fn receipt(view: &View, stream: &StreamName, first: u64, last: u64) -> Result<Receipt, ReadError> {
    let entry = |p| view.entry(p)?.map(|(_, entry)| entry).ok_or(ReadError::NoRecord);
    let version = |n| Version::new(n).expect("below positions");
    let position = |n| Position::new(n).expect("below 2^53");
    let (from, to) = (entry(first)?, entry(last)?);
    Ok(Receipt {
        stream: stream.clone(),
        first_version: version(from.version),
        last_version: version(to.version),
        first_position: position(first),
        last_position: position(last),
        time: Timestamp::from_micros(to.time).expect("op times are valid"),
        hash: to.hash,
    })
}

fn prepare_key(
    tenant: &TenantShared,
    view: &View,
    key: &crate::append::Idempotency,
    actor: &NameUse<Actor>,
    records: u32,
) -> Result<PreparedIdempotency, ReadError> {
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
    let hit = match view.find_idempotency(&digest)? {
        Some((position, entry))
            if is_whole(view, position, u64::from(entry.records), entry.time)? =>
        {
            Some(IdempotencyHit {
                request: entry.request,
                time: entry.time,
                receipts: receipts(tenant, view, position, u64::from(entry.records))?,
            })
        }
        _ => None,
    };
    Ok(PreparedIdempotency { digest, request: key.request_digest, payloads, hit })
}

/// Whether the log has all records of the command that used a key: a restore to a position inside cuts it. Records of
/// one command are in one op, so they have one time, and no other op has it.
fn is_whole(view: &View, first: u64, records: u64, time: i64) -> Result<bool, ReadError> {
    let last = (first + records).saturating_sub(1);
    Ok(last < view.count && view.entry(last)?.is_some_and(|(_, e)| e.time == time))
}

/// The receipts of a command that wrote `records` records from `first` on: a run of each stream.
fn receipts(
    tenant: &TenantShared,
    view: &View,
    first: u64,
    records: u64,
) -> Result<Vec<Receipt>, ReadError> {
    let stream_of = |p| view.entry(p)?.map(|(_, e)| e.stream).ok_or(ReadError::NoRecord);
    let mut receipts = Vec::new();
    let (mut from, end) = (first, first + records);
    while from < end {
        let stream = stream_of(from)?;
        let mut last = from;
        while last + 1 < end && stream_of(last + 1)? == stream {
            last += 1;
        }
        let state = tenant.stream_state(stream)?.ok_or(ReadError::StreamUnknown)?;
        receipts.push(receipt(view, &state.name, from, last)?);
        from = last + 1;
    }
    Ok(receipts)
}

fn resolve_condition(
    tenant: &TenantShared,
    view: &View,
    condition: &Condition,
) -> Result<PreparedCondition, ReadError> {
    Ok(match condition {
        Condition::Stream { stream, expected } => PreparedCondition::Stream {
            stream: stream.clone(),
            expected: *expected,
            head: stream_head(tenant, stream)?,
        },
        Condition::NoMatch { items, after } => {
            let from = after.map_or(0, |p| p.get() + 1);
            let mut hit: Option<u64> = None;
            for item in items {
                // Nothing later than the earliest hit so far matters.
                let until = hit.unwrap_or(view.count);
                hit = first_match(tenant, view, item, from..until)?.or(hit);
            }
            PreparedCondition::NoMatch { items: items.clone(), after: *after, hit }
        }
    })
}

/// The first event in `range` that is what `item` says.
fn first_match(
    tenant: &TenantShared,
    view: &View,
    item: &MatchItem,
    range: std::ops::Range<u64>,
) -> Result<Option<u64>, ReadError> {
    let filter = |types| Filter { types, tags: item.tags.clone(), ..Filter::default() };
    let filters: Vec<Filter> = if item.types.is_empty() {
        vec![filter(Vec::new())]
    } else {
        item.types.iter().map(|t| filter(vec![t.clone()])).collect()
    };
    let mut first: Option<u64> = None;
    for filter in &filters {
        let end = first.unwrap_or(range.end);
        let mut from = range.start;
        while from < end {
            let search = Search {
                tenant,
                stream: None,
                filter,
                range: from..end,
                direction: Direction::Forward,
                limit: 1,
            };
            let found = search.run(view)?;
            if let Some(position) = found.positions.first() {
                first = Some(*position);
                break;
            }
            from = found.reached;
        }
    }
    Ok(first)
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
    // What came since the first of them was looked up is in the window, and is not to count twice.
    let types_seen = prepared.first().map_or(0, |first| first.types_seen);
    for one in &mut prepared {
        one.types_seen = types_seen;
    }
    Ok((prepared, seen_at))
}
