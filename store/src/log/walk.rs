//! Walking through a log that may be damaged: where it can be gone on, and what a closed segment holds.

use std::{io, sync::Arc};

use super::{
    SEGMENT_HEAD_BYTES, decode_segment_head,
    frame::{FRAME_HEAD_BYTES, FrameHead, front_length},
    recovery::{CHUNK_BYTES, Chunks, Start},
    segment_name, segment_op,
};
use crate::{disk::Disk, log::Segment};

/// The first frame at `from` or behind it in this file that can be gone on from: a start just before it.
pub(crate) fn resume(
    disk: &dyn Disk,
    cluster: [u8; 16],
    path: &str,
    from: u64,
) -> io::Result<Option<Start>> {
    let Some(first_op) = segment_op(path) else { return Ok(None) };
    let segment = Segment { file: disk.open(path)?, name: path.to_owned(), first_op };
    let mut file = Chunks::new(&Arc::new(segment))?;
    let mut at = from;
    while at < file.length {
        let chunk = file.get(at, CHUNK_BYTES)?;
        for (i, _) in chunk.windows(4).enumerate().filter(|(_, w)| *w == b"KOP>") {
            let candidate = at + i as u64;
            let front = file.get(candidate, FRAME_HEAD_BYTES)?;
            let Some(length) = front_length(&front) else { continue };
            let Ok(head) = FrameHead::decode(&file.get(candidate, length)?) else { continue };
            let Some(header) = head.previous else { continue };
            if head.header.cluster == cluster && head.header.parent == header.identity() {
                let frame = (candidate, candidate);
                return Ok(Some(Start { header, segment: first_op, frame }));
            }
        }
        // A sentinel may lie across the border.
        at += (CHUNK_BYTES - 3) as u64;
    }
    Ok(None)
}

/// The segment of this name, whatever its head says; `None` where there is no such file.
pub(crate) fn open_by_name(disk: &dyn Disk, first_op: u64) -> io::Result<Option<Segment>> {
    let name = segment_name(first_op);
    if !disk.exists(&name)? {
        return Ok(None);
    }
    Ok(Some(Segment { file: disk.open(&name)?, name, first_op }))
}

/// The cluster's id as a segment's head has it, where the head holds.
pub(crate) fn cluster_of(disk: &dyn Disk, path: &str) -> io::Result<Option<[u8; 16]>> {
    let mut head = [0; 104];
    let read = disk.open(path)?.read_at(&mut head, 0)?;
    let cluster: [u8; 16] = head[16..32].try_into().expect("16");
    Ok(decode_segment_head(&head[..read], cluster).map(|_| cluster))
}

/// Whether a segment's head holds, and where what fills it up is not zeros.
pub(crate) fn check_head(
    disk: &dyn Disk,
    cluster: [u8; 16],
    path: &str,
) -> io::Result<(bool, Option<u64>)> {
    let mut head = vec![0; SEGMENT_HEAD_BYTES as usize];
    let read = disk.open(path)?.read_at(&mut head, 0)?;
    let first_op = decode_segment_head(&head[..read.min(104)], cluster).map(|(op, _)| op);
    let holds = read == head.len() && first_op.is_some() && first_op == segment_op(path);
    Ok((holds, head[104..].iter().position(|b| *b != 0).map(|i| 104 + i as u64)))
}

/// The first byte at `from` or behind it that is not zero.
pub(crate) fn first_nonzero(disk: &dyn Disk, path: &str, from: u64) -> io::Result<Option<u64>> {
    let file = disk.open(path)?;
    let mut bytes = vec![0; CHUNK_BYTES];
    let mut at = from;
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if let Some(i) = bytes[..read].iter().position(|b| *b != 0) {
            return Ok(Some(at + i as u64));
        }
        if read < bytes.len() {
            return Ok(None);
        }
        at += read as u64;
    }
}
