//! What a query's failures are to its caller.

use kimberlite_query::{Place, QueryError};

use super::{Code, FieldError, Problem};

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let text = error.to_string();
        match error {
            QueryError::Syntax { place, .. } | QueryError::Unsupported { place, .. } => {
                at_place(Code::UnsupportedSql, text, place)
            }
            QueryError::Meaning(_) => at_place(Code::InvalidSql, text, None),
            QueryError::Parameter { number, .. } => {
                Self::at(Code::InvalidSql, format!("/params/{}", number - 1), text)
            }
            QueryError::Value(_) => Self::new(Code::QueryFailed, text),
            QueryError::NoRecord { .. } | QueryError::BeforeFirst { .. } => {
                Self::new(Code::MomentUnknown, text)
            }
            QueryError::NotClosed { .. } => Self::new(Code::TimeNotClosed, text),
            QueryError::Limit { limit, .. } => {
                let detail = format!("{limit}: {text}");
                let field = FieldError { pointer: None, parameter: None, detail };
                Self::fields(Code::LimitExceeded, vec![field])
            }
            QueryError::Duplicate { .. } => Self::new(Code::DuplicateKey, text),
            QueryError::TableExists { .. } => Self::new(Code::TableExists, text),
            QueryError::Constraint(_) => Self::new(Code::ConstraintFailed, text),
            QueryError::Contended => Self::new(Code::Contended, "Send the request again."),
            QueryError::Write(error) => error.into(),
            QueryError::Overloaded => Self::new(
                Code::Overloaded,
                "Too many queries are running. Wait as long as Retry-After says.",
            ),
            QueryError::Read(error) => error.into(),
            QueryError::Engine(cause) => Self::internal(format!("{text}: {cause}")),
        }
    }
}

fn at_place(code: Code, text: String, place: Option<Place>) -> Problem {
    let detail = match place {
        Some(Place { line, column }) => format!("line {line}, column {column}: {text}"),
        None => text,
    };
    Problem::at(code, "/sql", detail)
}
