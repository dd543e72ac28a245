//! Frames in memory, and where their blocks say that they lie.
//!
//! In a segment the checksum of a block also covers where the block lies, so that one which a device wrote elsewhere does not
//! hold there. Between replicas, which have an op in different places, blocks say nothing of that.

use bytes::Bytes;
use kimberlite_consensus::Header;

use super::frame::{
    FRAME_TAIL_BYTES, FrameHead, Section, SectionRuns, finish, front, front_length, read_section,
    room, turn_block,
};

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// First op of the segment.
    pub(crate) first_op: u64,
    /// Offset in the segment, before compression.
    pub(crate) offset: u64,
}

impl Spot {
    /// So many bytes further on.
    pub(crate) fn behind(self, bytes: usize) -> Self {
        Self { offset: self.offset + bytes as u64, ..self }
    }

    /// What the checksum of a block that lies here is changed by. Two places of a segment never have the same.
    pub(super) fn code(self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.first_op.to_le_bytes());
        crc.update(&self.offset.to_le_bytes());
        crc.finalize()
    }
}

/// The frame of an op.
#[derive(Clone, Debug)]
pub(crate) struct Framed {
    bytes: Bytes,
    /// Where its blocks say that it lies, those that say so.
    spot: Option<Spot>,
}

impl Framed {
    /// A frame that was built for `spot`, or read there.
    pub(crate) fn new(bytes: Bytes, spot: Option<Spot>) -> Self {
        Self { bytes, spot }
    }

    /// The frame of an op around its sections' blocks, which are as others gave them.
    pub(crate) fn around(header: &Header, previous: Option<&Header>, body: &[u8]) -> Self {
        let (mut out, frame_at, length) = front(header, previous, body.len(), None);
        out.extend_from_slice(body);
        Self::new(finish(out, frame_at, length), None)
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The same op as it lies at `spot`.
    pub(crate) fn placed(&self, spot: Spot) -> Self {
        if self.spot == Some(spot) { self.clone() } else { self.turned(Some(spot)) }
    }

    fn turned(&self, spot: Option<Spot>) -> Self {
        let mut out = room(self.bytes.len(), spot);
        let frame_at = out.len();
        out.extend_from_slice(&self.bytes);
        let frame = &mut out[frame_at..];
        let end = frame.len().saturating_sub(FRAME_TAIL_BYTES);
        let mut at = front_length(frame).unwrap_or(end);
        while at < end {
            let behind = |spot: Option<Spot>| spot.map(|spot| spot.behind(at));
            let block = &mut frame[at..end];
            let Some(taken) = turn_block(block, behind(self.spot), behind(spot)) else { break };
            at += taken;
        }
        Self::new(Bytes::from(out).slice(frame_at..), spot)
    }

    /// Reads the section that begins at `*at` and moves `*at` behind it.
    ///
    /// # Errors
    /// What does not hold and where in the frame.
    pub(crate) fn section(
        &self,
        at: &mut usize,
        section: &Section,
    ) -> Result<SectionRuns, (usize, &'static str)> {
        read_section(&self.bytes, at, section.leaves_bytes as usize, self.spot)
    }

    /// The sections' blocks as they are given to others; nothing is checked but the frame's front.
    pub(crate) fn body(&self) -> Option<Bytes> {
        let frame = if self.spot.is_none() { self.clone() } else { self.turned(None) };
        let head = FrameHead::decode(&frame.bytes).ok()?;
        let end = frame.bytes.len().checked_sub(FRAME_TAIL_BYTES)?;
        (head.body_at <= end).then(|| frame.bytes.slice(head.body_at..end))
    }

    /// The op's sections, if every byte of the frame holds.
    pub(crate) fn sections(&self, header: &Header) -> Option<Vec<(Section, SectionRuns)>> {
        let head = FrameHead::decode(&self.bytes).ok().filter(|head| head.header == *header)?;
        let mut at = head.body_at;
        let mut sections = Vec::new();
        for section in Section::all(header) {
            let runs = self.section(&mut at, &section).ok()?;
            sections.push((section, runs));
        }
        let whole = at + FRAME_TAIL_BYTES == self.bytes.len() && head.tail_holds(&self.bytes);
        whole.then_some(sections)
    }

    /// The op's body, if every byte of the frame holds. What is given to others must be what was checked, not what is read
    /// anew behind that.
    pub(crate) fn checked_body(&self, header: &Header) -> Option<Bytes> {
        self.sections(header).and_then(|_| self.body())
    }
}

#[cfg(test)]
mod tests {
    use kimberlite_consensus::{Identity, Op, SECTION_BYTES, View};

    use super::{
        super::frame::{BLOCK_HEAD_BYTES, Runs, encode_frame},
        *,
    };
    use crate::limits::BLOCK_BYTES;

    fn header(section: Section) -> Header {
        let mut sections = Vec::new();
        section.encode(&mut sections);
        assert_eq!(sections.len(), SECTION_BYTES);
        Header {
            cluster: [1; 16],
            op: Op(1),
            view: View(0),
            parent: Identity::root([1; 16]),
            time_us: 1,
            members: None,
            sections: sections.into(),
        }
    }

    fn runs() -> Runs {
        // Two leaf blocks and three payload blocks, of which two are as long.
        let bytes = |n: usize| (0..n).map(|i| (i % 251) as u8).collect();
        Runs { leaves: bytes(BLOCK_BYTES + 100), payloads: bytes(2 * BLOCK_BYTES + 7) }
    }

    fn framed(spot: Option<Spot>) -> (Header, Framed) {
        let section = Section {
            tenant: [2; 16],
            first_position: 0,
            records: 1,
            leaves_bytes: runs().leaves.len() as u32,
            chain_head: crate::words::Hash([3; 32]),
        };
        let header = header(section);
        let frame = encode_frame(&header, None, vec![runs()], spot).0;
        (header, frame)
    }

    const SPOT: Spot = Spot { first_op: 7, offset: 5000 };

    #[test]
    fn a_frame_holds_where_it_lies_and_nowhere_else() {
        let (header, frame) = framed(Some(SPOT));
        let read = |spot| Framed::new(frame.bytes().clone(), spot).sections(&header);
        let [(_, found)] = &read(Some(SPOT)).unwrap()[..] else { panic!("one section") };
        assert_eq!((&found.leaves, &found.payloads), (&runs().leaves, &runs().payloads));
        for spot in [
            None,
            Some(Spot { offset: 5001, ..SPOT }),
            Some(Spot { offset: 5000 + (1 << 31), ..SPOT }),
            Some(Spot { first_op: 8, ..SPOT }),
        ] {
            assert!(read(spot).is_none(), "{spot:?}");
        }
    }

    #[test]
    fn what_is_given_to_others_says_nothing_of_where_it_lies() {
        let (header, plain) = framed(None);
        let (_, placed) = framed(Some(SPOT));
        assert_ne!(plain.bytes(), placed.bytes());
        assert_eq!(plain.placed(SPOT).bytes(), placed.bytes());
        let other = Spot { first_op: 9, offset: 4096 };
        assert_eq!(placed.placed(other).bytes(), framed(Some(other)).1.bytes());
        assert_eq!(placed.checked_body(&header), plain.checked_body(&header));
        let body = plain.body().unwrap();
        assert_eq!(placed.body().as_ref(), Some(&body));
        assert_eq!(Framed::around(&header, None, &body).placed(SPOT).bytes(), placed.bytes());
        // As versions wrote them that knew nothing of it, wherever they lie.
        let before = Framed::new(plain.bytes().clone(), Some(SPOT));
        assert_eq!(before.checked_body(&header), Some(body));
    }

    #[test]
    fn damage_stays_damage_where_a_frame_is_moved() {
        let (header, plain) = framed(None);
        let head = FrameHead::decode(plain.bytes()).unwrap().body_at;
        for at in [head + 1, head + 2, head + 3, head + 28, head + BLOCK_HEAD_BYTES, head + 3000] {
            for spot in [None, Some(SPOT)] {
                let (_, frame) = framed(spot);
                let mut bytes = frame.bytes().to_vec();
                bytes[at] ^= 1;
                let frame = Framed::new(bytes.into(), spot);
                assert!(frame.sections(&header).is_none(), "{at} {spot:?}");
                assert!(frame.placed(Spot { first_op: 9, offset: 1 }).sections(&header).is_none());
                assert!(frame.checked_body(&header).is_none());
            }
        }
    }

    #[test]
    fn a_block_that_lies_in_the_place_of_another_does_not_hold() {
        let (header, frame) = framed(Some(SPOT));
        let end = frame.bytes().len() - FRAME_TAIL_BYTES - BLOCK_HEAD_BYTES - 7;
        let block = BLOCK_HEAD_BYTES + BLOCK_BYTES;
        let (first, second) = (end - 2 * block, end - block);
        for swapped in [false, true] {
            let mut bytes = frame.bytes().to_vec();
            // Both payload blocks have the same content but for where in the pattern they begin: as good as another op's.
            if swapped {
                bytes.copy_within(second..end, first);
            }
            let read = Framed::new(bytes.into(), Some(SPOT)).sections(&header);
            assert_eq!(read.is_none(), swapped);
        }
    }
}
