//! Random commands: few streams, types, ids and keys, so that they meet.

use std::collections::HashSet;

use rand::{RngExt, rngs::StdRng};
use uuid::Uuid;

use super::Command;
use crate::{
    append::{
        Append, Condition, DeleteStream, Expected, Idempotency, MatchItem, NewEvent, StreamAppend,
    },
    words::{Actor, EventType, Position, StreamName, Tag, Version},
};

pub(super) fn command(rng: &mut StdRng) -> Command {
    let stream =
        |rng: &mut StdRng| StreamName::new(&format!("s{}", rng.random_range(0..4))).unwrap();
    let expected = |rng: &mut StdRng| match rng.random_range(0..8) {
        0 => Expected::None,
        1 => Expected::Exists,
        2 | 3 => Expected::Version(Version::new(rng.random_range(0..6)).unwrap()),
        _ => Expected::Any,
    };
    let actor = Actor::new(["one", "two"][rng.random_range(0..2)]).unwrap();
    if rng.random_range(0..12) == 0 {
        let (stream, expected) = (stream(rng), expected(rng));
        return Command::Delete(DeleteStream { actor, stream, expected });
    }
    if rng.random_range(0..3) == 0 {
        return Command::Row(super::rows::command(rng));
    }
    let mut used = HashSet::new();
    let mut ids = HashSet::new();
    let mut appends = Vec::new();
    for _ in 0..[1, 1, 1, 2, 3][rng.random_range(0..5)] {
        let stream = stream(rng);
        if !used.insert(stream.clone()) {
            continue;
        }
        let events = (0..rng.random_range(1..4)).map(|_| {
            let id = rng.random_range(0..40_u128);
            let id = (id < 20 && ids.insert(id)).then(|| Uuid::from_u128(id + 1));
            NewEvent {
                id,
                event_type: EventType::new(["a", "b", "c"][rng.random_range(0..3)]).unwrap(),
                data: Some(format!("{}", rng.random_range(0..2)).into()),
                metadata: None,
                occurred_at: None,
                tags: (0..2)
                    .filter(|_| rng.random_bool(0.3))
                    .map(|t| Tag::new(&format!("t{t}")).unwrap())
                    .collect(),
            }
        });
        let events = events.collect();
        let recreate = rng.random_bool(0.3);
        appends.push(StreamAppend { stream, expected: expected(rng), recreate, events });
    }
    let mut conditions = Vec::new();
    if rng.random_bool(0.15) {
        conditions.push(Condition::Stream { stream: stream(rng), expected: expected(rng) });
    }
    if rng.random_bool(0.2) {
        let item = MatchItem {
            types: vec![EventType::new(["a", "b", "new"][rng.random_range(0..3)]).unwrap()],
            tags: (0..2)
                .filter(|_| rng.random_bool(0.5))
                .map(|t| Tag::new(&format!("t{t}")).unwrap())
                .collect(),
        };
        let after = rng.random_bool(0.7).then(|| Position::new(rng.random_range(0..60)).unwrap());
        conditions.push(Condition::NoMatch { items: vec![item], after });
    }
    let idempotency = rng.random_bool(0.25).then(|| Idempotency {
        key: format!("k{}", rng.random_range(0..12)),
        route: "append",
        request_digest: [rng.random_range(0..2); 32],
    });
    // Keys belong to one actor: with two of them, the model would need to know that too.
    let actor = if idempotency.is_some() { Actor::new("one").unwrap() } else { actor };
    Command::Append(Append { actor, appends, conditions, idempotency })
}
