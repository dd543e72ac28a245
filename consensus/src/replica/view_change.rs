//! From one view to the next: a quorum wishes it, joins it durably, and says what it has; the new primary takes the
//! log of the latest view, the longest of those.

use super::{Notice, Outbox, Output, Replica, Status, Superblock, install::Goal};
#[cfg(feature = "sim")]
use crate::sim::Mutant;
use crate::{
    header::{Op, View},
    limits::{RESEND_MS, WISH_MS},
    message::{Message, ReplicaId, Tail},
    quorum::{self, Voters},
    timer::Timer,
};

/// What a replica has, durably.
#[derive(Clone, Debug)]
pub(super) struct Vote {
    pub(super) from: ReplicaId,
    /// Of the disk that it speaks of.
    pub(super) incarnation: u64,
    pub(super) log_view: View,
    /// Whether the log is all that it had, by what it knows.
    pub(super) certain: bool,
    pub(super) closed_us: i64,
    pub(super) tail: Tail,
}

/// The view that a replica wants, and when it said so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    view: View,
    at_ms: u64,
}

impl Replica {
    /// Wants another view than this one, and says so from time to time. Nothing changes here before a quorum does.
    pub(super) fn wish(&mut self, now: u64, out: &mut Outbox) {
        // Who was added may not know that yet, and may be needed: each counts those of its own members.
        if !self.is_let_in() {
            return;
        }
        let fresh = self.wishes.iter().flatten().filter(|w| now < w.at_ms + WISH_MS);
        let farthest = fresh.map(|w| w.view).max().unwrap_or_default();
        let view = farthest.max(self.next_view());
        let mine = &mut self.wishes[usize::from(self.me.0)];
        let said = mine.is_some_and(|w| w.view == view && now < w.at_ms + RESEND_MS);
        if said {
            return;
        }
        *mine = Some(Wish { view, at_ms: now });
        let joined = self.durable.view;
        self.send_all(&Message::StartViewChange { view, joined }, out);
        self.join_wishes(now, out);
    }

    /// The next view that a member leads, as far as this log knows the members.
    fn next_view(&self) -> View {
        let voters = self.members().voters();
        let next = self.view().0 + 1;
        let mut turns = (next..next + u64::from(self.slots)).map(View);
        turns.find(|view| voters.has(self.primary_of(*view))).unwrap_or(View(next))
    }

    pub(super) fn on_start_view_change(
        &mut self,
        now: u64,
        from: ReplicaId,
        view: View,
        joined: View,
        out: &mut Outbox,
    ) {
        // A quorum wanted the view that the sender has joined.
        if joined > self.view() {
            self.enter_view(now, joined, out);
        }
        if view > self.view() {
            self.wishes[usize::from(from.0)] = Some(Wish { view, at_ms: now });
            self.join_wishes(now, out);
        }
    }

    /// Goes to the latest view that a quorum wants, or a later one.
    fn join_wishes(&mut self, now: u64, out: &mut Outbox) {
        let voters = self.members().voters();
        let wishes = (0..).map(ReplicaId).zip(&self.wishes).filter(|(r, _)| voters.has(*r));
        let fresh = wishes.filter_map(|(_, w)| w.filter(|w| now < w.at_ms + WISH_MS));
        let mut views: Vec<View> = fresh.map(|w| w.view).collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        let quorum = usize::from(quorum::view_change(voters.count()));
        #[cfg(feature = "sim")]
        let quorum = if self.has(Mutant::JoinsAlone) { 1 } else { quorum };
        if let Some(view) = views.get(quorum - 1)
            && *view > self.view()
        {
            self.enter_view(now, *view, out);
        }
    }

    /// Leaves all views before this one. Says nothing in it before that is durable.
    pub(super) fn enter_view(&mut self, now: u64, view: View, out: &mut Outbox) {
        assert!(view > self.view(), "views only rise");
        if self.status == Status::Normal && self.primary() == self.me {
            out.push(Output::Deposed);
        }
        self.status = Status::ViewChange;
        self.superblock.view = view;
        (self.resigned, self.wanted) = (false, None);
        self.inherited = Op(0);
        self.goal = None;
        self.held.clear();
        self.supplied.clear();
        (self.fetched, self.supplier) = (None, None);
        self.votes.iter_mut().for_each(|v| *v = None);
        self.kept_us.iter_mut().for_each(|kept| *kept = 0);
        // What was acknowledged in another view does not count in this one.
        self.suffix.iter_mut().for_each(|p| p.acks = quorum::Voters::default());
        for wish in &mut self.wishes {
            *wish = wish.filter(|w| w.view > view);
        }
        self.expect_progress(now);
        self.resend = Timer::after(now, RESEND_MS);
        #[cfg(feature = "sim")]
        self.leave_wrongly(out);
        self.write_superblock(out);
    }

    #[cfg(feature = "sim")]
    fn leave_wrongly(&mut self, out: &mut Outbox) {
        if self.has(Mutant::VoteEarly) {
            self.say_vote(out);
        }
        if self.has(Mutant::LogViewAhead) {
            self.superblock.log_view = View(self.view().0 + 1);
        }
        if self.has(Mutant::CertainEarly) {
            self.superblock.uncertain = false;
        }
        if self.has(Mutant::CutOnLeaving) && self.slots > 1 {
            self.sure = self.commit();
            self.truncate(self.commit(), out);
        }
    }

    pub(super) fn superblock_written(&mut self, now: u64, written: Superblock, out: &mut Outbox) {
        self.durable = written;
        self.close();
        self.be_let_in(out);
        if self.status == Status::Normal || written.view != self.view() {
            return;
        }
        if written.log_view == self.view() && !written.uncertain && self.goal.is_some() {
            self.enter_normal(now, out);
        } else if self.goal.is_none() {
            self.say_vote(out);
            self.choose(now, out);
        } else {
            self.pursue(now, out);
        }
    }

    /// What this replica has, once it has durably left all earlier views.
    fn own_vote(&self) -> Option<Vote> {
        // Who is no member by its own log may be one by another's: whom it counts for is for who chooses.
        let durable = self.durable.view == self.view() && !self.resigned && self.is_let_in();
        // A view whose log it had has begun.
        let durable = durable && self.durable.log_view < self.view();
        #[cfg(feature = "sim")]
        let durable = durable || self.has(Mutant::VoteEarly);
        let certain = !self.durable.uncertain;
        #[cfg(feature = "sim")]
        let certain = certain || self.has(Mutant::VoteUncertain);
        let tail = self.tail(self.durable_op());
        let (from, incarnation) = (self.me, self.durable.incarnation);
        let Superblock { log_view, closed_us, .. } = self.durable;
        durable.then_some(Vote { from, incarnation, log_view, certain, closed_us, tail })
    }

    fn say_vote(&mut self, out: &mut Outbox) {
        let to = self.primary();
        if to == self.me {
            return;
        }
        if let Some(Vote { log_view, certain, closed_us, tail, .. }) = self.own_vote() {
            let view = self.view();
            let message = Message::DoViewChange { view, log_view, certain, closed_us, tail };
            out.push(Output::Send { to, message });
        }
    }

    /// Says again what was not answered while the view has not begun here.
    pub(super) fn press(&mut self, now: u64, out: &mut Outbox) {
        if self.goal.is_some() {
            self.pursue(now, out);
        } else {
            if self.superblock.uncertain || !self.is_let_in() {
                self.ask_for_view(out);
            }
            self.say_vote(out);
            self.choose(now, out);
        }
        if self.follows_only() {
            // It wants no view. By others' logs it may be a member that they wait for: they hear where it is.
            let joined = self.durable.view;
            self.send_all(&Message::StartViewChange { view: joined, joined }, out);
        }
    }

    pub(super) fn on_do_view_change(&mut self, now: u64, view: View, vote: Vote, out: &mut Outbox) {
        if vote.log_view >= view || self.primary_of(view) != self.me {
            return out.push(Output::Notice(Notice::NoVote));
        }
        if !vote.tail.is_of(view) {
            return out.push(Output::Notice(Notice::Diverged));
        }
        if view > self.view() {
            self.enter_view(now, view, out);
        }
        if view < self.view() {
            return;
        }
        if self.status == Status::Normal {
            if self.is_primary() {
                self.on_request_start_view(vote.from, view, 0, out);
            }
            return;
        }
        self.compare(&vote.tail, out);
        let from = usize::from(vote.from.0);
        self.votes[from] = Some(vote);
        self.choose(now, out);
    }

    /// A primary orders one op under a number; what is committed under one is the same everywhere. Logs of one view may
    /// differ otherwise.
    fn compare(&self, tail: &Tail, out: &mut Outbox) {
        let own = self.suffix.iter().map(|p| &p.header);
        let voted = self.votes.iter().flatten().flat_map(|vote| &vote.tail.headers);
        let mut known = own.chain(voted);
        let twice =
            known.any(|a| tail.headers.iter().any(|b| (a.op, a.view) == (b.op, b.view) && a != b));
        if twice {
            out.push(Output::Notice(Notice::OtherOp));
        }
        let committed = self.votes.iter().flatten().map(|v| (v.tail.commit, v.tail.identity));
        let mut committed = committed.chain([(self.commit(), self.committed_identity)]);
        if committed.any(|(op, identity)| op == tail.commit && identity != tail.identity) {
            out.push(Output::Notice(Notice::Diverged));
        }
    }

    /// Those that may decide. Who does not know what it had of its view's log says nothing against an op of that log. But where
    /// somebody who knows has the log of a later view, only its log view counts, as that of anybody who is behind: it
    /// acknowledged nothing in the later view, and what was committed before that is in the later log.
    fn counted<'a>(&self, votes: &[&'a Vote]) -> Vec<&'a Vote> {
        let latest = votes.iter().filter(|v| v.certain).map(|v| v.log_view).max();
        let counts = |v: &&Vote| v.certain || Some(v.log_view) < latest;
        #[cfg(feature = "sim")]
        let counts = |v: &&Vote| counts(v) || self.has(Mutant::CountsUncertain);
        votes.iter().copied().filter(counts).collect()
    }

    /// As primary of a view to be: decides what its log is.
    fn choose(&mut self, now: u64, out: &mut Outbox) {
        if self.primary() != self.me || self.goal.is_some() {
            return;
        }
        let Some(own) = self.own_vote() else { return };
        let mut votes: Vec<&Vote> = self.votes.iter().flatten().collect();
        votes.push(&own);
        let votes = self.counted(&self.standing(&votes));
        let best = votes.iter().max_by_key(|v| (v.log_view, v.tail.op())).copied();
        let Some(best) = best else { return };
        // Who decides are the members as of the end of the log that is chosen.
        let mut who = Voters::default();
        for vote in &votes {
            who.add(vote.from);
        }
        let (end, own_stands) = (best.tail.members(), who.has(self.me));
        let members = end.unwrap_or_else(|| self.first_members());
        if !own_stands || !self.is_quorum(members, who) || !self.may_lead(members) {
            return;
        }
        #[cfg(feature = "sim")]
        let best = if self.has(Mutant::OwnLog) { &own } else { best };
        let farthest = votes.iter().max_by_key(|v| v.tail.commit).expect("not empty");
        let goal = Goal::new(self.view(), &farthest.tail, &best.tail);
        let Some(goal) = goal else {
            return out.push(Output::Notice(Notice::Diverged));
        };
        let closed_us = votes.iter().map(|v| v.closed_us).max().unwrap_or_default();
        self.keep_promises(closed_us);
        self.goal = Some(goal);
        self.expect_progress(now);
        self.pursue(now, out);
    }
}
