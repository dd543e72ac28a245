//! Who is to be woken by which records.
//!
//! A follower of everything wakes with each op. One that asks for a stream, types or tags sleeps while others are
//! written to, however many there are. A subscription holds no events: whoever wakes reads the log.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    index::TenantIndex,
    read::{Selection, Source},
    tenant::TenantShared,
    words::{EventType, StreamName, Tag},
};

type Sleeper = Arc<watch::Sender<u64>>;

/// Subscriptions that do not wake with every op, by what wakes them.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    count: AtomicUsize,
    by: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    streams: HashMap<StreamName, Vec<Sleeper>>,
    types: HashMap<EventType, Vec<Sleeper>>,
    tags: HashMap<Tag, Vec<Sleeper>>,
}

/// What wakes a subscription: each selected event has one of these.
#[derive(Clone, Debug)]
enum Wakes {
    Stream(StreamName),
    Types(Vec<EventType>),
    Tag(Tag),
    All,
}

impl Wakes {
    fn of(selection: &Selection) -> Self {
        let filter = &selection.filter;
        match (&selection.source, filter.tags.first()) {
            (Source::Stream { name, .. }, _) => Self::Stream(name.clone()),
            (Source::Log, Some(tag)) => Self::Tag(tag.clone()),
            (Source::Log, None) if filter.types.is_empty() => Self::All,
            (Source::Log, None) => Self::Types(filter.types.clone()),
        }
    }
}

/// Wakes whenever there may be something new for one [`Selection`].
#[derive(Debug)]
pub struct Subscription {
    woken: watch::Receiver<u64>,
    sleeper: Option<(Arc<TenantShared>, Wakes, Sleeper)>,
}

impl Subscription {
    pub(crate) fn new(tenant: &Arc<TenantShared>, selection: &Selection) -> Self {
        let wakes = Wakes::of(selection);
        if matches!(wakes, Wakes::All) {
            return Self { woken: tenant.tip.subscribe(), sleeper: None };
        }
        let sleeper = Arc::new(watch::Sender::new(0));
        let woken = sleeper.subscribe();
        let subscriptions = &tenant.subscriptions;
        // Before the sleeper is there, so that no op passes over it once it is.
        subscriptions.count.fetch_add(1, Ordering::SeqCst);
        subscriptions.by.lock().add(&wakes, &sleeper);
        Self { woken, sleeper: Some((Arc::clone(tenant), wakes, sleeper)) }
    }

    /// Everything that is selected lies below this count of records, or below the tip when this was made.
    pub fn below(&self) -> u64 {
        *self.woken.borrow()
    }

    /// Waits until [`Self::below`] has grown since the last call. Says whether it ever can.
    pub async fn wait(&mut self) -> bool {
        self.woken.changed().await.is_ok()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some((tenant, wakes, sleeper)) = self.sleeper.take() {
            tenant.subscriptions.by.lock().remove(&wakes, &sleeper);
            tenant.subscriptions.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Sleepers {
    fn add(&mut self, wakes: &Wakes, sleeper: &Sleeper) {
        let sleeper = || Arc::clone(sleeper);
        match wakes {
            Wakes::Stream(name) => {
                self.streams.entry(name.clone()).or_default().push(sleeper());
            }
            Wakes::Types(types) => {
                for name in types {
                    self.types.entry(name.clone()).or_default().push(sleeper());
                }
            }
            Wakes::Tag(tag) => self.tags.entry(tag.clone()).or_default().push(sleeper()),
            Wakes::All => {}
        }
    }

    fn remove(&mut self, wakes: &Wakes, sleeper: &Sleeper) {
        match wakes {
            Wakes::Stream(name) => remove(&mut self.streams, name, sleeper),
            Wakes::Types(types) => types.iter().for_each(|n| remove(&mut self.types, n, sleeper)),
            Wakes::Tag(tag) => remove(&mut self.tags, tag, sleeper),
            Wakes::All => {}
        }
    }
}

fn remove<K: Eq + Hash>(map: &mut HashMap<K, Vec<Sleeper>>, key: &K, sleeper: &Sleeper) {
    let Some(sleepers) = map.get_mut(key) else { return };
    sleepers.retain(|one| !Arc::ptr_eq(one, sleeper));
    if sleepers.is_empty() {
        map.remove(key);
    }
}

fn wake<K, Q>(map: &HashMap<K, Vec<Sleeper>>, key: &Q, count: u64)
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    for sleeper in map.get(key).into_iter().flatten() {
        sleeper.send_replace(count);
    }
}

impl Subscriptions {
    /// Wakes who waits for any of the records from position `from` on, which the index has by now.
    pub(crate) fn wake(&self, index: &TenantIndex, from: u64) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let sleepers = self.by.lock();
        let Some(touched) = index.touched(from) else { return };
        let count = index.count;
        if !sleepers.streams.is_empty() {
            touched.streams(|name| wake(&sleepers.streams, name, count));
        }
        if !sleepers.types.is_empty() {
            touched.types(|name| wake(&sleepers.types, name, count));
        }
        for (tag, _) in sleepers.tags.iter().filter(|(tag, _)| touched.has_tag(tag)) {
            wake(&sleepers.tags, tag, count);
        }
    }
}
