//! Where damage can be done.

use std::{io, sync::Arc};

use kimberlite_consensus::Op;

use super::CLUSTER;
use crate::{
    disk::Disk,
    log::{
        Segment, recovery, segment_op,
        walk::{ClosedFrames, Frame},
    },
};

/// The whole ops of a log: each with its file, where it lies there, and its bytes.
pub(super) fn frames(disk: &dyn Disk) -> io::Result<Vec<(String, Op, u64, u64)>> {
    let mut found = Vec::new();
    for path in recovery::list_segments(disk).map_err(io::Error::other)? {
        let Some(first_op) = segment_op(&path) else { continue };
        let segment = Arc::new(Segment::open(disk, &path, first_op)?);
        let mut frames = ClosedFrames::of(CLUSTER, &segment, u64::MAX)?;
        while let Some(frame) = frames.next()? {
            if let Frame::Op { offset, length, header, sections } = frame
                && sections.iter().all(|(_, runs)| runs.is_ok())
            {
                found.push((path.clone(), header.op, offset, length));
            }
        }
    }
    Ok(found)
}
