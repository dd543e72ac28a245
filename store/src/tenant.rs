//! What tasks share of one tenant.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::{
    error::{Damage, ReadError},
    index::{NO_RUN, StreamHead, StreamState, TenantDerived, TenantIndex, View, derived::Derived},
    record::genesis,
    signing::SignedLog,
    subscribe::Subscriptions,
    words::{Reference, StreamName, TenantName},
};

/// So many may render at once.
const RENDERING: usize = 16;

/// One tenant's committed state, its tip, and how it is known.
#[derive(Debug)]
pub(crate) struct TenantShared {
    /// `None` for the system tenant.
    pub(crate) name: Option<TenantName>,
    pub(crate) reference: [u8; 16],
    pub(crate) log_id: [u8; 16],
    pub(crate) index: RwLock<TenantIndex>,
    pub(crate) derived: Option<TenantDerived>,
    /// Records committed; published after the index has them.
    pub(crate) tip: watch::Sender<u64>,
    pub(crate) subscriptions: Subscriptions,
    /// The newest checkpoint, where logs are signed.
    pub(crate) signed: watch::Sender<Option<Arc<SignedLog>>>,
    /// Checkpoints that witnesses cosigned, the newest last.
    pub(crate) cosigned: watch::Sender<Vec<Arc<SignedLog>>>,
    /// Held by who writes a time stamp, from looking for the last one until the answer.
    pub(crate) stamping: tokio::sync::Mutex<()>,
    /// Held by who renders, so that followers who wake together render once. Several, so that readers of other
    /// places need not wait.
    rendering: [Mutex<()>; RENDERING],
}

impl TenantShared {
    pub(crate) fn new(
        name: Option<TenantName>,
        reference: [u8; 16],
        log_id: [u8; 16],
        derived: Option<Arc<Derived>>,
    ) -> Self {
        let derived = derived.map(|derived| TenantDerived::new(derived, reference));
        let mut index = TenantIndex::new(genesis(log_id));
        index.derived.clone_from(&derived);
        Self {
            name,
            reference,
            log_id,
            index: RwLock::new(index),
            derived,
            tip: watch::Sender::new(0),
            subscriptions: Subscriptions::default(),
            signed: watch::Sender::new(None),
            cosigned: watch::Sender::new(Vec::new()),
            stamping: tokio::sync::Mutex::default(),
            rendering: Default::default(),
        }
    }

    /// What to hold while the piece with this number is rendered.
    pub(crate) fn rendering(&self, piece: u64) -> &Mutex<()> {
        &self.rendering[(piece % RENDERING as u64) as usize]
    }

    /// What is committed now.
    pub(crate) fn view(&self) -> View {
        self.index.read().view()
    }

    /// A stream's number and state. It may be newer than what was committed when this was called, never older.
    pub(crate) fn stream(&self, name: &str) -> Result<Option<(u32, StreamState)>, ReadError> {
        if let Some((id, state)) = self.index.read().names.recent_stream(name) {
            return Ok(Some((id, state.clone())));
        }
        let Some(derived) = &self.derived else { return Ok(None) };
        let Some(id) = derived.stream_id(name)? else { return Ok(None) };
        Ok(self.stream_state(id)?.map(|state| (id, state)))
    }

    /// Like [`Self::stream`], for a command: whoever applies it will want the state too.
    pub(crate) fn stream_for_command(&self, name: &str) -> Result<Option<StreamHead>, ReadError> {
        let since = self.derived.as_ref().map(TenantDerived::checkpoints);
        if let Some((_, state)) = self.index.read().names.recent_stream(name) {
            return Ok(Some(state.head));
        }
        let Some((id, state)) = self.stream(name)? else { return Ok(None) };
        if let (Some(derived), Some(since)) = (&self.derived, since) {
            derived.hand_on(since, id, &state);
        }
        Ok(Some(state.head))
    }

    /// A stream's state by its number; no older than what was committed when this was called.
    pub(crate) fn stream_state(&self, id: u32) -> Result<Option<StreamState>, ReadError> {
        if let Some(state) = self.index.read().names.recent_state(id) {
            return Ok(Some(state.clone()));
        }
        match &self.derived {
            Some(derived) => derived.stream_state(id),
            None => Ok(None),
        }
    }

    /// A stream's number, which it keeps.
    pub(crate) fn stream_number(&self, reference: Reference) -> Result<Option<u32>, ReadError> {
        if let Some(id) = self.index.read().names.recent_number(reference) {
            return Ok(Some(id));
        }
        match &self.derived {
            Some(derived) => derived.stream_by_reference(reference),
            None => Ok(None),
        }
    }

    /// The first position of the newest run on disk with events of a stream.
    pub(crate) fn last_run(&self, stream: u32) -> Result<u64, ReadError> {
        self.derived.as_ref().map_or(Ok(NO_RUN), |derived| derived.last_run(stream))
    }

    /// Streams whose names start with `prefix`, in byte order behind `after`, with their numbers.
    pub(crate) fn streams(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(u32, StreamState)>, ReadError> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = (from, Bound::Unbounded);
        // Memory first: what a checkpoint moves to the database meanwhile is found twice, not lost.
        let mut names: BTreeMap<StreamName, u32> =
            self.index.read().names.recent_names(range, limit);
        if let Some(derived) = &self.derived {
            names.extend(derived.names(range, limit)?);
        }
        let with_prefix = names.into_iter().take_while(|(n, _)| n.as_str().starts_with(prefix));
        let states = with_prefix.take(limit).filter_map(|(_, id)| {
            Some(self.stream_state(id).transpose()?.map(|state| (id, state)))
        });
        states.collect()
    }

    /// Notes damage; the first stays.
    pub(crate) fn damaged(&self, damage: &Damage) {
        let mut index = self.index.write();
        if index.damage.is_none() {
            tracing::error!(
                tenant = self.name.as_ref().map_or("$cluster", TenantName::as_str),
                file = damage.file,
                offset = damage.offset,
                what = damage.what,
                "the log is damaged; the tenant takes no writes"
            );
            index.damage = Some(damage.clone());
        }
        if damage.file.starts_with(crate::index::derived::FOLDER)
            && let Some(derived) = &self.derived
        {
            derived.derived.condemn();
        }
    }
}
