//! Scripted scenes: a few replicas, messages that come when the scene says so, disks that write when it says so.
//! Each scene is a trap that others fell into.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod byzantine;
mod damage;
mod lost_disk;
mod scene;
mod traps;
