-------------------------- MODULE Reconfiguration --------------------------
(* Growth and shrinking of a cluster by logged steps, each of one member.

   The rules:
   1  A step is an op of the log. It counts from the moment it stands in a log, for that log: an op is committed by a
      quorum of the members as of that op, the step itself included; a view begins with a quorum of the members as
      of the end of the log that was chosen.
   2  The next step is ordered only when all before it is committed.
   3  The first step of a view is ordered only when a quorum has taken the log of the view. That nothing inherited
      waits for its commit is not enough.
   4  The primary of a view follows from the view alone, whoever the members are: view % Slots. A view whose
      primary is no member is passed over.
   5  A primary does not order its own removal: it goes first.

   Crashes are steps not taken; what is said of disks is in VSR.tla, and here a log, a view and a log view are durable
   as soon as they are there. An op's identity is the view that it was ordered in, and by whom. `Mutant` is the name
   of one rule that is broken, or "none". *)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
  Slots,     \* replicas that may be members, numbered from 0
  Start,     \* the first members
  Views,     \* the views that there are; 0 is one of them
  Adds, Removes, \* whether members are added, removed
  MaxOp, MaxWrites,
  Mutant

VARIABLES
  rep,       \* each replica: view, logView, log, commit
  prepares,  \* <<view, primary, op, entry>>
  oks,       \* <<replica, view, primary, op>>: this and all before it is durable, as the log of the view has it
  dvcs, svs, \* DoViewChange, StartView
  commits    \* <<view, primary, op, entry>>: committed and answered by that primary

vars == <<rep, prepares, oks, dvcs, svs, commits>>

Replica == 0..(Slots - 1)
Max(S) == CHOOSE m \in S : \A o \in S : o <= m
Min(a, b) == IF a < b THEN a ELSE b

-----------------------------------------------------------------------------
\* An entry: the view and the primary that ordered it, who is added, who is removed. Of a write, nobody is.
Entry(view, by, add, remove) == [view |-> view, by |-> by, add |-> add, remove |-> remove]
IsStep(e) == e.add # {} \/ e.remove # {}

RECURSIVE Members(_)
Members(log) ==
  IF log = <<>> THEN Start
  ELSE LET e == log[Len(log)] IN (Members(SubSeq(log, 1, Len(log) - 1)) \cup e.add) \ e.remove
MembersAt(log, k) == Members(SubSeq(log, 1, k))

IsQuorum(who, members) ==
  2 * Cardinality(IF Mutant = "outsiders-count" THEN who ELSE who \cap members) > Cardinality(members)

\* The mutant counts around among the members, as a fixed cluster could, and takes votes whomever they were meant for.
Nth(members, n) == CHOOSE r \in members : Cardinality({q \in members : q < r}) = n
Primary(v, members) ==
  IF Mutant = "primary-by-members" THEN Nth(members, v % Cardinality(members)) ELSE v % Slots

Init ==
  /\ rep = [r \in Replica |-> [view |-> 0, logView |-> 0, log |-> <<>>, commit |-> 0]]
  /\ prepares = {} /\ dvcs = {} /\ commits = {}
  /\ oks = {<<r, 0, Primary(0, Start), 0>> : r \in Start}
  /\ svs = {[view |-> 0, by |-> Primary(0, Start), log |-> <<>>, commit |-> 0]}

Leads(p) ==
  /\ rep[p].logView = rep[p].view
  /\ \E s \in svs : s.view = rep[p].view /\ s.by = p

Ok(r, view, by, log) == {<<r, view, by, k>> : k \in 0..Len(log)}

-----------------------------------------------------------------------------
Order(p, add, remove) ==
  LET me == rep[p]
      e == Entry(me.view, p, add, remove)
  IN /\ Leads(p) /\ Len(me.log) < MaxOp
     /\ rep' = [rep EXCEPT ![p].log = Append(@, e)]
     /\ prepares' = prepares \cup {<<me.view, p, Len(me.log) + 1, e>>}
     /\ oks' = oks \cup {<<p, me.view, p, Len(me.log) + 1>>}
     /\ UNCHANGED <<dvcs, svs, commits>>

Write(p) ==
  /\ Cardinality({m \in prepares : ~IsStep(m[4])}) < MaxWrites
  /\ p \in Members(rep[p].log)
  /\ Order(p, {}, {})

\* Whether a primary may order a step now.
MayChange(p) ==
  LET me == rep[p]
      inherited == CHOOSE s \in svs : s.view = me.view /\ s.by = p
      took == {r \in Replica : \E o \in oks : o[1] = r /\ o[2] = me.view /\ o[3] = p /\ o[4] >= Len(inherited.log)}
  IN /\ me.commit = Len(me.log) \/ Mutant = "next-before-commit"
     /\ Mutant = "step-before-quorum" \/ IsQuorum(took \cup {p}, Members(me.log))

Add(p) ==
  /\ Adds /\ Leads(p) /\ MayChange(p)
  /\ \E new \in SUBSET (Replica \ Members(rep[p].log)) :
       /\ Cardinality(new) = 1 \/ (Mutant = "two-at-once" /\ Cardinality(new) = 2)
       /\ Order(p, new, {})

Remove(p) ==
  /\ Removes /\ Leads(p) /\ MayChange(p)
  /\ \E old \in Members(rep[p].log) :
       /\ old # p \/ Mutant = "own-removal"
       /\ Members(rep[p].log) # {old}
       /\ Order(p, {}, {old})

Receive(r) ==
  LET me == rep[r]
  IN /\ me.logView = me.view /\ ~Leads(r)
     /\ \E m \in prepares :
          /\ m[1] = me.view /\ m[3] = Len(me.log) + 1
          \* With one primary of a view, which the mutant does not keep, there is but one log to follow.
          /\ \E s \in svs : s.view = m[1] /\ s.by = m[2] /\ SubSeq(me.log, 1, Min(Len(me.log), Len(s.log))) = s.log
          /\ rep' = [rep EXCEPT ![r].log = Append(@, m[4])]
          /\ oks' = oks \cup {<<r, me.view, m[2], m[3]>>}
     /\ UNCHANGED <<prepares, dvcs, svs, commits>>

Commit(p) ==
  LET me == rep[p]
  IN /\ Leads(p)
     /\ \E k \in (me.commit + 1)..Len(me.log) :
          /\ \A j \in (me.commit + 1)..k :
               IsQuorum({o[1] : o \in {o \in oks : o[2] = me.view /\ o[3] = p /\ o[4] >= j}},
                 MembersAt(me.log, j))
          /\ rep' = [rep EXCEPT ![p].commit = k]
          /\ commits' = commits \cup {<<me.view, p, j, me.log[j]>> : j \in (me.commit + 1)..k}
     /\ UNCHANGED <<prepares, oks, dvcs, svs>>

LearnCommit(r) ==
  LET me == rep[r]
  IN /\ me.logView = me.view
     /\ \E c \in commits :
          /\ c[1] = me.view /\ me.commit < c[3] /\ c[3] <= Len(me.log)
          /\ rep' = [rep EXCEPT ![r].commit = c[3]]
     /\ UNCHANGED <<prepares, oks, dvcs, svs, commits>>

-----------------------------------------------------------------------------
DvcOf(r, me) == [from |-> r, view |-> me.view, logView |-> me.logView, log |-> me.log, commit |-> me.commit,
                 to |-> Primary(me.view, Members(me.log))]

\* Who is no member by its own log may be one by another's, so everybody joins; who counts is the chooser's question.
Join(r) ==
  LET me == rep[r]
  IN \E v \in {v \in Views : v > me.view} :
       LET new == [me EXCEPT !.view = v]
       IN /\ rep' = [rep EXCEPT ![r] = new]
          /\ dvcs' = dvcs \cup {DvcOf(r, new)}
          /\ UNCHANGED <<prepares, oks, svs, commits>>

Best(D) == CHOOSE d \in D : \A e \in D :
  e.logView < d.logView \/ (e.logView = d.logView /\ Len(e.log) <= Len(d.log))

StartView(p) ==
  LET me == rep[p]
      heard == {d \in dvcs : d.view = me.view /\ (d.to = p \/ Mutant = "primary-by-members")}
  IN /\ me.logView < me.view
     /\ \E own \in heard : own.from = p /\ own.to = p
     /\ \E D \in SUBSET heard :
          /\ D # {} /\ \E own \in D : own.from = p
          /\ LET best == Best(D)
                 members == Members(best.log)
                 commit == Max({d.commit : d \in D})
             IN /\ IsQuorum({d.from : d \in D}, members)
                /\ p \in members \/ Mutant = "outsider-leads"
                /\ rep' = [rep EXCEPT ![p] = [view |-> me.view, logView |-> me.view, log |-> best.log, commit |-> commit]]
                /\ svs' = svs \cup {[view |-> me.view, by |-> p, log |-> best.log, commit |-> commit]}
                /\ oks' = oks \cup Ok(p, me.view, p, best.log)
     /\ UNCHANGED <<prepares, dvcs, commits>>

Install(r) ==
  LET me == rep[r]
  IN \E s \in svs :
       /\ s.view >= me.view /\ s.view > me.logView
       /\ rep' = [rep EXCEPT ![r] = [view |-> s.view, logView |-> s.view, log |-> s.log, commit |-> Max({me.commit, s.commit})]]
       /\ oks' = oks \cup Ok(r, s.view, s.by, s.log)
       /\ UNCHANGED <<prepares, dvcs, svs, commits>>

Next == \E r \in Replica :
  \/ Write(r) \/ Add(r) \/ Remove(r) \/ Receive(r) \/ Commit(r) \/ LearnCommit(r)
  \/ Join(r) \/ StartView(r) \/ Install(r)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
Agreement == \A a, b \in commits : a[3] = b[3] => a[4] = b[4]

\* What was committed in a view is in the log of each later one.
CommittedIsKept ==
  \A c \in commits : \A s \in svs : s.view > c[1] => c[3] <= Len(s.log) /\ s.log[c[3]] = c[4]

OnePrimary ==
  /\ \A s, t \in svs : s.view = t.view => s = t
  /\ \A a, b \in prepares : a[1] = b[1] /\ a[3] = b[3] => a = b

\* The members that decide are one step apart at most: each quorum of those of a view's first log meets each quorum of
\* the members as of what earlier views committed; and so for each op that is ordered behind it.
CommittedBelow(v) ==
  LET earlier == {c \in commits : c[1] < v}
      top == Max({0} \cup {c[3] : c \in earlier})
  IN [k \in 1..top |-> (CHOOSE c \in earlier : c[3] = k)[4]]
QuorumsOf(members) == {Q \in SUBSET members : 2 * Cardinality(Q) > Cardinality(members)}
Meet(a, b) == \A Q \in QuorumsOf(a) : \A R \in QuorumsOf(b) : Q \cap R # {}
NoDisjointQuorums ==
  /\ \A s \in svs : Meet(Members(s.log), Members(CommittedBelow(s.view)))
  /\ \A r \in Replica : Leads(r) =>
       Meet(Members(rep[r].log), Members(CommittedBelow(rep[r].view + 1)))

\* Nobody answers behind its own removal. (A primary may well answer what was ordered before it was added.)
NoRemovedPrimaryAnswers ==
  Agreement => \A c \in commits :
    LET log == [k \in 1..c[3] |-> (CHOOSE d \in commits : d[3] = k)[4]]
    IN (\E k \in 1..c[3] : c[2] \in log[k].remove) => c[2] \in Members(log)

\* What must be able to happen.
NeverGrows == \A r \in Replica : Cardinality(MembersAt(rep[r].log, Min(rep[r].commit, Len(rep[r].log)))) < Slots
NeverShrinksToOne == \A r \in Replica : Cardinality(MembersAt(rep[r].log, Min(rep[r].commit, Len(rep[r].log)))) > 1
NeverLedByAnother ==
  \A s \in svs : \A c \in commits : s.view > 0 /\ c[1] = s.view => c[4].remove = {}

=============================================================================
