-------------------------------- MODULE Live --------------------------------
(* Whether the replicated log goes on. Faults have stopped, and a quorum, the core, takes every step that it can
   take for good; the others may do anything allowed, or nothing. Views are bounded here, so the last one has to
   work: nobody crashes in it. *)
EXTENDS VSR

CONSTANT Core

LiveNext == \E r \in Replica : Step(r) \/ (rep[r].view < MaxView /\ Crash(r))

Fair == \A r \in Core :
  /\ WF_vars(Request(r)) /\ WF_vars(Sync(r)) /\ WF_vars(ReceivePrepare(r))
  /\ WF_vars(Commit(r)) /\ WF_vars(LearnCommit(r)) /\ WF_vars(Repair(r)) /\ WF_vars(TakeCommitted(r))
  /\ WF_vars(Join(r)) /\ WF_vars(StartView(r)) /\ WF_vars(Install(r))

LiveSpec == Init /\ [][LiveNext]_vars /\ Fair

\* All of the core come to have, and to know to be committed, all that there is room for.
Progress == <>(\A r \in Core : Committed(rep[r]) = MaxOp)

=============================================================================
