//! What is signed on the way, by the code that signs: the history that survives must have each of its roots.

#![allow(clippy::disallowed_types, reason = "who signs is no part of what is pure here")]

use std::sync::Arc;

use parking_lot::Mutex;

use super::{SYSTEM, World};
use crate::{
    disk::Disk,
    fragment::FragmentCache,
    signing::{Found, KeyFolder, Places, SigningLog},
    tree::Tree,
    words::Hash,
};

/// The thread that signs, by hand. Its keys outlive every restart.
pub(super) struct Signatures {
    keys: KeyFolder,
    log: Box<SigningLog>,
    /// Size and root of every checkpoint that was shown.
    shown: Vec<(u64, Hash)>,
    /// What one who signs too early would have shown.
    ahead: Vec<(u64, Hash)>,
}

fn disk(world: &World) -> Arc<dyn Disk> {
    Arc::clone(&world.disk) as Arc<dyn Disk>
}

/// Hashes of all that is committed.
fn committed(world: &World) -> Vec<Hash> {
    let view = world.tenant.view();
    (0..view.count).map(|p| view.entry(p).unwrap().unwrap().1.hash).collect()
}

fn root(leaves: &[Hash]) -> (u64, Hash) {
    let mut tree = Tree::default();
    for leaf in leaves {
        tree.push(*leaf);
    }
    (tree.size(), tree.root())
}

impl Signatures {
    pub(super) fn begin(world: &World) -> Self {
        let disk = disk(world);
        let keys = KeyFolder::open(Arc::clone(&disk), "keys".as_ref(), SYSTEM, "", false).unwrap();
        let places = Places { disk: &disk, keys: &keys };
        let log = Box::new(SigningLog::begin(&places, &world.tenant).unwrap());
        Self { keys, log, shown: Vec::new(), ahead: Vec::new() }
    }

    /// Signs what the log has by now.
    pub(super) fn sign(&mut self, world: &World) {
        let disk = disk(world);
        let places = Places { disk: &disk, keys: &self.keys };
        self.log.advance(&places, &Mutex::new(FragmentCache::default())).unwrap();
        self.note(world);
    }

    fn note(&mut self, world: &World) {
        let signed = world.tenant.signed.borrow().clone().expect("it is shown");
        self.shown.push((signed.checkpoint.size, signed.checkpoint.root));
    }

    /// The root with everything that is in flight.
    pub(super) fn look_ahead(&mut self, world: &World) {
        let mut leaves = committed(world);
        for op in &world.machine.in_flight {
            leaves.extend(op.sections.iter().flat_map(|(_, hashes)| hashes));
        }
        self.ahead.push(root(&leaves));
    }

    /// Goes on after a restart: the log must have all that was signed.
    pub(super) fn restart(&mut self, world: &World) {
        let disk = disk(world);
        let places = Places { disk: &disk, keys: &self.keys };
        match SigningLog::open(&places, &world.tenant).unwrap() {
            Found::Log(log) => self.log = log,
            Found::Unsigned => panic!("it was signed"),
            Found::Behind(_) => panic!("what was signed is not there"),
        }
        self.note(world);
    }

    /// Holds what was shown against the log; returns how many of the early roots it does not have.
    pub(super) fn hold(&self, world: &World) -> usize {
        let leaves = committed(world);
        let has = |(size, of): &&(u64, Hash)| {
            leaves.get(..*size as usize).is_some_and(|leaves| root(leaves).1 == *of)
        };
        let never = self.shown.iter().find(|signed| !has(signed));
        assert_eq!(never, None, "a root that the log never had was signed");
        self.ahead.len() - self.ahead.iter().filter(has).count()
    }
}
