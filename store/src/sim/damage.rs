//! Where damage can be done.

use std::{io, sync::Arc};

use kimberlite_consensus::{
    Op,
    sim::{Harm, Harmed},
};

use super::CLUSTER;
use crate::{
    disk::{Disk, simulated::SimulatedDisk},
    index::derived,
    log::{
        Segment, recovery, segment_op, superblock,
        walk::{ClosedFrames, Frame},
    },
};

/// A whole op: its file, where it lies there, and its bytes.
type Framed = (String, Op, u64, u64);

/// The whole ops of a log.
pub(super) fn frames(disk: &dyn Disk) -> io::Result<Vec<Framed>> {
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

const SECTOR: u64 = 512;

/// Something on a disk is not what was written there; says what.
pub(super) fn harm(disk: &SimulatedDisk, how: Harm, back: u64, at: u64) -> Option<Harmed> {
    match how {
        Harm::Superblock => {
            // Always the same copy: the others may be older by one superblock.
            let said = at / 8 % superblock::SAID_BYTES as u64;
            disk.flip(
                superblock::NAME,
                (3 * superblock::COPY_BYTES + said) as usize,
                (at % 8) as u8,
            );
            Some(Harmed::Spare)
        }
        Harm::Derived => {
            let mut runs = disk.list(derived::FOLDER).ok()?;
            runs.retain(|name| format!("{}/{name}", derived::FOLDER) != derived::DATABASE);
            let run = runs.get(at as usize % runs.len().max(1))?;
            let run = &format!("{}/{run}", derived::FOLDER);
            let length = disk.open(run).and_then(|file| file.length()).ok()?;
            disk.flip(run, (at % length.max(1)) as usize, (at % 8) as u8);
            Some(Harmed::Spare)
        }
        Harm::Gone => {
            let files = disk.list(derived::FOLDER).ok()?;
            let file = files.get(at as usize % files.len().max(1))?;
            disk.forget(&format!("{}/{file}", derived::FOLDER));
            Some(Harmed::Spare)
        }
        Harm::Misdirected => misdirect(disk, back, at),
        Harm::Unwritten | Harm::Astray => {
            let frames = frames(disk).ok()?;
            // Behind the last op nothing would say that it was one.
            let (path, op, from, length) = frames.iter().rev().nth(back.max(1) as usize)?;
            let start = (from + at % length) / SECTOR * SECTOR;
            let (start, end) = (start.max(*from), (start + SECTOR).min(from + length));
            let mut there = vec![0; (end - start) as usize];
            let mut other = there.clone();
            let file = disk.open(path).ok()?;
            file.read_exact_at(&mut there, start).ok()?;
            if how == Harm::Astray {
                let from = if at.is_multiple_of(2) { start - SECTOR } else { start + SECTOR };
                file.read_exact_at(&mut other, from).ok()?;
            }
            (there != other).then(|| {
                disk.lay(path, start as usize, &other);
                Harmed::Op(*op)
            })
        }
        Harm::Short | Harm::Missing => {
            let files = recovery::list_segments(disk).ok()?;
            // A file that is still written to has no length that it must have.
            let closed = files.len().checked_sub(1).filter(|n| *n > 0)?;
            let path = &files[at as usize % closed];
            if how == Harm::Missing {
                disk.forget(path);
            } else {
                let length = disk.open(path).and_then(|file| file.length()).ok()?;
                disk.shorten(path, (at % length) as usize);
            }
            segment_op(path).map(|first| Harmed::File(Op(first)))
        }
    }
}

/// The op that a write to another one hits: in the same file, some before.
fn other(frames: &[Framed], back: u64, at: u64) -> Option<(&Framed, &Framed)> {
    let mut before = frames.iter().rev().skip(back.max(1) as usize);
    let own = before.next()?;
    before.nth((at % 5) as usize).filter(|hit| hit.0 == own.0).map(|hit| (own, hit))
}

pub(super) fn hit(disk: &SimulatedDisk, back: u64, at: u64) -> Option<Op> {
    let frames = frames(disk).ok()?;
    other(&frames, back, at).map(|(_, hit)| hit.1)
}

/// A sector of an op lies in another op instead.
fn misdirect(disk: &SimulatedDisk, back: u64, at: u64) -> Option<Harmed> {
    let frames = frames(disk).ok()?;
    let ((path, op, from, length), (_, hit, to, room)) = other(&frames, back, at)?;
    let bytes = SECTOR.min(*length).min(*room);
    let (from, to) = (from + at % (length - bytes + 1), to + at % (room - bytes + 1));
    let mut sector = vec![0; bytes as usize];
    let mut there = sector.clone();
    let file = disk.open(path).ok()?;
    file.read_exact_at(&mut sector, from).ok()?;
    file.read_exact_at(&mut there, to).ok()?;
    (there != sector && sector.iter().any(|byte| *byte != 0)).then(|| {
        disk.lay(path, to as usize, &sector);
        disk.lay(path, from as usize, &vec![0; bytes as usize]);
        Harmed::Ops(*op, *hit)
    })
}
