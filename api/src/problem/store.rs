//! What the store's refusals and failures are called over HTTP.

use kimberlite_store::{
    EvidenceError,
    append::{AppendError, FailedCondition, Place, Rejection},
    backup::BackupError,
    error::{Damage, ReadError},
    limits::{TABLES_MAX, TYPES_MAX},
};

use super::{Code, FieldError, Problem};
use crate::v1::{ActualBody, ExpectedBody, FailedConditionBody};

impl From<Damage> for Problem {
    fn from(damage: Damage) -> Self {
        Self::new(Code::LogDamaged, damage.to_string())
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(damage) => damage.into(),
            ReadError::Io { file, source } => Self::internal(format!("reading {file}: {source}")),
            ReadError::Diverged { position } => Self::new(
                Code::Diverged,
                format!("Position {position} of this log has another hash, or is not there."),
            ),
            ReadError::StreamUnknown => {
                Self::new(Code::StreamUnknown, "Append an event to it first, or check its name.")
            }
            ReadError::StreamDeleted => Self::new(
                Code::StreamDeleted,
                "Its events stay in /v1/events; ?recreate=true on an append brings it back.",
            ),
            ReadError::NoRecord => Self::new(Code::RecordUnknown, "Nothing is at this position."),
        }
    }
}

impl From<EvidenceError> for Problem {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Pending => Self::new(Code::CheckpointPending, "Ask again in a moment."),
            EvidenceError::Sizes { size } => Self::parameter(
                Code::InvalidParameter,
                "from",
                format!(
                    "and `to` must be 1 to {size}, the size of the checkpoint, `from` not above `to`"
                ),
            ),
            EvidenceError::Read(error) => error.into(),
            EvidenceError::Signing(error) => Self::internal(error.to_string()),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Rejected(rejection) => rejection.into(),
            AppendError::Overloaded => Self::new(
                Code::Overloaded,
                "The append queue is full. Wait as long as Retry-After says.",
            ),
            AppendError::Contended => Self::new(Code::Contended, "Send the request again."),
            AppendError::TooLarge { bytes, max } => Self::new(
                Code::RequestTooLarge,
                format!("The events hold {bytes} bytes; the limit is {max}."),
            ),
            AppendError::NoRoom => Self::new(
                Code::DiskFull,
                "Make room on the disk that holds the data folder, and send it again.",
            ),
            AppendError::StreamTwice(stream) => Self::new(
                Code::InvalidBody,
                format!("The stream {stream} stands twice in the request."),
            ),
            AppendError::Closed => {
                Self::new(Code::Draining, "Send it again with the same key or ids.")
            }
            AppendError::Damaged(damage) => damage.into(),
            AppendError::Read(error) => error.into(),
        }
    }
}

impl From<BackupError> for Problem {
    fn from(error: BackupError) -> Self {
        let mut detail = error.to_string();
        match error {
            BackupError::Relative { .. } => {
                Self::at(Code::InvalidBody, "/folder", "is no absolute path without `..`")
            }
            BackupError::DataFolder { .. }
            | BackupError::Taken { .. }
            | BackupError::OtherHistory { .. }
            | BackupError::Manifest { .. } => Self::new(Code::BackupFolderTaken, detail),
            BackupError::Busy { .. } => Self::new(Code::BackupRunning, detail),
            BackupError::Damaged(damage) => damage.into(),
            BackupError::Closed => Self::new(Code::Draining, "Begin it again in a moment."),
            BackupError::Io { source, .. } => {
                detail.push_str(": ");
                detail.push_str(&source.to_string());
                Self::new(Code::BackupFailed, detail)
            }
            BackupError::ReadBack { .. } | BackupError::Cancelled => {
                Self::new(Code::BackupFailed, detail)
            }
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::ConditionsFailed(failed) => {
                Self::conditions(failed.into_iter().map(FailedConditionBody::from).collect())
            }
            Rejection::EventIdConflict { id, position: Some(position) } => {
                let detail = format!("The id {id} is taken by the event at position {position}.");
                Self::new(Code::EventIdConflict, detail)
            }
            Rejection::EventIdConflict { id, position: None } => Self::new(
                Code::EventIdConflict,
                format!("The id {id} stands twice in the request."),
            ),
            Rejection::IdempotencyMismatch => Self::new(
                Code::IdempotencyMismatch,
                "Take a new key, or send the first request again as it was.",
            ),
            Rejection::StreamDeleted(stream) => {
                let detail =
                    format!("{stream} was deleted; an append with ?recreate=true brings it back.");
                Self::new(Code::StreamDeleted, detail)
            }
            Rejection::StreamUnknown(stream) => {
                Self::new(Code::StreamUnknown, format!("There is no stream {stream}."))
            }
            Rejection::TypesExhausted { event_type } => {
                let detail = format!(
                    "The type {event_type} would be one more than the {TYPES_MAX} of a tenant. Use \
                     tags or streams for what varies."
                );
                let (pointer, parameter) = (None, None);
                let errors = vec![FieldError { pointer, parameter, detail }];
                Self::fields(Code::LimitExceeded, errors)
            }
            Rejection::TablesExhausted => {
                let detail = format!(
                    "A tenant makes at most {TABLES_MAX} tables, those that were dropped included."
                );
                let (pointer, parameter) = (None, None);
                let errors = vec![FieldError { pointer, parameter, detail }];
                Self::fields(Code::LimitExceeded, errors)
            }
            Rejection::Diverged { position } => Self::new(
                Code::Diverged,
                format!("`after` names position {position}, which this log has not reached."),
            ),
        }
    }
}

impl From<FailedCondition> for FailedConditionBody {
    fn from(failed: FailedCondition) -> Self {
        match failed {
            FailedCondition::Stream { place, stream, expected, actual } => Self {
                pointer: Some(format!("{}/expected", pointer(place))),
                stream: Some(stream.to_string()),
                expected: Some(ExpectedBody::from(expected)),
                actual: Some(ActualBody::from(actual)),
                position: None,
            },
            FailedCondition::Match { place, position } => Self {
                pointer: Some(format!("{}/fail_if_events_match", pointer(place))),
                stream: None,
                expected: None,
                actual: None,
                position: Some(position.get()),
            },
        }
    }
}

fn pointer(place: Place) -> String {
    match place {
        Place::Append(n) => format!("/appends/{n}"),
        Place::Condition(n) => format!("/conditions/{n}"),
    }
}
