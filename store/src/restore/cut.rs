//! Cuts a log behind one record of one tenant: `specs/decisions/0010-backup-and-restore.md` says where exactly.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use kimberlite_consensus::Header;

use super::{LogTip, RestoreError, failed};
use crate::{
    backup::{copy::COPY_BYTES, manifest::TenantLine},
    disk::Disk,
    error::Damage,
    log::{
        FOLDER, HEAD_SAID_BYTES, Head, SEGMENT_HEAD_BYTES, SEGMENT_SUFFIX, Segment,
        decode_segment_head, encode_segment_head,
        frame::{Runs, Section, SectionRuns, encode_frame},
        framed::Framed,
        recovery::{self, RecoveredOp, Visitor},
    },
    node::sixteen,
    record::{Entry, Leaf, genesis, leaf_hash},
    words::Hash,
};

/// The last record that stays of a tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    tenant: [u8; 16],
    log_id: [u8; 16],
    position: u64,
}

impl Point {
    pub(super) fn new(line: &TenantLine, position: u64) -> Option<Self> {
        let (tenant, log_id) = (sixteen(&line.reference)?, sixteen(&line.log_id)?);
        Some(Self { tenant, log_id, position })
    }
}

/// Cuts the log in `folder` behind `point`, durably; its tip then.
pub(super) fn cut(
    disk: &dyn Disk,
    folder: &Path,
    tip: LogTip,
    point: Point,
) -> Result<LogTip, RestoreError> {
    let mut search =
        Search { point, chain_head: genesis(point.log_id), last: None, found: None, damage: None };
    let recovered = recovery::recover(disk, &mut search, None)?;
    if let Some(damage) = search.damage.or(recovered.damage) {
        return Err(RestoreError::Log(damage));
    }
    let found = search.found.ok_or_else(|| {
        let what = "the position of the cut is missing";
        RestoreError::Log(Damage { file: FOLDER.into(), offset: 0, what })
    })?;
    let header = &found.header;
    // Behind the last op there is nothing to cut.
    if found.frame.is_some() || header.op < tip.op {
        found.carry_out(disk, tip.cluster).map_err(failed("cutting the log in", folder))?;
    }
    Ok(LogTip { op: header.op, view: header.view, identity: header.identity(), ..tip })
}

/// Where the log is cut, and what is written there.
struct Found {
    segment: Arc<Segment>,
    at: u64,
    /// Of the last op that stays.
    header: Header,
    /// That op, where only a part of it stays.
    frame: Option<Framed>,
}

impl Found {
    /// Writes the segment anew up to here, as frames: it is the open one now, whatever its generation was.
    fn carry_out(&self, disk: &dyn Disk, cluster: [u8; 16]) -> io::Result<()> {
        let was = self.segment.file();
        let mut head = [0; HEAD_SAID_BYTES];
        was.read_exact_at(&mut head, 0)?;
        let (first_op, parent) =
            decode_segment_head(&head, cluster).ok_or(io::ErrorKind::InvalidData)?;
        let made = format!("{}.new", self.segment.name);
        let file = disk.create(&made)?;
        file.write_all_at(&encode_segment_head(Head { cluster, first_op, parent }), 0)?;
        let mut at = SEGMENT_HEAD_BYTES;
        let mut piece = vec![0; COPY_BYTES];
        while at < self.at {
            let length = (self.at - at).min(COPY_BYTES as u64) as usize;
            was.read_exact_at(&mut piece[..length], at)?;
            file.write_all_at(&piece[..length], at)?;
            at += length as u64;
        }
        if let Some(frame) = &self.frame {
            file.write_all_at(frame.bytes(), self.at)?;
        }
        file.sync()?;
        disk.rename(&made, &self.segment.name)?;
        for name in disk.list(FOLDER)? {
            let path = format!("{FOLDER}/{name}");
            if name.ends_with(SEGMENT_SUFFIX) && path > self.segment.name {
                disk.remove(&path)?;
            }
        }
        disk.sync_folder(FOLDER)
    }
}

/// Looks for the op that holds the point.
struct Search {
    point: Point,
    /// Of the tenant, before the op that is looked at.
    chain_head: Hash,
    last: Option<Header>,
    found: Option<Found>,
    damage: Option<Damage>,
}

impl Visitor for Search {
    fn op(&mut self, op: RecoveredOp<'_>) {
        if self.found.is_some() || self.damage.is_some() {
            return;
        }
        let of_tenant = op.sections.iter().map(|(section, _)| *section);
        let section = of_tenant.clone().find(|section| section.tenant == self.point.tenant);
        if let Some(section) = section {
            let stay = self.point.position + 1 - section.first_position;
            if stay <= u64::from(section.records) {
                match self.cut(op, section, stay as u32) {
                    Ok(found) => self.found = Some(found),
                    Err(damage) => self.damage = Some(damage),
                }
                return;
            }
            self.chain_head = section.chain_head;
        }
        self.last = Some(op.header.clone());
    }

    fn lost(&mut self, _: Vec<Section>, damage: Damage) {
        self.damage.get_or_insert(damage);
    }
}

impl Search {
    fn cut(&self, op: RecoveredOp<'_>, of: Section, stay: u32) -> Result<Found, Damage> {
        let RecoveredOp { segment, offset, length, header, sections } = op;
        let segment = Arc::clone(segment);
        if stay == of.records {
            let at = offset + length;
            return Ok(Found { segment, at, header: header.clone(), frame: None });
        }
        let damage = |what| Damage { file: segment.name.clone(), offset, what };
        let (mut table, mut body) = (Vec::new(), Vec::new());
        for (mut section, runs) in sections {
            let runs = runs?;
            let stays = if section.tenant == of.tenant {
                shorten(&mut section, &runs, self.chain_head, stay).map_err(damage)?
            } else {
                Runs { leaves: runs.leaves, payloads: runs.payloads }
            };
            body.push(stays);
            section.encode(&mut table);
        }
        let header = Header { sections: Bytes::from(table), ..header.clone() };
        let spot = Some(segment.spot(offset));
        let frame = Some(encode_frame(&header, self.last.as_ref(), body, spot).0);
        Ok(Found { segment, at: offset, header, frame })
    }
}

/// Keeps the first `stay` records of a section, each as it is.
fn shorten(
    section: &mut Section,
    runs: &SectionRuns,
    mut chain_head: Hash,
    stay: u32,
) -> Result<Runs, &'static str> {
    let mut at = 0;
    let mut payloads = &runs.payloads[..];
    for _ in 0..stay {
        let length = runs.leaves.get(at..at + 2).ok_or("a leaf's length is cut off")?;
        let length = usize::from(u16::from_le_bytes(length.try_into().expect("2")));
        let leaf = runs.leaves.get(at + 2..at + 2 + length).ok_or("a leaf is cut off")?;
        for _ in Leaf::decode(leaf)?.payloads() {
            Entry::take(&mut payloads)?;
        }
        chain_head = leaf_hash(leaf, chain_head);
        at += 2 + length;
    }
    (section.records, section.leaves_bytes, section.chain_head) = (stay, at as u32, chain_head);
    let taken = runs.payloads.len() - payloads.len();
    Ok(Runs { leaves: runs.leaves[..at].to_vec(), payloads: runs.payloads[..taken].to_vec() })
}
