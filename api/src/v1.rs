//! Version 1 of the API: a file per resource.

pub(crate) mod append;
pub(crate) mod backups;
pub(crate) mod bulk;
pub(crate) mod cloudevents;
pub(crate) mod conditions;
pub(crate) mod events;
pub(crate) mod follow;
pub(crate) mod health;
pub(crate) mod links;
pub(crate) mod log;
pub(crate) mod new_event;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod read;
pub(crate) mod receipt;
pub(crate) mod records;
pub(crate) mod selection;
pub(crate) mod streams;
pub(crate) mod transactions;

pub(crate) use conditions::{ActualBody, ExpectedBody, FailedConditionBody};
