//! A world for replicas: a network, disks, clocks and clients, all driven by one seed.
//!
//! [`World`] drives the production [`crate::Replica`] on whatever a [`Host`] makes of it; the store's host is the production
//! kernel, log and recovery on a disk in memory. First comes a *safety phase* with faults drawn from the seed, then
//! a *liveness phase*: a core of the cluster is healed, the rest stays as broken as it is, and the core must answer
//! every client and converge. After each event the checkers look at what changed; `VIOLATIONS` names them. One replica may
//! lie ([`Lie`]): then honest ones must stay whole and say what they saw, and agree where the lie alone cannot prevent it.
//!
//! Absent: threads, real time, randomness from anywhere but the seed.

mod checker;
mod coverage;
mod host;
mod liar;
mod mutant;
mod network;
mod schedule;
mod world;

pub use checker::{VIOLATIONS, Violation};
pub use host::{Failure, Harm, Harmed, Host, Reply, Stopped, Told, Work, Workload};
pub use liar::Lie;
pub use mutant::Mutant;
pub use schedule::{Config, Fault, Planned};
pub use world::{Coverage, Outcome, World};
