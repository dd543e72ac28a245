-------------------------------- MODULE VSR --------------------------------
(* Viewstamped Replication as Kimberlite builds it: logs on disks, views, repair, crashes, damage, lost disks.

   What makes the model small, and why nothing is lost by it:

   * The network is a set of everything ever sent: a message may be delayed for ever, repeated, overtaken.
     A lost message is one that nobody reads.
   * A message that may be sent is sent at once: to send it later looks to others like a slow network.
   * Where the rule is "durable, then say it", both are one step: a crash between them looks to others like
     a crash before. The mutants that break the rule make them two.
   * A crash and the start after it are one step. A machine that stays down is one that takes no steps.
   * A body that once was on the network can be had again, from a slow message. So repair never fails here,
     which allows more than a real network does; that repair may be impossible is a matter of liveness.

   `Mutant` is the name of one rule that is broken, or "none". *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
  N,            \* replicas, numbered from 0; the primary of view v is v % N
  Values,       \* what clients want written
  MaxOp,        \* ops in a log at most
  MaxView,      \* views are 0..MaxView
  MaxCrashes,   \* crashes of all replicas together
  MaxDamage,    \* durable entries damaged, together
  MaxLosses,    \* disks lost, together
  Torn,         \* whether a write cut short by a crash may look like damage
  Answers,      \* whether a primary says again what its log is, as it is by then
  Wishes,       \* whether StartViewChange is modelled; if not, anyone may join any view at any time
  Mutant

ASSUME N \in 1..7 /\ MaxOp \in Nat /\ MaxView \in Nat /\ Torn \in BOOLEAN /\ Wishes \in BOOLEAN

VARIABLES
  rep,       \* each replica
  prepares,  \* Prepare: <<op, view, value>>; with the op's number, the view it was prepared in is its identity
  oks,       \* PrepareOk: <<replica, view, op, identity>>
  wishes,    \* StartViewChange: <<replica, view>>
  dvcs,      \* DoViewChange
  svs,       \* StartView
  commits,   \* what primaries committed and answered: <<view, op, identity>>
  faults     \* how many there were

vars == <<rep, prepares, oks, wishes, dvcs, svs, commits, faults>>

Replica == 0..(N - 1)
View == 0..MaxView
Primary(v) == v % N
Quorum == N \div 2 + 1
CommitQuorum == IF Mutant = "commit-below-quorum" THEN Quorum - 1 ELSE Quorum
ChangeQuorum == CASE Mutant = "change-below-quorum" -> Quorum - 1
                  [] Mutant = "change-by-all" -> N
                  [] OTHER -> Quorum
NackQuorum == IF Mutant = "nacks-below-quorum" THEN N - Quorum ELSE N - Quorum + 1

Max(S) == CHOOSE m \in S : \A o \in S : o <= m
Min(a, b) == IF a < b THEN a ELSE b

-----------------------------------------------------------------------------
(* Slots of a log. An identity is the view that an op was prepared in, and its value. What a slot holds:
     mem    written and not yet synced: gone after a crash
     have   durable and whole
     bad    it was durable (or may have been) and does not hold any more. The header may be known, from the
            copy that the next frame repeats, or not. *)

Unknown == <<MaxView + 1, <<"unknown", 0, 0>>>>
Slot(id, s) == [id |-> id, s |-> s]
Known(slot) == slot.id # Unknown
IsReset(id) == id # Unknown /\ id[2] \notin Values
ResetOf(r, inc) == <<"reset", r, inc>>

Ids(log) == [k \in 1..Len(log) |-> log[k].id]
\* All ops up to here are durable, without a hole.
Durable(log) == Max({k \in 0..Len(log) : \A j \in 1..k : log[j].s = "have"})
\* What of a log is not in memory alone: unsynced slots are its end.
OnDisk(log) == SelectSeq(log, LAMBDA slot : slot.s # "mem")

\* What may be acknowledged.
Sayable(log) ==
  LET here == CASE Mutant = "ok-before-durable" -> {"have", "mem"}
                [] OTHER -> {"have"}
  IN Max({k \in 0..Len(log) : \A j \in 1..k : log[j].s \in here})

\* A replica's acknowledgements: they are said as soon as they may be.
Acks(r, me) ==
  IF me.st = "normal" /\ me.logView = me.view
  THEN {<<r, me.view, k, me.log[k].id>> : k \in 1..Sayable(me.log)}
  ELSE {}

\* An op is committed for a replica (may be applied, may be read) if it has it and knows that it is.
Committed(me) == Min(me.commit, Durable(me.log))

\* Every superblock also brings the commit floor up to date.
Superblock(me) ==
  [me EXCEPT !.dview = me.view, !.dlogView = me.logView,
             !.floor = Max({@, IF Mutant = "floor-beyond-log" THEN me.commit ELSE Committed(me)})]
ViewOnly(me) == [Superblock(me) EXCEPT !.dlogView = me.dlogView]

Fresh == [st |-> "normal", view |-> 0, logView |-> 0, dview |-> 0, dlogView |-> 0,
          log |-> <<>>, commit |-> 0, floor |-> 0, inc |-> 1]

Init ==
  /\ rep = [r \in Replica |-> Fresh]
  /\ prepares = {} /\ oks = {} /\ wishes = {} /\ dvcs = {} /\ commits = {}
  /\ svs = {[view |-> 0, log |-> <<>>, commit |-> 0]}
  /\ faults = [crashes |-> 0, damage |-> 0, losses |-> 0]

Up(r) == rep[r].st # "lost"
Leads(r) == rep[r].st = "normal" /\ rep[r].logView = rep[r].view /\ Primary(rep[r].view) = r

-----------------------------------------------------------------------------
(* A step of one replica: what it becomes, and what it says because of it. *)

DvcOf(r, me) ==
  [from |-> r, inc |-> me.inc, view |-> me.view, logView |-> me.logView,
   log |-> OnDisk(me.log), commit |-> Committed(me)]

Become(r, me) ==
  /\ rep' = [rep EXCEPT ![r] = me]
  /\ oks' = oks \cup Acks(r, me)
  /\ dvcs' = IF me.st = "change" /\ me.logView < me.view THEN dvcs \cup {DvcOf(r, me)} ELSE dvcs

-----------------------------------------------------------------------------
(* Normal operation. *)

\* The primary orders an op: the Prepare leaves while the primary's own write is under way.
Order(p, x) ==
  LET me == rep[p]
      k == Len(me.log) + 1
  IN /\ Leads(p) /\ k <= MaxOp
     /\ Become(p, [me EXCEPT !.log = Append(@, Slot(<<me.view, x>>, "mem"))])
     /\ prepares' = prepares \cup {<<k, me.view, x>>}
     /\ UNCHANGED <<wishes, svs, commits, faults>>

Request(p) == \E x \in Values : Order(p, x)

\* A write is done. In a later view it is no acknowledgement any more, but the entry is there.
Sync(r) ==
  /\ Up(r)
  /\ \E k \in 1..Len(rep[r].log) :
       /\ rep[r].log[k].s = "mem"
       /\ \A j \in 1..(k - 1) : rep[r].log[j].s # "mem"
       /\ Become(r, [rep[r] EXCEPT !.log[k].s = "have"])
  /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

\* A backup takes the next op of its view's log, makes it durable and says so.
ReceivePrepare(r) ==
  LET me == rep[r]
      k == Len(me.log) + 1
      s == IF Mutant = "ok-before-durable" THEN "mem" ELSE "have"
  IN /\ me.st = "normal" /\ me.logView = me.view /\ Primary(me.view) # r
     /\ \E m \in prepares :
          /\ m[1] = k /\ m[2] = me.view
          /\ Become(r, [me EXCEPT !.log = Append(@, Slot(<<m[2], m[3]>>, s))])
     /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

\* What a quorum acknowledged in this view, by identity, is committed, with all that lies before it.
Commit(p) ==
  LET me == rep[p]
      Acked(k) == {r \in Replica :
        IF Mutant = "acks-by-op-alone"
        THEN \E o \in oks : o[1] = r /\ o[3] = k
        ELSE <<r, me.view, k, me.log[k].id>> \in oks}
  IN /\ Leads(p)
     /\ \E k \in (me.commit + 1)..Len(me.log) :
          /\ Cardinality(Acked(k)) >= CommitQuorum
          /\ Become(p, [me EXCEPT !.commit = k])
          /\ commits' = commits \cup {<<me.view, j, me.log[j].id>> : j \in (me.commit + 1)..k}
     /\ UNCHANGED <<prepares, wishes, svs, faults>>

\* A backup hears how far its view's primary committed; it may not have these ops yet.
LearnCommit(r) ==
  LET me == rep[r]
  IN /\ \/ me.st = "normal" /\ me.logView = me.view
        \/ Mutant = "commit-by-number" /\ me.st = "change"
     /\ Primary(me.view) # r
     /\ \E c \in commits :
          /\ c[1] = me.view /\ c[2] > me.commit
          /\ Become(r, [me EXCEPT !.commit = c[2]])
     /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

-----------------------------------------------------------------------------
(* Repair of what is bad: by identity where it is known; else as it was committed, or, if that is not known, as
   the log of the view has it. A committed op may come from a later view than this replica's, so what its own
   view's primary prepared under that number may be another. And committed ops that a replica does not have, from whoever knows them to be committed. *)

CanonicalIds(view, k) ==
  {s.log[k] : s \in {s \in svs : s.view = view /\ k <= Len(s.log)}}
    \cup {<<m[2], m[3]>> : m \in {m \in prepares : m[1] = k /\ m[2] = view}}
CommittedIds(k) == {c[3] : c \in {c \in commits : c[2] = k}}

Repair(r) ==
  LET me == rep[r]
  IN /\ Up(r)
     /\ \E k \in 1..Len(me.log) :
          /\ me.log[k].s = "bad"
          /\ \E m \in prepares :
               LET id == <<m[2], m[3]>>
               IN /\ m[1] = k
                  /\ \/ id = me.log[k].id
                     \/ /\ ~Known(me.log[k]) /\ me.st = "normal" /\ id \in CanonicalIds(me.logView, k)
                        /\ k > me.commit \/ Mutant = "committed-as-in-view"
                     \/ ~Known(me.log[k]) /\ id \in CommittedIds(k)
                     \/ Mutant = "repair-by-number"
                  /\ Become(r, [me EXCEPT !.log[k] = Slot(id, "have")])
     /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

\* The op behind the last one known to be committed here, whatever stands in its place. In its view's log nothing
\* else can stand there.
TakeCommitted(r) ==
  LET me == rep[r]
      k == Committed(me) + 1
  IN /\ Up(r) /\ k <= MaxOp
     /\ \E id \in CommittedIds(k) :
          /\ \/ k > Len(me.log)
             \/ k <= Len(me.log) /\ me.st = "change" /\ me.log[k].id # id /\ me.log[k].s # "bad"
          /\ Become(r, [me EXCEPT !.log = Append(SubSeq(@, 1, k - 1), Slot(id, "have")),
                                  !.commit = Max({@, k})])
     /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

-----------------------------------------------------------------------------
(* View change. *)

\* A timer ran out: a wish binds nobody, the replica goes on in its view.
Wish(r) ==
  /\ Wishes /\ Up(r) /\ rep[r].view < MaxView
  /\ wishes' = wishes \cup {<<r, rep[r].view + 1>>}
  /\ UNCHANGED <<rep, prepares, oks, dvcs, svs, commits, faults>>

Wanted(v) ==
  \/ ~Wishes
  \/ Cardinality({r \in Replica : <<r, v>> \in wishes}) >= Quorum
  \/ \E d \in dvcs : d.view = v
  \/ Mutant = "join-alone"

\* Durable first: who has said DoViewChange must never again speak in an earlier view.
Join(r) ==
  LET me == rep[r]
  IN /\ Up(r)
     /\ \E v \in (me.view + 1)..MaxView :
          LET new == [me EXCEPT !.view = v, !.st = "change"]
          IN /\ Wanted(v)
             /\ Become(r, IF Mutant = "view-not-durable" THEN new ELSE ViewOnly(new))
     /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

(* What a set of DoViewChange, one of each sender, says of the new log. The longest log of the highest log_view
   is the candidate: what was committed is in it. An op of it that any of D has stays. One that none has goes if
   enough say that they do not have it. A bad slot says neither, unless its header shows that it was another op. *)

Longest(S) == {d \in S : \A e \in S : Len(e.log) <= Len(d.log)}
Candidates(D) ==
  IF Mutant = "longest-log-wins" THEN Longest(D)
  ELSE Longest({d \in D : \A e \in D : e.logView <= d.logView})
CommitMax(D) == Max({d.commit : d \in D})

\* Which op stands at k. Where the candidate cannot say, another log that is the same up to there may.
IdsAt(D, best, k) ==
  IF k <= CommitMax(D) THEN CommittedIds(k)
  ELSE IF Known(best.log[k]) THEN {best.log[k].id}
  ELSE {d.log[k].id : d \in {d \in D : /\ d.logView = best.logView /\ k <= Len(d.log)
                                       /\ \A j \in 1..(k - 1) : d.log[j].id = best.log[j].id}} \ {Unknown}

Has(d, k, id) == k <= Len(d.log) /\ d.log[k] = Slot(id, "have")
Nacks(d, k, id) ==
  \/ k > Len(d.log)
  \/ Known(d.log[k]) /\ id # Unknown /\ d.log[k].id # id
  \/ Mutant = "bad-is-a-nack" /\ d.log[k].s = "bad"

Verdict(D, best, k) ==
  IF k <= CommitMax(D) THEN "keep"
  ELSE IF k > Len(best.log) THEN "end"
  ELSE LET ids == IdsAt(D, best, k)
           id == IF ids = {} THEN Unknown ELSE CHOOSE i \in ids : TRUE
       IN IF id # Unknown /\ \E d \in D : Has(d, k, id) THEN "keep"
          ELSE IF Cardinality({d \in D : Nacks(d, k, id)}) >= NackQuorum THEN "cut"
          ELSE "wait"

\* The first op that does not stay.
EndOf(D, best) == CHOOSE k \in 1..(MaxOp + 1) :
  /\ k = MaxOp + 1 \/ Verdict(D, best, k) # "keep"
  /\ \A j \in 1..(k - 1) : Verdict(D, best, j) = "keep"
Decided(D, best) == EndOf(D, best) = MaxOp + 1 \/ Verdict(D, best, EndOf(D, best)) # "wait"
Chosen(D, best) == [k \in 1..(EndOf(D, best) - 1) |-> CHOOSE i \in IdsAt(D, best, k) : TRUE]

\* A disk that was replaced does not vouch for what its predecessor said.
Fenced(D, d) ==
  \E e \in D : \E k \in 1..Len(e.log) : \E i \in (d.inc + 1)..(MaxLosses + 1) :
    e.log[k].id[2] = ResetOf(d.from, i)

Complete(D) ==
  /\ Cardinality(D) >= ChangeQuorum
  /\ Mutant = "old-incarnation-counts" \/ \A d \in D : ~Fenced(D, d)

\* One DoViewChange of each of a set of senders; the primary's own is what it is now.
DvcSets(p) ==
  LET own == DvcOf(p, rep[p])
      others == {d \in dvcs : d.view = rep[p].view /\ d.from # p}
  IN {{own} \cup S : S \in {S \in SUBSET others :
        \A d, e \in S : d.from = e.from => d = e}}

(* The log of a view is taken step by step, under the old log_view: what is cut is not part of it, and so is not
   committed; what is added has its body. log_view rises once all of it is durable. A crash may come between, and
   another view: so logs of one log_view may differ in what is not committed. *)

\* So far a log is the one that is taken. A bad slot stays in its place until its op is there again: cut, it would
\* look as if it never had been.
Stays(slot, id) == slot.id = id \/ (slot.id = Unknown /\ Mutant # "bad-is-cut")
Common(log, ids) == Max({k \in 0..Min(Len(log), Len(ids)) : \A j \in 1..k : Stays(log[j], ids[j])})

\* The first m ops are taken. What the disk has of them by then is durable.
Part(log, ids, m) ==
  IF m <= Common(log, ids)
  THEN SubSeq(log, 1, Common(log, ids))
  ELSE [k \in 1..m |-> Slot(ids[k], "have")]

TakePart(r, view, ids) ==
  LET me == rep[r]
      from == IF Mutant = "cut-to-commit" THEN Committed(me) ELSE Common(me.log, ids)
  IN /\ \E m \in from..(Len(ids) - 1) \cup {from} :
          LET taken == IF m = from THEN SubSeq(me.log, 1, from) ELSE Part(me.log, ids, m)
          IN /\ Len(taken) < Len(me.log) \/ m > from
             /\ Become(r, ViewOnly([me EXCEPT !.st = "change", !.view = view, !.log = taken]))
     /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

\* An old StartView may end below what is known here to be committed, from others: it has nothing to say.
Fits(me, ids) == Len(ids) >= Max({me.floor, Committed(me)}) \/ Mutant = "committed-is-cut"

Taken(me, view, ids, commit) ==
  [me EXCEPT !.st = "normal", !.view = view, !.logView = view, !.commit = Max({@, commit}),
             !.log = [k \in 1..Len(ids) |-> Slot(ids[k], "have")]]

\* The new primary takes the log that it chose, and speaks when that is done.
StartView(p) ==
  LET me == rep[p]
  IN /\ me.st = "change" /\ me.logView < me.view
     /\ Primary(me.view) = p \/ Mutant = "any-primary"
     /\ \E D \in DvcSets(p) :
          /\ Complete(D)
          /\ \E best \in Candidates(D) :
               /\ Decided(D, best)
               /\ LET ids == Chosen(D, best)
                      new == Taken(me, me.view, ids, CommitMax(D))
                  IN \/ TakePart(p, me.view, ids)
                     \/ /\ Become(p, Superblock(new))
                        /\ svs' = svs \cup {[view |-> me.view, log |-> ids, commit |-> new.commit]}
                        /\ UNCHANGED <<prepares, wishes, commits, faults>>

\* Somebody asked what the log of the view is: all of it, prepared ops included.
Answer(p) ==
  /\ Answers /\ Leads(p)
  /\ svs' = svs \cup {[view |-> rep[p].view, log |-> Ids(rep[p].log), commit |-> Committed(rep[p])]}
  /\ UNCHANGED <<rep, prepares, oks, wishes, dvcs, commits, faults>>

\* The log of a view is taken once. Who has taken it has acknowledged ops of it, and takes no StartView of that view.
Install(r) ==
  LET me == rep[r]
  IN /\ Up(r)
     /\ \E s \in svs :
          /\ Primary(s.view) # r \/ Mutant = "any-primary"
          /\ \/ s.view >= me.view /\ s.view > me.logView
             \/ Mutant = "old-startview" /\ s.view = me.view /\ Len(s.log) < Len(me.log)
             \/ Mutant = "stale-startview" /\ s.view < me.view /\ s.view > me.logView
          /\ Fits(me, s.log)
          /\ LET new == Taken(me, s.view, s.log, s.commit)
             IN \/ TakePart(r, s.view, s.log)
                \/ /\ Become(r, IF Mutant = "ok-before-log-view" THEN ViewOnly(new)
                                ELSE IF Mutant = "log-view-before-view"
                                     THEN [Superblock(new) EXCEPT !.dview = me.dview]
                                ELSE Superblock(new))
                   /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

-----------------------------------------------------------------------------
(* Faults. *)

DamagedCopies(k) == {r \in Replica : ~Up(r) \/ (k <= Len(rep[r].log) /\ rep[r].log[k].s = "bad")}

\* What is in memory alone is gone. It may leave something that looks like a damaged entry.
Crashed(log) ==
  LET kept == OnDisk(log)
  IN {kept} \cup (IF Torn /\ Len(kept) < Len(log) THEN {Append(kept, Slot(Unknown, "bad"))} ELSE {})

\* One entry is damaged, or none. If the next frame holds, it repeats the header; a damaged frame repeats none.
\* The whole cluster keeps a quorum less its own share of whole copies of each op.
DamagedFrom(log) ==
  {log} \cup
  {[k \in 1..Len(log) |->
      IF k = i THEN Slot(IF i < Len(log) /\ log[i + 1].s = "have" THEN log[i].id ELSE Unknown, "bad")
      ELSE IF k + 1 = i /\ log[k].s = "bad" THEN Slot(Unknown, "bad")
      ELSE log[k]] :
    i \in {i \in 1..Len(log) :
      /\ faults.damage < MaxDamage
      /\ log[i].s = "have"
      /\ Cardinality(DamagedCopies(i)) < N - Quorum}}

CutAtBad(log) ==
  LET whole == {k \in 0..Len(log) : \A j \in 1..k : log[j].s # "bad"} IN SubSeq(log, 1, Max(whole))

\* A primary that comes back does not go on in its view: it may have sent what it lost.
After(r, me) ==
  [me EXCEPT !.st = IF me.dlogView < me.dview THEN "change"
                    ELSE IF Primary(me.dview) = r /\ N > 1 /\ Mutant # "primary-resumes" THEN "resting"
                    ELSE "normal",
             !.view = me.dview, !.logView = me.dlogView]

Crash(r) ==
  LET me == rep[r]
      was == {me.floor, Max({me.floor, Committed(me)})}
  IN /\ Up(r) /\ faults.crashes < MaxCrashes
     /\ \E kept \in Crashed(me.log) : \E log \in DamagedFrom(kept) : \E commit \in was :
          /\ Become(r, IF Mutant = "diskless" THEN [Fresh EXCEPT !.st = "recovering"]
                       ELSE After(r, [me EXCEPT
                              !.log = IF Mutant = "damage-taken-for-torn" THEN CutAtBad(log) ELSE log,
                              !.commit = commit, !.floor = commit]))
          /\ faults' = [faults EXCEPT !.crashes = @ + 1, !.damage = @ + (IF log = kept THEN 0 ELSE 1)]
     /\ UNCHANGED <<prepares, wishes, svs, commits>>

\* The paper's recovery without a disk, for the mutant alone: a quorum answers, the highest primary's log is taken.
RecoverDiskless(r) ==
  /\ Mutant = "diskless" /\ rep[r].st = "recovering"
  /\ \E p \in Replica \ {r} :
       /\ Leads(p)
       /\ \E Q \in SUBSET (Replica \ {r}) :
            /\ p \in Q /\ Cardinality(Q) >= Quorum
            /\ \A q \in Q : rep[q].st = "normal" /\ rep[q].view <= rep[p].view
            /\ LET you == rep[p]
                   new == [Fresh EXCEPT !.view = you.view, !.logView = you.view, !.commit = you.commit,
                             !.log = [k \in 1..Len(you.log) |-> Slot(you.log[k].id, "have")]]
               IN Become(r, Superblock(new))
  /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

\* A disk is gone, and with it all that its replica knew. What stays is silent until the others have let it in.
Lose(r) ==
  LET new == [Fresh EXCEPT !.st = IF Mutant = "lost-disk-votes" THEN "normal" ELSE "lost", !.inc = rep[r].inc + 1]
  IN /\ Up(r) /\ faults.losses < MaxLosses
     /\ \A k \in 1..MaxOp : Cardinality(DamagedCopies(k)) < N - Quorum
     /\ Become(r, new)
     /\ faults' = [faults EXCEPT !.losses = @ + 1]
     /\ UNCHANGED <<prepares, wishes, svs, commits>>

\* The record that lets a new disk in: an op like any other.
Reset(p) ==
  \E r \in Replica \ {p} :
    /\ ~Up(r)
    /\ \A k \in 1..Len(rep[p].log) : rep[p].log[k].id[2] # ResetOf(r, rep[r].inc)
    /\ Order(p, ResetOf(r, rep[r].inc))

\* It is committed: the new disk copies the log of the view, durably, and votes from now on.
Rejoin(r) ==
  /\ rep[r].st = "lost"
  /\ \E p \in Replica \ {r} :
       LET you == rep[p]
       IN /\ Leads(p)
          /\ \E k \in 1..Len(you.log) :
               /\ you.log[k].id[2] = ResetOf(r, rep[r].inc)
               /\ k <= you.commit \/ Mutant = "rejoin-before-commit"
          /\ LET new == [rep[r] EXCEPT !.st = "normal", !.view = you.view, !.logView = you.view,
                           !.commit = you.commit,
                           !.log = [j \in 1..Len(you.log) |-> Slot(you.log[j].id, "have")]]
             IN Become(r, Superblock(new))
  /\ UNCHANGED <<prepares, wishes, svs, commits, faults>>

-----------------------------------------------------------------------------
Step(r) ==
  \/ Request(r) \/ Sync(r) \/ ReceivePrepare(r) \/ Commit(r) \/ LearnCommit(r)
  \/ Repair(r) \/ TakeCommitted(r)
  \/ Wish(r) \/ Join(r) \/ StartView(r) \/ Answer(r) \/ Install(r)
  \/ Reset(r) \/ Rejoin(r) \/ RecoverDiskless(r)

Fault(r) == Crash(r) \/ Lose(r)

Next == \E r \in Replica : Step(r) \/ Fault(r)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* What must hold. *)

\* For every op there is one entry that anybody ever commits, in any view.
Agreement ==
  /\ \A a, b \in commits : a[2] = b[2] => a[3] = b[3]
  /\ \A r \in Replica : \A k \in 1..Committed(rep[r]) :
       \A c \in commits : c[2] = k => c[3] = rep[r].log[k].id

\* A durable copy of an op, or a place that the fault plan took one from.
Copy(r, k, id) ==
  \/ ~Up(r)
  \/ k <= Len(rep[r].log) /\ rep[r].log[k] \in {Slot(id, "have"), Slot(id, "bad"), Slot(Unknown, "bad")}

\* What a client was told to be there is on a quorum's disks.
AckedIsDurable ==
  \A c \in commits : Cardinality({r \in Replica : Copy(r, c[2], c[3])}) >= Quorum

\* What a quorum acknowledged in one view, known to be committed or not, is in the log of each later view.
AckedIsKept ==
  \A o \in oks :
    LET quorum == Cardinality({r \in Replica : <<r, o[2], o[3], o[4]>> \in oks}) >= Quorum
    IN quorum => \A s \in svs : s.view > o[2] => o[3] <= Len(s.log) /\ s.log[o[3]] = o[4]

\* A view has one primary: one log, that only grows, and one op of each number that was prepared in it.
OnePrimary ==
  /\ \A s, t \in svs : s.view = t.view =>
       \A k \in 1..Min(Len(s.log), Len(t.log)) : s.log[k] = t.log[k]
  /\ \A m, n \in prepares : m[1] = n[1] /\ m[2] = n[2] => m = n

\* All who have the log of a view have one log, some more of it than others.
OneLogOfAView ==
  \A r, q \in Replica :
    LET a == rep[r] b == rep[q]
    IN a.st = "normal" /\ b.st = "normal" /\ a.view = b.view =>
         \A k \in 1..Min(Len(a.log), Len(b.log)) :
           Known(a.log[k]) /\ Known(b.log[k]) => a.log[k].id = b.log[k].id

\* PrepareOk is said of what is durable, by a replica whose view and log_view are.
OkIsHonest ==
  \A o \in oks : LET me == rep[o[1]] IN
    me.inc = 1 =>
      /\ me.dview >= o[2] /\ me.dlogView >= o[2]
      /\ me.dview = o[2] => o[3] <= Len(me.log) /\ me.log[o[3]].s \in {"have", "bad"}

LogViewBelowView == \A r \in Replica : rep[r].dlogView <= rep[r].dview /\ rep[r].logView <= rep[r].view

\* All up to the commit floor is here, or was.
FloorIsDurable ==
  \A r \in Replica : rep[r].floor <= Len(rep[r].log)
    /\ \A k \in 1..rep[r].floor : rep[r].log[k].s \in {"have", "bad"}

\* Nobody is in a view that no quorum wanted.
JoinedIsWanted ==
  Wishes => \A r \in Replica : rep[r].view > 0 =>
    Cardinality({q \in Replica : <<q, rep[r].view>> \in wishes}) >= Quorum

\* What the superblock says never goes back.
Monotone ==
  [][\A r \in Replica : rep'[r].inc = rep[r].inc =>
       /\ rep'[r].dview >= rep[r].dview
       /\ rep'[r].dlogView >= rep[r].dlogView
       /\ rep'[r].floor >= rep[r].floor]_vars

-----------------------------------------------------------------------------
(* What must be able to happen: TLC has to refute each of these, else the model is too tame. *)

NeverCutsAnOp == \A s \in svs : \A o \in prepares : o[2] < s.view => o[1] <= Len(s.log)
NeverSays(verdict) ==
  \A r \in Replica : rep[r].st = "change" /\ Primary(rep[r].view) = r =>
    \A D \in DvcSets(r) : Cardinality(D) >= Quorum =>
      \A best \in Candidates(D) :
        EndOf(D, best) <= MaxOp => Verdict(D, best, EndOf(D, best)) # verdict
NeverWaits == NeverSays("wait")
NeverCutsByNacks == NeverSays("cut")
\* A view begins with a quorum of which one does not know what its log ended with, since another has a later view's log.
NeverBeginsBesideDamage ==
  \A r \in Replica : rep[r].st = "change" /\ Primary(rep[r].view) = r =>
    \A D \in DvcSets(r) : Complete(D) /\ Cardinality(D) = Quorum =>
      \A best \in Candidates(D) : Decided(D, best) =>
        ~\E d \in D : d.logView < best.logView /\ \E k \in 1..Len(d.log) : ~Known(d.log[k])
NeverDiffersUnderOneLogView ==
  \A d, e \in dvcs : d.logView = e.logView =>
    \A k \in 1..Min(Len(d.log), Len(e.log)) :
      Known(d.log[k]) /\ Known(e.log[k]) => d.log[k].id = e.log[k].id
NeverBehindItsCommit == \A r \in Replica : rep[r].commit <= Len(rep[r].log)
NeverRejoins == \A r \in Replica : rep[r].inc = 1 \/ ~Up(r)
NeverFences ==
  \A r \in Replica : rep[r].st = "change" /\ Primary(rep[r].view) = r =>
    \A D \in DvcSets(r) : \A d \in D : ~Fenced(D, d)
NeverCommitsInEachView == \E v \in View : \A c \in commits : c[1] # v

Symmetry == Permutations(Values)

=============================================================================
