//! Names that one tenant's log has introduced, and the states of its streams.
//!
//! Streams that changed since the last checkpoint lie in memory, all others in the derived database. Types and
//! actors, of which there are few, lie in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::derived::Derived;
use crate::{
    error::ReadError,
    limits::HANDED_STREAMS_MAX,
    read::StreamInfo,
    words::{Actor, EventType, Reference, StreamName, Timestamp, Version},
};

/// What is known of a stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamState {
    pub(crate) name: StreamName,
    pub(crate) head: StreamHead,
    pub(crate) first_time: i64,
    pub(crate) last_time: i64,
}

/// What decisions about a stream rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamHead {
    pub(crate) reference: Reference,
    /// Version of the last event.
    pub(crate) version: u64,
    /// Versions below this one are behind a deletion.
    pub(crate) visible_from: u64,
    pub(crate) deleted: bool,
}

/// Streams that changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changed {
    pub(crate) states: FxHashMap<u32, StreamState>,
    names: BTreeMap<StreamName, u32>,
    references: FxHashMap<Reference, u32>,
    /// Streams from this number on are new.
    pub(crate) first_new: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Names {
    recent: Changed,
    /// On its way into the database.
    frozen: Option<Arc<Changed>>,
    next_stream: u32,
    pub(crate) types: Types,
    pub(crate) actors: HashMap<Actor, KnownActor>,
}

/// What is known of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownActor {
    pub(crate) reference: Reference,
    /// Position of the record that has the name.
    pub(crate) first: u64,
}

/// Event types in both directions.
#[derive(Debug, Default)]
pub(crate) struct Types {
    ids: HashMap<EventType, u32>,
    pub(crate) list: Vec<(EventType, Reference)>,
    by_reference: FxHashMap<Reference, u32>,
}

impl Changed {
    fn insert(&mut self, id: u32, state: StreamState) {
        self.names.insert(state.name.clone(), id);
        self.references.insert(state.head.reference, id);
        self.states.insert(id, state);
    }
}

impl Names {
    /// As the database has them.
    pub(crate) fn load(
        next_stream: u32,
        types: Vec<(EventType, Reference)>,
        actors: HashMap<Actor, KnownActor>,
    ) -> Self {
        let mut names = Self { next_stream, actors, ..Self::default() };
        names.recent.first_new = next_stream;
        for (name, reference) in types {
            names.types.push(name, reference);
        }
        names
    }

    /// The states of all streams that changed since the last checkpoint.
    pub(crate) fn recent_states(&self) -> &FxHashMap<u32, StreamState> {
        &self.recent.states
    }

    pub(crate) fn next_stream(&self) -> u32 {
        self.next_stream
    }

    /// Hands out what changed since the last time, to be written to the database.
    pub(crate) fn freeze(&mut self) -> Arc<Changed> {
        debug_assert!(self.frozen.is_none(), "one checkpoint at a time");
        let recent = Changed { first_new: self.next_stream, ..Changed::default() };
        let frozen = Arc::new(std::mem::replace(&mut self.recent, recent));
        self.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    /// What was frozen is in the database now.
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }

    fn changed(&self) -> impl Iterator<Item = &Changed> {
        [Some(&self.recent), self.frozen.as_deref()].into_iter().flatten()
    }

    /// A stream that changed lately.
    pub(crate) fn recent_stream(&self, name: &str) -> Option<(u32, &StreamState)> {
        self.changed().find_map(|c| {
            let id = c.names.get(name)?;
            Some((*id, &c.states[id]))
        })
    }

    /// A stream that changed lately, by its number.
    pub(crate) fn recent_state(&self, id: u32) -> Option<&StreamState> {
        self.changed().find_map(|c| c.states.get(&id))
    }

    /// The number of a stream that changed lately.
    pub(crate) fn recent_number(&self, reference: Reference) -> Option<u32> {
        self.changed().find_map(|c| c.references.get(&reference).copied())
    }

    /// Names in `range` of streams that changed lately, each with its number.
    pub(crate) fn recent_names(
        &self,
        range: (Bound<&str>, Bound<&str>),
        limit: usize,
    ) -> BTreeMap<StreamName, u32> {
        let names = self.changed().flat_map(|c| c.names.range::<str, _>(range).take(limit));
        names.map(|(name, id)| (name.clone(), *id)).collect()
    }

    /// The state of a stream, ready to be changed.
    pub(crate) fn touch(
        &mut self,
        reference: Reference,
        derived: Option<&TenantDerived>,
    ) -> Result<Option<(u32, &mut StreamState)>, ReadError> {
        let known = self.recent.references.get(&reference).copied();
        let id = if let Some(id) = known {
            id
        } else {
            let Some((id, state)) = self.fetch(reference, derived)? else { return Ok(None) };
            self.recent.insert(id, state);
            id
        };
        Ok(self.recent.states.get_mut(&id).map(|state| (id, state)))
    }

    fn fetch(
        &self,
        reference: Reference,
        derived: Option<&TenantDerived>,
    ) -> Result<Option<(u32, StreamState)>, ReadError> {
        if let Some(frozen) = &self.frozen
            && let Some(id) = frozen.references.get(&reference)
        {
            return Ok(Some((*id, frozen.states[id].clone())));
        }
        let Some(derived) = derived else { return Ok(None) };
        if let Some(found) = derived.handed.lock().states.remove(&reference) {
            return Ok(Some(found));
        }
        let Some(id) = derived.stream_by_reference(reference)? else { return Ok(None) };
        Ok(derived.stream_state(id)?.map(|state| (id, state)))
    }

    /// Takes in a name that no stream has; the caller has made sure of that.
    pub(crate) fn add_stream(&mut self, name: StreamName, reference: Reference) {
        let head = StreamHead { reference, version: u64::MAX, visible_from: 0, deleted: false };
        let state = StreamState { name, head, first_time: 0, last_time: 0 };
        self.recent.insert(self.next_stream, state);
        self.next_stream += 1;
    }
}

impl Types {
    pub(crate) fn id(&self, name: &EventType) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(crate) fn at(&self, id: u32) -> &EventType {
        &self.list[id as usize].0
    }

    pub(crate) fn reference(&self, name: &EventType) -> Option<Reference> {
        self.ids.get(name).map(|id| self.list[*id as usize].1)
    }

    pub(crate) fn by_reference(&self, reference: Reference) -> Option<u32> {
        self.by_reference.get(&reference).copied()
    }

    /// Says whether name and reference are new.
    pub(crate) fn push(&mut self, name: EventType, reference: Reference) -> bool {
        let id = self.list.len() as u32;
        let new = self.ids.insert(name.clone(), id).is_none()
            && self.by_reference.insert(reference, id).is_none();
        self.list.push((name, reference));
        new
    }
}

impl StreamState {
    pub(crate) fn info(&self) -> StreamInfo {
        let version = |n| Version::new(n).expect("versions are below positions");
        let time = |us| Timestamp::from_micros(us).expect("op times are valid");
        StreamInfo {
            stream: self.name.clone(),
            version: version(self.head.version),
            first_version: version(self.head.visible_from),
            first_time: time(self.first_time),
            last_time: time(self.last_time),
            deleted: self.head.deleted,
        }
    }
}

/// The derived database as one tenant sees it.
#[derive(Clone, Debug)]
pub(crate) struct TenantDerived {
    pub(crate) derived: Arc<Derived>,
    pub(crate) tenant: [u8; 16],
    handed: Arc<Mutex<Handed>>,
}

/// States that commands were resolved from, handed to who applies them: the thread that owns the log need not look
/// them up again. They are as the database has them, and a stream that changed is looked for elsewhere first.
#[derive(Debug, Default)]
struct Handed {
    /// How often the database was brought forward: what was read before that does not count.
    checkpoints: u64,
    states: FxHashMap<Reference, (u32, StreamState)>,
}

impl TenantDerived {
    pub(crate) fn new(derived: Arc<Derived>, tenant: [u8; 16]) -> Self {
        Self { derived, tenant, handed: Arc::default() }
    }

    /// To be asked before a state is looked for that may be handed on.
    pub(crate) fn checkpoints(&self) -> u64 {
        self.handed.lock().checkpoints
    }

    /// Hands on a state that was looked up since [`Self::checkpoints`] said `since`.
    pub(crate) fn hand_on(&self, since: u64, id: u32, state: &StreamState) {
        let mut handed = self.handed.lock();
        if handed.checkpoints == since && handed.states.len() < HANDED_STREAMS_MAX {
            handed.states.insert(state.head.reference, (id, state.clone()));
        }
    }

    /// The database was brought forward.
    pub(crate) fn checkpointed(&self) {
        let mut handed = self.handed.lock();
        handed.checkpoints += 1;
        handed.states.clear();
    }

    pub(crate) fn stream_id(&self, name: &str) -> Result<Option<u32>, ReadError> {
        self.derived.stream_id(self.tenant, name)
    }

    pub(crate) fn stream_by_reference(&self, r: Reference) -> Result<Option<u32>, ReadError> {
        self.derived.stream_by_reference(self.tenant, r)
    }

    pub(crate) fn stream_state(&self, id: u32) -> Result<Option<StreamState>, ReadError> {
        self.derived.stream_state(self.tenant, id)
    }

    pub(crate) fn names(
        &self,
        range: (Bound<&str>, Bound<&str>),
        limit: usize,
    ) -> Result<Vec<(StreamName, u32)>, ReadError> {
        self.derived.names(self.tenant, range, limit)
    }

    /// The first position of the newest run that has events of a stream.
    pub(crate) fn last_run(&self, id: u32) -> Result<u64, ReadError> {
        self.derived.last_run(self.tenant, id)
    }
}
