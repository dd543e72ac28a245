//! Why a query has no answer.

use datafusion::error::DataFusionError;
use kimberlite_store::{
    append::AppendError,
    error::ReadError,
    words::{Position, Timestamp},
};

/// A place in a statement, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Character in the line.
    pub column: u64,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// What was sent is not SQL as it is understood here.
    #[error("{what}")]
    Syntax {
        /// What is wrong with it.
        what: String,
        /// Where.
        place: Option<Place>,
    },
    /// A clause or statement that would not be heeded.
    #[error("{what}")]
    Unsupported {
        /// Which one, and what there is instead.
        what: String,
        /// Where.
        place: Option<Place>,
    },
    /// It does not fit the tables, columns and functions that there are.
    #[error("{0}")]
    Meaning(String),
    /// A parameter is missing, or not of a type that fits.
    #[error("{what}")]
    Parameter {
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        what: String,
    },
    /// A value on the way made it impossible: a division by zero, a cast, an overflow.
    #[error("{0}")]
    Value(String),
    /// There is no record there yet.
    #[error("position {position} is beyond the log, which has {records} records")]
    NoRecord {
        /// The position that was asked for.
        position: Position,
        /// How many records there are.
        records: u64,
    },
    /// A time up to which records may still come.
    #[error("{asked} is beyond the closed time {closed}: records up to then may still come")]
    NotClosed {
        /// The time that was asked for.
        asked: Timestamp,
        /// Nothing more comes up to here.
        closed: Timestamp,
    },
    /// A time before the log's first record.
    #[error("the log has no records up to {asked}")]
    BeforeFirst {
        /// The time that was asked for.
        asked: Timestamp,
    },
    /// A limit that the statement breaks.
    #[error("{what}")]
    Limit {
        /// Its name.
        limit: &'static str,
        /// What was over it.
        what: String,
    },
    /// There is a row with the key that a new one has.
    #[error("the table \"{table}\" has a row with this key already")]
    Duplicate {
        /// The table.
        table: String,
    },
    /// There is a table of that name.
    #[error("there is a table \"{table}\" already")]
    TableExists {
        /// The table.
        table: String,
    },
    /// A row is not as the table says.
    #[error("{0}")]
    Constraint(String),
    /// What the request rests on changed at every try. Nothing was written.
    #[error("what the request rests on changed at every try")]
    Contended,
    /// It was not written, or it is not known whether it was.
    #[error(transparent)]
    Write(AppendError),
    /// Too many queries run and wait.
    #[error("too many queries are running")]
    Overloaded,
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The engine failed where it must not.
    #[error("the query engine failed")]
    Engine(#[source] DataFusionError),
}

/// The setting that bounds a query's memory.
pub(crate) const MEMORY: &str = "query.memory_bytes";

impl QueryError {
    /// A failure while a statement was planned.
    pub(crate) fn planning(error: DataFusionError) -> Self {
        match inner(error) {
            Inner::Ours(error) => error,
            Inner::Other(DataFusionError::NotImplemented(what)) => {
                Self::Unsupported { what, place: None }
            }
            Inner::Other(DataFusionError::SQL(error, _)) => {
                Self::Syntax { what: error.to_string(), place: None }
            }
            Inner::Other(error @ (DataFusionError::Internal(_) | DataFusionError::External(_))) => {
                Self::Engine(error)
            }
            Inner::Other(DataFusionError::ResourcesExhausted(_)) => Self::memory(),
            Inner::Other(DataFusionError::Plan(what)) => Self::Meaning(what),
            // Constants are worked out while planning.
            Inner::Other(
                error @ (DataFusionError::ArrowError(..) | DataFusionError::Execution(_)),
            ) => Self::Value(value_text(&error)),
            Inner::Other(error) => Self::Meaning(error.strip_backtrace()),
        }
    }

    /// A failure while a statement ran.
    pub(crate) fn running(error: DataFusionError) -> Self {
        match inner(error) {
            Inner::Ours(error) => error,
            Inner::Other(DataFusionError::ResourcesExhausted(_)) => Self::memory(),
            Inner::Other(error @ (DataFusionError::Internal(_) | DataFusionError::External(_))) => {
                Self::Engine(error)
            }
            Inner::Other(DataFusionError::NotImplemented(what)) => {
                Self::Unsupported { what, place: None }
            }
            Inner::Other(error) => Self::Value(value_text(&error)),
        }
    }

    pub(crate) fn memory() -> Self {
        let what = "the query needs more memory than one query may have".to_owned();
        Self::Limit { limit: MEMORY, what }
    }
}

enum Inner {
    Ours(QueryError),
    Other(DataFusionError),
}

/// Takes off what is wrapped around an error, and finds our own.
fn inner(error: DataFusionError) -> Inner {
    match error {
        DataFusionError::Context(_, inside) | DataFusionError::Diagnostic(_, inside) => {
            inner(*inside)
        }
        DataFusionError::Shared(shared) => match std::sync::Arc::try_unwrap(shared) {
            Ok(inside) => inner(inside),
            Err(shared) => Inner::Other(DataFusionError::Execution(shared.strip_backtrace())),
        },
        DataFusionError::Collection(mut all) if !all.is_empty() => inner(all.remove(0)),
        DataFusionError::External(inside) => match inside.downcast::<QueryError>() {
            Ok(ours) => Inner::Ours(*ours),
            Err(inside) => match inside.downcast::<DataFusionError>() {
                Ok(wrapped) => inner(*wrapped),
                Err(inside) => Inner::Other(DataFusionError::External(inside)),
            },
        },
        other => Inner::Other(other),
    }
}

/// What went wrong with a value, without the value: it may be somebody's.
fn value_text(error: &DataFusionError) -> String {
    use datafusion::arrow::error::ArrowError;
    let text = match error {
        DataFusionError::ArrowError(inside, _) => match &**inside {
            ArrowError::DivideByZero => "division by zero",
            ArrowError::ArithmeticOverflow(_) => "a number is out of range",
            ArrowError::CastError(_) => "a value cannot be cast to the type that is wanted",
            ArrowError::ParseError(_) => "a value cannot be read as the type that is wanted",
            _ => "a value is not one that the operation takes",
        },
        DataFusionError::Execution(_) => "a value is not one that the function takes",
        _ => "the statement failed on a value",
    };
    text.to_owned()
}
