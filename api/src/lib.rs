//! Kimberlite over HTTP: the server, its OpenAPI document, and the command line of the one binary.
//!
//! A request passes [`app`]'s one layer (who may call at all, trace id, metrics), reaches its
//! route, is turned into the store's words, and is answered from the store. [`problem`] is the one
//! table of all that can go wrong, [`config`] of all that can be set, [`operations`] of all that is measured,
//! `openapi` of all routes.
//!
//! Absent on purpose: what an event means, who may see it, and how it is kept; those are the crates
//! below.

mod accept;
pub mod app;
mod backups;
mod body;
pub mod cli;
pub mod config;
mod docs;
mod gate;
mod json;
pub mod limits;
mod links;
mod metrics;
mod observe;
pub mod openapi;
pub mod operations;
mod outbound;
pub mod problem;
mod query;
mod room;
pub mod server;
mod stalled;
pub mod stamps;
mod v1;
pub mod witness;
pub mod witnesses;
