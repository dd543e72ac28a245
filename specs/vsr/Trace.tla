------------------------------- MODULE Trace -------------------------------
(* Whether the model can do what a trace of the simulator says. `specs/check --trace` makes TraceData of the trace.

   Each event is one step of one replica, and says what the replica is behind it: view, log_view, the last op
   of its log, how far it knows it to be committed and has it. Where the log is not empty it also says the last op's
   identity. Steps that leave no event: hearing how far others have committed, and what is only said. *)
EXTENDS VSR, TraceData

VARIABLE followed

traceVars == <<vars, followed>>

Is(e, event) == e.event = event

Does(e) ==
  LET r == e.replica
      part == rep'[r].st = "change"
  IN \/ Is(e, "request") /\ Request(r)
     \/ Is(e, "written") /\ (Sync(r) \/ ReceivePrepare(r) \/ Repair(r) \/ TakeCommitted(r))
     \/ Is(e, "commit") /\ (Commit(r) \/ LearnCommit(r))
     \/ Is(e, "join") /\ Join(r)
     \/ Is(e, "take") /\ (StartView(r) \/ Install(r)) /\ part
     \/ Is(e, "start") /\ StartView(r) /\ ~part
     \/ Is(e, "install") /\ Install(r) /\ ~part
     \/ Is(e, "crash") /\ Crash(r)
     \/ Is(e, "lose") /\ Lose(r)
     \/ Is(e, "reset") /\ Reset(r)
     \/ Is(e, "rejoin") /\ Rejoin(r)

Shows(e) ==
  LET me == rep'[e.replica]
  IN /\ me.view = e.view /\ me.logView = e.log_view
     /\ Len(me.log) = e.op /\ Committed(me) = e.commit
     /\ "value" \in DOMAIN e => me.log[e.op].id = <<e.prepared, e.value>>
     /\ {k \in 1..Len(me.log) : me.log[k].s = "bad"} = (IF "damaged" \in DOMAIN e THEN e.damaged ELSE {})

Follow ==
  /\ followed < Len(Events)
  /\ Does(Events[followed + 1]) /\ Shows(Events[followed + 1])
  /\ followed' = followed + 1
  /\ IF TLCGet(1) < followed' THEN PrintT(<<"followed", followed'>>) /\ TLCSet(1, followed') ELSE TRUE

Silent ==
  /\ followed < Len(Events)
  /\ LearnCommit(Events[followed + 1].replica) \/ \E p \in Replica : Answer(p)
  /\ UNCHANGED followed

TraceSpec == Init /\ followed = 0 /\ TLCSet(1, 0) /\ [][Follow \/ Silent]_traceVars

\* TLC refutes this when it has followed the whole trace.
NotDone == followed < Len(Events)

=============================================================================
