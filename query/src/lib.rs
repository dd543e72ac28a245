//! SQL over the log, as of any moment.
//!
//! A request is parsed, checked for clauses that nobody would heed ([`statement`]), its tables are pinned to moments of
//! the log ([`time_travel`]), and Apache `DataFusion` plans and runs it over tables that hold nothing but these moments
//! ([`catalog`]). Statements that change something are worked out in the same way and written as records
//! ([`writes`], `engine::changes`). Answers are batches of rows, made on threads of their own that give way to everything else
//! ([`engine`]), within bounds on time and memory.
//!
//! Absent on purpose: HTTP, status codes. No file of the server and no other host can be reached: only these tables are known, and nothing
//! spills to disk.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "`clippy.toml` names what the pure parts must not do; they refuse it themselves"
)]

mod arithmetic;
mod bounded;
mod catalog;
mod dialect;
mod engine;
mod error;
mod events;
pub mod limits;
mod lists;
mod rows;
mod scan;
mod session;
mod statement;
mod streams;
mod tables;
mod time_travel;
mod values;
mod writes;

pub use engine::{Answer, Engine, Form, Page, Request, RowStream, Settings};
pub use error::{Place, QueryError};
pub use rows::Column;
pub use values::Parameter;
