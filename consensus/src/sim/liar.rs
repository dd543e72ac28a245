//! A replica that lies: what it says is made by an honest one, and changed on its way out.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Config;
use crate::{
    Entry, Envelope, Header, Identity, Message, Op, ReplicaId, SECTION_BYTES, Tail, View,
    limits::{PIPELINE_MAX, TIME_MAX_US},
    prng::Prng,
};

macro_rules! lies {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $breaks:literal;)*) => {
        /// A way to lie.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Lie {
            $($(#[$doc])* $name,)*
        }

        impl Lie {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in what was seen.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("lies: ", $text),)*
                }
            }

            /// Whether a majority with the liar in it can be made to disagree by it.
            pub const fn breaks_agreement(self) -> bool {
                match self {
                    $(Self::$name => $breaks,)*
                }
            }

            /// Its bit among others.
            pub const fn bit(self) -> u64 {
                1 << self as u64
            }
        }
    };
}

lies! {
    /// Different ops under one number, to different replicas.
    Equivocation, "equivocation", true;
    /// More is said to be committed than is.
    InflatedCommit, "inflated commit", true;
    /// Said in another's name.
    ForgedSender, "forged sender", true;
    /// What was said in earlier views is said again.
    ReplayedView, "replayed view", false;
    /// Ops upon ops, in a view that another leads, or the same ones again and again.
    PrepareFlood, "prepare flood", false;
    /// One of the others is not told.
    SelectiveSilence, "selective silence", false;
    /// Messages whose checksum does not hold, and bodies that are not what their header says.
    CorruptChecksum, "corrupt checksum", false;
    /// Nothing that a change of view needs is said.
    BlockedViewChange, "blocked view change", false;
    /// A vote for a view tells of another log, each time, and of a later log view.
    ConflictingTails, "conflicting tails", true;
    /// An op is called committed as soon as it is prepared.
    EarlyCommit, "early commit", true;
    /// The log of another view is called this view's.
    MergedViews, "merged views", true;
    /// The number of what is committed is right, its identity is not.
    DesynchronisedCommit, "desynchronised commit", false;
    /// A view begins with more ops than can be in flight.
    OversizedStartView, "oversized StartView", false;
    /// An op that nobody asked for, of its own view: of no tenant, without records, at the end of time, and what else cannot be.
    InventedOp, "invented op", true;
}

/// Messages that a liar remembers.
const MEMORY: usize = 64;
/// Prepares of a flood.
const FLOOD: u64 = 24;
/// Lies, of a thousand messages, and of those that change the view, which are few.
const RATE: u64 = 200;
const RATE_OF_VIEW_CHANGE: u64 = 600;

/// What a liar says.
#[derive(Debug)]
pub(super) enum Word {
    Said(Envelope),
    /// Its bytes are changed under its checksum.
    Spoiled(Envelope),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Liar {
    me: ReplicaId,
    replicas: u8,
    lies: Vec<Lie>,
    random: Prng,
    memory: VecDeque<Envelope>,
    tail: Option<(View, Tail)>,
    victim: u8,
    /// How often each lie was told.
    pub(super) told: [u64; Lie::ALL.len()],
}

impl Liar {
    pub(super) fn new(config: &Config, random: Prng) -> Option<Self> {
        let lies: Vec<Lie> = config.lies().collect();
        (config.liar < config.replicas && !lies.is_empty()).then(|| Self {
            me: ReplicaId(config.liar),
            replicas: config.replicas,
            lies,
            random,
            memory: VecDeque::new(),
            tail: None,
            victim: 0,
            told: [0; Lie::ALL.len()],
        })
    }

    pub(super) fn is(&self, replica: u8) -> bool {
        self.me.0 == replica
    }

    /// What becomes of a message that an honest replica would send.
    pub(super) fn tell(&mut self, envelope: Envelope) -> Vec<Word> {
        if self.random.per_mille(10) {
            self.victim = self.random.below(u64::from(self.replicas)) as u8;
        }
        let mut words = None;
        let few = is_of_view_change(&envelope.message);
        if self.random.per_mille(if few { RATE_OF_VIEW_CHANGE } else { RATE }) {
            let first = self.random.below(self.lies.len() as u64) as usize;
            for n in 0..self.lies.len() {
                let lie = self.lies[(first + n) % self.lies.len()];
                words = self.lie(lie, &envelope);
                if words.is_some() {
                    self.told[lie as usize] += 1;
                    break;
                }
            }
        }
        self.remember(&envelope);
        words.unwrap_or_else(|| vec![Word::Said(envelope)])
    }

    fn remember(&mut self, envelope: &Envelope) {
        if self.memory.len() == MEMORY {
            self.memory.pop_front();
        }
        self.memory.push_back(envelope.clone());
        if let Message::DoViewChange { view, tail, .. } | Message::StartView { view, tail, .. } =
            &envelope.message
            && self.tail.as_ref().is_none_or(|(of, _)| of < view)
        {
            self.tail = Some((*view, tail.clone()));
        }
    }

    /// `None` where the lie says nothing of such a message.
    fn lie(&mut self, lie: Lie, truth: &Envelope) -> Option<Vec<Word>> {
        let mut told = truth.clone();
        let both = |told| vec![Word::Said(truth.clone()), Word::Said(told)];
        match lie {
            Lie::Equivocation => {
                let Message::Prepare { entry, .. } = &mut told.message else { return None };
                entry.header.time_us += 1;
                (truth.to.0 % 2 == 1).then(|| vec![Word::Said(told)])
            }
            Lie::InflatedCommit => self.inflate(&mut told.message).then(|| vec![Word::Said(told)]),
            Lie::ForgedSender => {
                told.from = ReplicaId(self.random.below(u64::from(self.replicas)) as u8);
                Some(both(told))
            }
            Lie::ReplayedView => {
                let of = self.random.below(self.memory.len().max(1) as u64) as usize;
                self.memory.get(of).cloned().map(both)
            }
            Lie::PrepareFlood => Some(self.flood(truth)),
            Lie::SelectiveSilence => (truth.to.0 == self.victim).then(Vec::new),
            Lie::CorruptChecksum => {
                if let Message::Prepare { entry, .. } | Message::Supply { entry, .. } =
                    &mut told.message
                    && self.random.per_mille(500)
                {
                    entry.body = changed(&entry.body);
                    return Some(vec![Word::Said(told)]);
                }
                Some(vec![Word::Spoiled(told)])
            }
            Lie::BlockedViewChange => is_of_view_change(&truth.message).then(Vec::new),
            Lie::ConflictingTails => {
                self.other_tail(truth.cluster, &mut told.message).then(|| vec![Word::Said(told)])
            }
            Lie::EarlyCommit => {
                let Message::Prepare { view, entry, .. } = &truth.message else { return None };
                let (op, identity) = (entry.header.op, entry.header.identity());
                told.message = Message::Commit { view: *view, op, identity, round: 0 };
                Some(both(told))
            }
            Lie::MergedViews => {
                let (of, log) = self.tail.as_ref()?;
                let (Message::DoViewChange { view, tail, .. }
                | Message::StartView { view, tail, .. }) = &mut told.message
                else {
                    return None;
                };
                *tail = log.clone();
                (of != view).then(|| vec![Word::Said(told)])
            }
            Lie::DesynchronisedCommit => {
                let Message::Commit { identity, .. } = &mut told.message else { return None };
                *identity = Identity([0xde; 32]);
                Some(vec![Word::Said(told)])
            }
            Lie::OversizedStartView => {
                told.message = self.oversized(truth)?;
                Some(both(told))
            }
            Lie::InventedOp => {
                let Message::Prepare { entry, .. } = &mut told.message else { return None };
                self.invent(entry);
                Some(vec![Word::Said(told)])
            }
        }
    }

    /// Makes another op of one, in the same place.
    fn invent(&mut self, entry: &mut Entry) {
        let header = &mut entry.header;
        let sections = header.sections.to_vec();
        let mut one = sections.get(..SECTION_BYTES).unwrap_or(&[0; SECTION_BYTES]).to_vec();
        match self.random.below(6) {
            // Of a tenant that nobody made: without records, with those of another, and twice in one op.
            0 => (one, entry.body) = (vec![0xee; 16], Bytes::new()),
            1 => one[..16].fill(0xee),
            2 => one.extend_from_within(..),
            // Without records, of a tenant that there is.
            3 => {
                one[24..32].fill(0);
                entry.body = Bytes::new();
            }
            // Of another time: of its records, and of all that come later.
            4 => {
                header.time_us += 1;
                one = sections;
            }
            _ => {
                header.time_us = TIME_MAX_US;
                one = sections;
            }
        }
        one.resize(one.len().next_multiple_of(SECTION_BYTES), 0);
        header.sections = one.into();
    }

    fn inflate(&mut self, message: &mut Message) -> bool {
        let more = self.random.between(1, 6);
        match message {
            Message::Prepare { commit, .. } => commit.0 += more,
            Message::Commit { op, identity, .. } => {
                op.0 += more;
                *identity = Identity([0x1f; 32]);
            }
            Message::DoViewChange { tail, .. } => {
                let (commit, identity) = (Op(tail.op().0 + more), Identity([0x1f; 32]));
                *tail = Tail { commit, identity, members: None, headers: Vec::new() };
            }
            Message::PrepareOk { .. }
            | Message::Alive { .. }
            | Message::Follows { .. }
            | Message::Close { .. }
            | Message::Reading { .. }
            | Message::StartViewChange { .. }
            | Message::StartView { .. }
            | Message::RequestStartView { .. }
            | Message::Fetch { .. }
            | Message::Supply { .. } => return false,
        }
        true
    }

    /// Ops that nobody ordered, in a view that another leads; else the same op many times.
    fn flood(&self, truth: &Envelope) -> Vec<Word> {
        let mut words = vec![Word::Said(truth.clone())];
        let view = view_of(&truth.message);
        let from =
            if let Message::PrepareOk { op, .. } | Message::Commit { op, .. } = &truth.message {
                op.0
            } else {
                0
            };
        let leads = view.is_none_or(|v| v.0 % u64::from(self.replicas) == u64::from(self.me.0));
        for n in 0..FLOOD {
            let mut told = truth.clone();
            if let Some(view) = view.filter(|_| !leads) {
                let op = Op(from + n);
                let header = invented(truth.cluster, op.next(), view, Identity([7; 32]));
                let entry = Entry { header, body: Bytes::new() };
                told.message = Message::Prepare { view, commit: op, entry };
            }
            words.push(Word::Said(told));
        }
        words
    }

    /// Another log each time.
    fn other_tail(&mut self, cluster: [u8; 16], message: &mut Message) -> bool {
        let Message::DoViewChange { view, log_view, tail, .. } = message else { return false };
        *log_view = View(view.0.saturating_sub(self.random.below(2)));
        if let Some(last) = tail.headers.last_mut() {
            last.time_us += 1 + self.random.below(1000).cast_signed();
        }
        if (tail.headers.len() as u64) < PIPELINE_MAX && self.random.per_mille(300) {
            let parent = tail.headers.last().map_or(tail.identity, Header::identity);
            let of = View(view.0.saturating_sub(1));
            tail.headers.push(invented(cluster, tail.op().next(), of, parent));
        }
        true
    }

    fn oversized(&mut self, truth: &Envelope) -> Option<Message> {
        let (view, mut tail) = if let Message::StartView { view, tail, .. } = &truth.message {
            (*view, tail.clone())
        } else if let Message::Commit { view, op, identity, .. } = &truth.message {
            (*view, Tail { commit: *op, identity: *identity, members: None, headers: Vec::new() })
        } else {
            return None;
        };
        let most = PIPELINE_MAX + 1 + self.random.below(200);
        while (tail.headers.len() as u64) < most {
            let parent = tail.headers.last().map_or(tail.identity, Header::identity);
            tail.headers.push(invented(truth.cluster, tail.op().next(), view, parent));
        }
        Some(Message::StartView { view, nonce: 0, tail })
    }
}

/// An op that nobody asked for.
fn invented(cluster: [u8; 16], op: Op, view: View, parent: Identity) -> Header {
    let sections = Bytes::from(vec![0; SECTION_BYTES]);
    // Late, and no later than what is a message.
    let time_us = TIME_MAX_US - (1 << 40) + op.0.cast_signed();
    Header { cluster, op, view, parent, time_us, members: None, sections }
}

fn changed(body: &Bytes) -> Bytes {
    let mut body = body.to_vec();
    match body.last_mut() {
        Some(last) => *last ^= 1,
        None => body.push(1),
    }
    body.into()
}

const fn is_of_view_change(message: &Message) -> bool {
    matches!(
        message,
        Message::StartViewChange { .. }
            | Message::DoViewChange { .. }
            | Message::StartView { .. }
            | Message::RequestStartView { .. }
    )
}

const fn view_of(message: &Message) -> Option<View> {
    match message {
        Message::Prepare { view, .. }
        | Message::PrepareOk { view, .. }
        | Message::Commit { view, .. }
        | Message::Alive { view, .. }
        | Message::Follows { view, .. }
        | Message::Close { view, .. }
        | Message::Reading { view, .. }
        | Message::DoViewChange { view, .. }
        | Message::StartView { view, .. }
        | Message::RequestStartView { view, .. } => Some(*view),
        Message::StartViewChange { joined, .. } => Some(*joined),
        Message::Fetch { .. } | Message::Supply { .. } => None,
    }
}
