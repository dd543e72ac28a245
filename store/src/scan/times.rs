//! Where in a log a time is.

use std::ops::Range;

use crate::{error::ReadError, index::View, words::Timestamp};

/// The first record in a range with a later time than this, or the range's end.
pub(super) fn first_after(
    view: &View,
    range: Range<u64>,
    time: Timestamp,
) -> Result<u64, ReadError> {
    halve(view, range, |t| t <= time.micros())
}

/// The first record in a range with this time or a later one, or the range's end.
pub(super) fn first_at(view: &View, range: Range<u64>, time: Timestamp) -> Result<u64, ReadError> {
    halve(view, range, |t| t < time.micros())
}

/// Times do not fall with positions: the first record in a range whose time is not `before`.
fn halve(view: &View, range: Range<u64>, before: impl Fn(i64) -> bool) -> Result<u64, ReadError> {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low.midpoint(high);
        let (_, entry) = view.entry(middle)?.ok_or(ReadError::NoRecord)?;
        if before(entry.time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
