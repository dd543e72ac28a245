//! A replica whose log has a hole: it does nothing but have it filled, and give others what it has.

use std::{io, sync::Arc};

use kimberlite_consensus::{
    Entry, Envelope, Form, Header, Identity, Input, Mender, Message, Op, ReplicaId, Superblock,
    Told,
};

use crate::{
    disk::Disk,
    index,
    log::{
        framed::{Framed, Spot},
        holes::{self, Hole},
        segment_op,
        superblock::SuperblockFile,
    },
};

/// What became of a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mended {
    /// It is not closed yet.
    NotYet,
    /// What was there is there again.
    Whole,
    /// What was there was never committed: the log ends before it, and its replica does not know what it had.
    CutOff,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mending {
    disk: Arc<dyn Disk>,
    superblock_file: SuperblockFile,
    superblock: Superblock,
    mender: Mender,
    hole: Hole,
    /// What is not filled ends here.
    to: u64,
    /// Came in, and waits for the header of the op before it.
    above: Option<Entry>,
    /// Messages to be sent.
    pub(crate) sent: Vec<Envelope>,
    /// Ops that are put back.
    pub(crate) repaired: Vec<(Op, Identity)>,
}

impl Mending {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        (superblock_file, superblock): (SuperblockFile, Superblock),
        (now_ms, nonce): (u64, u64),
        replicas: u8,
        hole: Hole,
    ) -> Self {
        tracing::warn!(
            segment = hole.path,
            offset = hole.from,
            "ops are missing and are asked for"
        );
        Self {
            disk,
            superblock_file,
            superblock,
            mender: Mender::new(now_ms, superblock, replicas, hole.gap, nonce),
            to: hole.to,
            hole,
            above: None,
            sent: Vec::new(),
            repaired: Vec::new(),
        }
    }

    /// Time went on, or a message came in.
    pub(crate) fn step(&mut self, now_ms: u64, input: Input) -> io::Result<Mended> {
        match input {
            Input::Tick => {
                for (to, message) in self.mender.tick(now_ms) {
                    self.send(to, message);
                }
            }
            Input::Message(envelope) => match self.mender.message(envelope) {
                Told::Asked { to, op, form } => self.give(to, op, form)?,
                Told::Given(entry) if holds(&entry) => return self.take(entry),
                Told::Nothing | Told::Given(_) => {}
                Told::NeverWas => return self.cut_off(),
            },
            Input::Request { .. }
            | Input::Written { .. }
            | Input::Refused { .. }
            | Input::SuperblockWritten(_)
            | Input::Abandoned { .. }
            | Input::Order
            | Input::Change(_)
            | Input::Resign
            | Input::Confirm
            | Input::Clock { .. }
            | Input::Idle => {}
        }
        Ok(Mended::NotYet)
    }

    fn send(&mut self, to: ReplicaId, message: Message) {
        let Superblock { cluster, incarnation, replica, .. } = self.superblock;
        let from = ReplicaId(replica as u8);
        self.sent.push(Envelope { cluster, from, to, incarnation, message });
    }

    fn give(&mut self, to: ReplicaId, op: Op, form: Form) -> io::Result<()> {
        let committed = form == Form::Supply { committed: true };
        if let Some((header, body)) = holes::read(&*self.disk, self.superblock.cluster, op)? {
            let entry = Entry { header, body };
            self.send(to, Message::Supply { committed, entry });
        }
        Ok(())
    }

    /// An op of the hole came in. It is written once the header that it repeats is known.
    fn take(&mut self, entry: Entry) -> io::Result<Mended> {
        if let Some(above) = self.above.take() {
            self.put_back(&above, Some(&entry.header))?;
        }
        let next = self.mender.took(&entry.header);
        let Some((to, message)) = next else {
            let before = self.hole.before.clone();
            self.put_back(&entry, before.as_ref())?;
            if self.to != self.hole.from {
                return Err(does_not_fit());
            }
            self.hole.close(&*self.disk)?;
            return Ok(Mended::Whole);
        };
        self.above = Some(entry);
        self.send(to, message);
        Ok(Mended::NotYet)
    }

    /// Plants a bug.
    #[cfg(feature = "sim")]
    pub(crate) fn plant(&mut self, mutant: Option<kimberlite_consensus::sim::Mutant>) {
        self.mender.plant(mutant);
    }

    /// Writes an op where it lay.
    fn put_back(&mut self, entry: &Entry, previous: Option<&Header>) -> io::Result<()> {
        self.repaired.push((entry.header.op, entry.header.identity()));
        let frame = Framed::around(&entry.header, previous, &entry.body);
        let at = self.to.checked_sub(frame.bytes().len() as u64).filter(|at| *at >= self.hole.from);
        let at = at.ok_or_else(does_not_fit)?;
        let file = self.disk.open(&self.hole.path)?;
        let first_op = segment_op(&self.hole.path).ok_or_else(does_not_fit)?;
        let frame = frame.placed(Spot { first_op, offset: at });
        file.write_all_at(frame.bytes(), at)?;
        file.sync()?;
        self.to = at;
        Ok(())
    }

    /// The log ends before the hole. The next start cuts it; that there was more stays known.
    fn cut_off(&mut self) -> io::Result<Mended> {
        self.superblock.uncertain = true;
        self.superblock.cut = Some(Op(self.hole.gap.first.0 - 1));
        self.superblock_file.write(self.superblock)?;
        Ok(Mended::CutOff)
    }
}

fn does_not_fit() -> io::Error {
    io::Error::other("what others have does not fit where an op is missing")
}

/// Whether an op's body is what its header says.
fn holds(entry: &Entry) -> bool {
    let frame = Framed::around(&entry.header, None, &entry.body);
    frame.sections(&entry.header).is_some_and(|sections| {
        sections.iter().all(|(section, runs)| index::holds(section, runs, None).is_ok())
    })
}
