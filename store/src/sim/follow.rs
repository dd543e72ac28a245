//! Those who follow a replica: they wake by its subscriptions, and read as readers do.

use std::{collections::BTreeMap, sync::Arc};

use kimberlite_consensus::sim::Told;
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    error::ReadError,
    fragment::FragmentCache,
    limits::PAGE_BYTES_MAX,
    read::{After, Cursor, Direction, Filter, Selection, Shape, Source},
    reader::Reader,
    subscribe::Subscription,
    tenant::TenantShared,
    words::{EventType, Position},
};

/// One of them, at this replica.
#[derive(Debug)]
struct Following {
    subscription: Subscription,
    /// It was told all below this.
    seen: u64,
    unfinished: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Followings {
    by: BTreeMap<u8, Following>,
    fragments: Mutex<FragmentCache>,
}

/// A follower that comes from elsewhere, or goes on.
pub(super) struct Asks<'a> {
    pub(super) follower: u8,
    pub(super) behind: Option<&'a Cursor>,
    pub(super) anew: bool,
    pub(super) events: usize,
    /// A bug: it passes over a record.
    pub(super) late: bool,
}

impl Followings {
    pub(super) fn follow(
        &mut self,
        tenant: &Arc<TenantShared>,
        asks: &Asks<'_>,
    ) -> Result<Told<Cursor>, ReadError> {
        let Asks { follower, behind, anew, events, late } = *asks;
        let count = tenant.index.read().count;
        if behind.is_some_and(|cursor| cursor.position.get() >= count) {
            return Ok(Told::Behind);
        }
        // Every other one follows one type only.
        let types = if follower % 2 == 1 { EventType::new("a").ok() } else { None };
        let next = behind.and_then(|c| Position::new(c.position.get() + 1));
        let after = match (behind, next) {
            (Some(_), Some(next)) if late && anew && next.get() < count => After::Position(next),
            (Some(cursor), _) => After::Cursor(*cursor),
            (None, _) => After::Nothing,
        };
        let selection = Selection {
            source: Source::Log,
            after,
            filter: Filter { types: types.into_iter().collect(), ..Filter::default() },
            direction: Direction::Forward,
            limit: events,
            bytes: PAGE_BYTES_MAX,
        };
        if anew {
            self.by.remove(&follower);
        }
        let new = || Following {
            subscription: Subscription::new(tenant, &selection),
            seen: 0,
            unfinished: true,
        };
        let following = self.by.entry(follower).or_insert_with(new);
        if !following.unfinished && following.subscription.below() <= following.seen {
            return Ok(Told::Events(Vec::new(), None));
        }
        let reader = Reader { tenant, fragments: &self.fragments };
        let batch = match reader.read(&selection, Shape::Ndjson) {
            Err(ReadError::Diverged { .. }) => return Ok(Told::Foreign),
            read => read?,
        };
        following.unfinished = !batch.finished;
        let passed = batch.cursor.map_or(0, |cursor| cursor.position.get() + 1);
        following.seen = if batch.finished { batch.head } else { passed };
        let text = batch.pieces.concat();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(Told::Events(lines.map(line).collect(), batch.cursor))
    }
}

/// An event as the end of a run tells it, but for its time.
fn line(json: &[u8]) -> String {
    let event: Value = serde_json::from_slice(json).unwrap_or_default();
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let id = Uuid::parse_str(text("id")).unwrap_or_default();
    format!("{} {} {} {}", text("stream"), event["version"], id.simple(), event["data"])
}
