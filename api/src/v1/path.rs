//! Names and numbers in paths.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use kimberlite_store::words::{Position, StreamName};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use crate::{
    problem::{Code, Problem},
    query::whole_number,
};

/// `{stream}`, percent-decoded.
pub(crate) struct StreamPath(pub(crate) StreamName);

/// `{position}`.
pub(crate) struct PositionPath(pub(crate) Position);

/// `{id}`; `None` where nothing can have it.
pub(crate) struct IdPath(pub(crate) Option<Uuid>);

async fn text<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let path = Path::<String>::from_request_parts(parts, state).await;
    path.map(|Path(text)| text).map_err(|_| not_encoded())
}

fn not_encoded() -> Problem {
    Problem::new(Code::MalformedRequest, "The path is not percent-encoded UTF-8.")
}

impl StreamPath {
    /// From a segment of a path as it was sent.
    pub(crate) fn decode(segment: &str) -> Result<Self, Problem> {
        let text = percent_decode_str(segment).decode_utf8().map_err(|_| not_encoded())?;
        Self::of(&text)
    }

    fn of(text: &str) -> Result<Self, Problem> {
        let name = StreamName::new(text);
        name.map(Self)
            .map_err(|e| Problem::new(Code::InvalidName, format!("The stream's name {e}.")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for StreamPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Self::of(&text(parts, state).await?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(Uuid::try_parse(&text(parts, state).await?).ok()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PositionPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = text(parts, state).await?;
        let position = whole_number(&text).and_then(Position::new).filter(|_| !text.is_empty());
        position.map(Self).ok_or_else(|| {
            Problem::new(Code::MalformedRequest, "A position is a whole number below 2^53.")
        })
    }
}
