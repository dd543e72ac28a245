//! Bugs that are planted to see that the checkers find them.

macro_rules! mutants {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $invariants:expr;)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Whether only a liar brings it to light.
            pub const fn needs_liar(self) -> bool {
                matches!(self, Self::HearsAnybody)
            }

            /// The invariants, one of which it breaks first.
            pub const fn breaks(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &$invariants,)*
                }
            }
        }
    };
}

mutants! {
    /// One replica fewer than a quorum commits.
    SmallQuorum, "small-quorum", ["S3"];
    /// A backup says that it has an op before it does.
    AckEarly, "ack-early", ["S4"];
    /// A replica votes before it has durably left the views before.
    VoteEarly, "vote-early", ["S4"];
    /// A new primary takes its own log, whatever others have.
    OwnLog, "own-log", ["S9"];
    /// A backup calls what it has the log of the view, whatever the primary says.
    KeepsLog, "keeps-log", ["S8"];
    /// A replica whose disk is new votes before it is let in.
    VotesBeforeReset, "votes-before-reset", ["S4"];
    /// A primary does not let a replaced disk in.
    NeverLetIn, "never-let-in", ["L7"];
    /// Replicas that are no members acknowledge, vote and are counted.
    StandbysCount, "standbys-count", ["S3"];
    /// A change of the members is ordered before what comes before it is committed, and before a quorum has the log.
    StepTooEarly, "step-too-early", ["MEMBERS"];
    /// A primary takes up changes of the members and forgets them.
    NeverChanges, "never-changes", ["L8"];
    /// A change of the members counts once it is committed.
    InForceAtCommit, "in-force-at-commit", ["S3"];
    /// A replica cuts what it does not know to be committed when it leaves a view.
    CutOnLeaving, "cut-on-leaving", ["S10"];
    /// A primary goes on in its view after a restart.
    SameViewAgain, "same-view-again", ["S8"];
    /// A replica comes back in the view of its log.
    ForgetsView, "forgets-view", ["S5"];
    /// A replica that does not know what it has acknowledged votes as if it knew.
    VoteUncertain, "vote-uncertain", ["S10"];
    /// The vote of a replica that does not know what it has acknowledged counts whatever the others have.
    CountsUncertain, "counts-uncertain", ["S10", "S3"];
    /// A replica that does not know what it has acknowledged takes what is left for all of it once it joins a view.
    CertainEarly, "certain-early", ["S3"];
    /// The damaged end of a log is cut like a torn write.
    DamageIsTorn, "damage-is-torn", ["S3", "S16"];
    /// Damage that no start meets is not looked for.
    NoScrub, "no-scrub", ["S16"];
    /// A damaged op is put back with any op of its number.
    RepairByNumber, "repair-by-number", ["S16"];
    /// Nobody is asked for what is damaged.
    NeverMends, "never-mends", ["L4"];
    /// Ops are given to others as they are read, whether they hold or not.
    ServesUnchecked, "serves-unchecked", ["S16"];
    /// The log view is raised beyond the view.
    LogViewAhead, "log-view-ahead", ["S6"];
    /// A backup calls an op committed that it has not written.
    CommitAhead, "commit-ahead", ["S7"];
    /// A follower that comes from elsewhere goes on one record behind its place.
    ResumesLate, "resumes-late", ["S13"];
    /// Whatever comes too early is kept.
    HoldsAll, "holds-all", ["S19"];
    /// What was written lately is never forgotten.
    NeverForgets, "never-forgets", ["S19"];
    /// Ops are prepared without bound.
    NoBound, "no-bound", ["S19"];
    /// The time of an op is whatever the clock says.
    AnyTime, "any-time", ["S14"];
    /// A primary promises what its own clock shows.
    RawPromise, "raw-promise", ["CLOSED"];
    /// A new primary does not keep what others promised of times.
    ForgetsPromise, "forgets-promise", ["CLOSED"];
    /// A restart forgets what was promised of times.
    ForgetsFloor, "forgets-floor", ["CLOSED"];
    /// Some ops carry the first view.
    AnyView, "any-view", ["S2"];
    /// Two logs with one op in common are taken for the same.
    AnyCommitted, "any-committed", ["S1"];
    /// What is written is not synced.
    NoSync, "no-sync", ["S3"];
    /// A sync that fails is taken for one that was done.
    GoesOn, "goes-on", ["S3"];
    /// The state of backups drifts.
    OtherState, "other-state", ["S11"];
    /// Events that are there already are not looked for.
    ForgetsIds, "forgets-ids", ["S12"];
    /// Answers are given before their op is committed.
    AnswersEarly, "answers-early", ["S3", "S12", "S13"];
    /// Answers from what is committed are given without asking whether this replica still leads.
    Unconfirmed, "unconfirmed", ["S13"];
    /// Bodies are not checked against their headers.
    AnyBody, "any-body", ["HOST"];
    /// A replica panics at whatever it is told in a view behind the third.
    Panics, "panics", ["PANIC"];
    /// Messages are believed whatever their checksum says.
    AnyMessage, "any-message", ["S17"];
    /// Whoever says so is taken for the primary. It takes a liar to see it.
    HearsAnybody, "hears-anybody", ["S1", "S3", "S4"];
    /// Who speaks in a view that is past is called a liar.
    Accuses, "accuses", ["NOTICE"];
    /// Heartbeats tell of all that is committed but the last op.
    LateCommit, "late-commit", ["L3"];
    /// Some commands are taken and forgotten, however often they are asked.
    ForgetsCommands, "forgets-commands", ["L2"];
    /// Times of ops depend on chance: the same seed does not do the same again.
    Chance, "chance", ["S18"];
    /// Backups never look for another primary.
    NoElection, "no-election", ["L1"];
    /// One replica's wish for another view is enough.
    JoinsAlone, "joins-alone", ["L6"];
    /// A replica that lacks ops does not ask for them.
    NoRepair, "no-repair", ["L5"];
}
