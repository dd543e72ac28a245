//! What `cargo bench` measures: the codec and the kernel, without files. Not part of the API.

use bytes::Bytes;
use kimberlite_consensus::{Recovered, Replica, Superblock};

use crate::{
    append::{Append, Expected, NewEvent, StreamAppend},
    kernel::{Prepared, PreparedCommand, Seen},
    log::frame::{FrameHead, Section, read_section},
    node::machine::Machine,
    record::{PayloadKind, Payloads},
    resolve,
    tenant::TenantShared,
    words::{Actor, EventType, Reference, StreamName},
};

const TENANT: [u8; 16] = [1; 16];

/// A machine with one tenant and no disk: its ops count as written at once.
pub struct Bench {
    tenant: TenantShared,
    machine: Machine<()>,
    append: Append,
    clock: i64,
}

impl Bench {
    /// A bench that appends `events` of `bytes` each to one stream.
    pub fn new(events: usize, bytes: usize) -> Self {
        let superblock = Superblock::fresh([2; 16]);
        let tenant = TenantShared::new(None, TENANT, [3; 16], None);
        let mut machine = Machine::new(Replica::new(0, Recovered::alone(superblock, None)));
        machine.add_tenant(TENANT, 0, tenant.index.read().chain_head);
        let event = NewEvent {
            id: None,
            event_type: EventType::new("measured").expect("a type"),
            data: Some(Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)))),
            metadata: None,
            occurred_at: None,
            tags: Vec::new(),
        };
        let stream = StreamAppend {
            stream: StreamName::new("bench").expect("a name"),
            expected: Expected::Any,
            recreate: false,
            events: vec![event; events],
        };
        let append = Append {
            actor: Actor::new("bench").expect("an actor"),
            appends: vec![stream],
            conditions: Vec::new(),
            idempotency: None,
        };
        Self { tenant, machine, append, clock: 0 }
    }

    /// Salts, hashes and looks up one command.
    ///
    /// # Panics
    /// Never: the command is within its limits.
    pub fn resolve(&self) -> Resolved {
        let (mut prepared, seen_at) =
            resolve::append(&self.tenant, &self.append).expect("within limits");
        // As in every command but an actor's first.
        prepared.actor.seen = Seen::Known(Reference([7; 16]));
        let command = PreparedCommand::Append(prepared);
        Resolved(Prepared { tenant: TENANT, seen_at, command, bytes: 0 })
    }

    /// Decides commands, encodes their op and commits it. Returns the frame.
    ///
    /// # Panics
    /// Never: there is always something to write.
    pub fn decide(&mut self, commands: Vec<Resolved>) -> Bytes {
        self.clock += 1;
        for Resolved(mut prepared) in commands {
            // Without an index nothing is ever known from it; the window knows enough.
            prepared.seen_at = u64::MAX;
            self.machine.submit(self.clock, prepared, ());
        }
        let sealed = self.machine.seal().expect("records were written");
        let committed = self.machine.written(&sealed.header);
        committed.into_iter().next().expect("a quorum of one").frame.bytes().clone()
    }

    /// Checks a frame's blocks as readers and recovery do. Returns the bytes of its runs.
    ///
    /// # Panics
    /// When the frame does not hold.
    pub fn check(frame: &Bytes) -> usize {
        let head = FrameHead::decode(frame).expect("a frame");
        let mut at = head.body_at;
        let runs = Section::all(&head.header).map(|s| {
            let runs =
                read_section(frame, &mut at, s.leaves_bytes as usize, None).expect("a section");
            runs.leaves.len() + runs.payloads.len()
        });
        runs.sum()
    }
}

/// A command that is ready to be decided.
pub struct Resolved(Prepared);

/// Salts and commits to one payload of `json`.
pub fn commit(json: &[u8]) -> usize {
    let mut payloads = Payloads::default();
    payloads.push_clear(PayloadKind::Data, json);
    payloads.stored.len()
}
