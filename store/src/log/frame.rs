//! Ops as bytes: frames and blocks. Pure: no files here. `FORMAT.md` says what each byte means.

use bytes::Bytes;
use kimberlite_consensus::{Header, SECTION_BYTES};

use super::framed::{Framed, Spot};
use crate::{
    disk::{DIRECT_BYTES_MIN, PAGE_BYTES},
    limits::{BLOCK_BYTES, BLOCK_BYTES_MAX, OP_BYTES_MAX},
    words::Hash,
};

const START: [u8; 4] = *b"KOP>";
pub(crate) const FRAME_END: [u8; 4] = *b"<KOP";
/// Sentinel, three lengths, CRC.
pub(crate) const FRAME_HEAD_BYTES: usize = 20;
pub(crate) const FRAME_TAIL_BYTES: usize = 8;
pub(crate) const BLOCK_HEAD_BYTES: usize = 32;
/// Whether a block's checksum covers where it lies.
const BLOCK_PLACED_AT: usize = 2;
const BLOCK_CRC_AT: usize = 28;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Leaves = 1,
    Payloads = 2,
}

/// A header's entry for one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) tenant: [u8; 16],
    pub(crate) first_position: u64,
    pub(crate) records: u32,
    pub(crate) leaves_bytes: u32,
    pub(crate) chain_head: Hash,
}

impl Section {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.tenant);
        out.extend_from_slice(&self.first_position.to_le_bytes());
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&self.leaves_bytes.to_le_bytes());
        out.extend_from_slice(&self.chain_head.0);
    }

    /// The sections of a header.
    pub(crate) fn all(header: &Header) -> impl Iterator<Item = Self> + '_ {
        header.sections.chunks_exact(SECTION_BYTES).map(|b| Self {
            tenant: b[..16].try_into().expect("16"),
            first_position: u64::from_le_bytes(b[16..24].try_into().expect("8")),
            records: u32::from_le_bytes(b[24..28].try_into().expect("4")),
            leaves_bytes: u32::from_le_bytes(b[28..32].try_into().expect("4")),
            chain_head: Hash(b[32..].try_into().expect("32")),
        })
    }
}

/// Writes a run of bytes as blocks behind `out`, whose first `frame_at` bytes lie before the frame, which will lie at `spot`.
fn push_blocks(
    out: &mut Vec<u8>,
    frame_at: usize,
    kind: BlockKind,
    run: &[u8],
    spot: Option<Spot>,
) -> Vec<RunBlock> {
    let mut blocks = Vec::with_capacity(run.len().div_ceil(BLOCK_BYTES));
    for (i, content) in run.chunks(BLOCK_BYTES).enumerate() {
        let at = out.len();
        blocks.push(RunBlock { before: (i * BLOCK_BYTES) as u32, offset: (at - frame_at) as u32 });
        let length = (content.len() as u32).to_le_bytes();
        let mut head = [0; BLOCK_HEAD_BYTES];
        head[1] = kind as u8;
        head[BLOCK_PLACED_AT] = u8::from(spot.is_some());
        head[4..8].copy_from_slice(&length);
        head[8..12].copy_from_slice(&length);
        out.extend_from_slice(&head);
        out.extend_from_slice(content);
        let crc = block_crc(&out[at..], spot.map(|spot| spot.behind(at - frame_at)));
        out[at + BLOCK_CRC_AT..at + BLOCK_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    blocks
}

/// Bytes that a run takes as blocks.
fn blocks_bytes(run: &[u8]) -> usize {
    run.len() + run.len().div_ceil(BLOCK_BYTES) * BLOCK_HEAD_BYTES
}

/// The checksum of a block that says that it lies at `spot`, or nothing of where it lies.
fn block_crc(block: &[u8], spot: Option<Spot>) -> u32 {
    let mut head: [u8; BLOCK_CRC_AT] = block[..BLOCK_CRC_AT].try_into().expect("a block's head");
    head[BLOCK_PLACED_AT] = 0;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head);
    crc.update(&block[BLOCK_HEAD_BYTES..]);
    crc.finalize() ^ spot.map_or(0, Spot::code)
}

/// Has the block at the front, which lies at `from` if it says so, say that it lies at `to`, or nothing of that. Returns how
/// many bytes it takes; `None` where there is no block. Whether it holds stays as it was.
pub(super) fn turn_block(bytes: &mut [u8], from: Option<Spot>, to: Option<Spot>) -> Option<usize> {
    let BlockHead { stored, placed, .. } = BlockHead::decode(bytes).ok()?;
    let was = if placed { from?.code() } else { 0 };
    let change = (was ^ to.map_or(0, Spot::code)).to_le_bytes();
    bytes[BLOCK_PLACED_AT] = u8::from(to.is_some());
    bytes[BLOCK_CRC_AT..BLOCK_HEAD_BYTES].iter_mut().zip(change).for_each(|(b, c)| *b ^= c);
    Some(BLOCK_HEAD_BYTES + stored)
}

/// The head of a block, checked for its form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockHead {
    pub(crate) kind: BlockKind,
    /// Bytes behind the head.
    pub(crate) stored: usize,
    /// Whether the checksum covers where the block lies.
    placed: bool,
}

impl BlockHead {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let head = bytes.get(..BLOCK_HEAD_BYTES).ok_or("a block's head is cut off")?;
        let kind = match head[1] {
            1 => BlockKind::Leaves,
            2 => BlockKind::Payloads,
            _ => return Err("unknown block kind"),
        };
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4"));
        let stored = u32_at(4) as usize;
        let placed = head[BLOCK_PLACED_AT] == 1;
        if head[0] != 0 || head[BLOCK_PLACED_AT] > 1 || head[3] != 0 || u32_at(12) != 0 {
            return Err("a block's codec, form or key is unknown to this version");
        }
        if stored == 0 || stored > BLOCK_BYTES_MAX || u32_at(8) as usize != stored {
            return Err("a block's length cannot be");
        }
        Ok(Self { kind, stored, placed })
    }
}

/// Checks the block at the front of `bytes`, which lies at `spot` of the log: its content, and how many bytes it takes.
pub(crate) fn read_block(
    bytes: &[u8],
    spot: Option<Spot>,
) -> Result<(BlockKind, &[u8], usize), &'static str> {
    let head = BlockHead::decode(bytes)?;
    let whole = bytes.get(..BLOCK_HEAD_BYTES + head.stored).ok_or("a block is cut off")?;
    let crc = u32::from_le_bytes(whole[BLOCK_CRC_AT..BLOCK_HEAD_BYTES].try_into().expect("4"));
    if head.placed && spot.is_none() {
        return Err("a block says where it lies, and it lies nowhere");
    }
    if crc != block_crc(whole, spot.filter(|_| head.placed)) {
        return Err("a block's checksum does not match");
    }
    Ok((head.kind, &whole[BLOCK_HEAD_BYTES..], whole.len()))
}

/// The runs of one section, not yet in blocks.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) leaves: Vec<u8>,
    pub(crate) payloads: Vec<u8>,
}

/// Builds the frame of an op from its sections' runs, and says where in it they lie. Its blocks say that it lies at `spot`.
///
/// A large frame lies in memory so that its first page in a file begins at a page: it can be written from there.
pub(crate) fn encode_frame(
    header: &Header,
    previous: Option<&Header>,
    sections: Vec<Runs>,
    spot: Option<Spot>,
) -> (Framed, Vec<SectionRuns>) {
    let bytes = |runs: &Runs| blocks_bytes(&runs.leaves) + blocks_bytes(&runs.payloads);
    let body = sections.iter().map(bytes).sum();
    let (mut out, frame_at, length) = front(header, previous, body, spot);
    let mut placed = Vec::with_capacity(sections.len());
    for Runs { leaves, payloads } in sections {
        let leaf_blocks = push_blocks(&mut out, frame_at, BlockKind::Leaves, &leaves, spot);
        let payload_blocks = push_blocks(&mut out, frame_at, BlockKind::Payloads, &payloads, spot);
        placed.push(SectionRuns { leaves, payloads, leaf_blocks, payload_blocks });
    }
    (Framed::new(finish(out, frame_at, length), spot), placed)
}

/// Begins a frame: the buffer, where in it the frame begins, and how long it will be.
pub(super) fn front(
    header: &Header,
    previous: Option<&Header>,
    body: usize,
    spot: Option<Spot>,
) -> (Vec<u8>, usize, usize) {
    let header = header.encode();
    let previous = previous.map(Header::encode).unwrap_or_default();
    let length = FRAME_HEAD_BYTES + header.len() + previous.len() + body + FRAME_TAIL_BYTES;
    assert!(length <= OP_BYTES_MAX, "commands are bounded, so ops are");
    let mut out = room(length, spot);
    let frame_at = out.len();
    out.extend_from_slice(&START);
    for n in [length, header.len(), previous.len()] {
        out.extend_from_slice(&(n as u32).to_le_bytes());
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[frame_at..]);
    crc.update(&header);
    crc.update(&previous);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(&previous);
    (out, frame_at, length)
}

pub(super) fn finish(mut out: Vec<u8>, frame_at: usize, length: usize) -> Bytes {
    out.extend_from_slice(&frame_tail(length));
    assert!(out.len() == frame_at + length, "the length was known before");
    Bytes::from(out).slice(frame_at..)
}

/// An empty buffer for `length` bytes; for many, with as much in front as [`encode_frame`] promises.
pub(super) fn room(length: usize, spot: Option<Spot>) -> Vec<u8> {
    if length < DIRECT_BYTES_MIN {
        return Vec::with_capacity(length);
    }
    let page = PAGE_BYTES as usize;
    let lead = spot.map_or(0, |spot| spot.offset % PAGE_BYTES) as usize;
    let mut out: Vec<u8> = Vec::with_capacity(length + page);
    let front = (out.as_ptr().align_offset(page) + lead) % page;
    out.resize(front, 0);
    out
}

/// What the front of a frame says of it, checked against its CRC.
#[derive(Clone, Debug)]
pub(crate) struct FrameHead {
    pub(crate) header: Header,
    pub(crate) previous: Option<Header>,
    /// Bytes of the whole frame.
    pub(crate) length: usize,
    /// Where the sections' blocks begin.
    pub(crate) body_at: usize,
}

/// Lengths of the fields in front: whole frame, header, repeated header; `None` when they cannot be.
fn lengths(front: &[u8]) -> Option<(usize, usize, usize)> {
    let front = front.get(..FRAME_HEAD_BYTES)?;
    let u32_at = |at: usize| u32::from_le_bytes(front[at..at + 4].try_into().expect("4")) as usize;
    let (length, header, previous) = (u32_at(4), u32_at(8), u32_at(12));
    let headers = header.checked_add(previous)?.checked_add(FRAME_HEAD_BYTES + FRAME_TAIL_BYTES)?;
    (front[..4] == START && length <= OP_BYTES_MAX && headers <= length)
        .then_some((length, header, previous))
}

/// How many bytes the front of a frame takes, if its lengths can be.
pub(crate) fn front_length(front: &[u8]) -> Option<usize> {
    lengths(front).map(|(_, header, previous)| FRAME_HEAD_BYTES + header + previous)
}

impl FrameHead {
    /// Reads the front of a frame; `bytes` may go on behind it.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, &'static str> {
        let (length, header, previous) =
            lengths(bytes).ok_or("a frame's sentinel or lengths do not hold")?;
        let body_at = FRAME_HEAD_BYTES + header + previous;
        if bytes.len() < body_at {
            return Err("a frame is cut off");
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..16]);
        crc.update(&bytes[FRAME_HEAD_BYTES..body_at]);
        if crc.finalize().to_le_bytes() != bytes[16..20] {
            return Err("a frame's header checksum does not match");
        }
        let header_at = FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + header;
        let previous_at = header_at.end..body_at;
        // Copied, so that a header does not hold on to all that was read with it.
        let decode = |range: std::ops::Range<usize>| {
            let own = Bytes::copy_from_slice(&bytes[range]);
            Header::decode(&own).map_err(|_| "a header is unknown")
        };
        let previous = if previous == 0 { None } else { Some(decode(previous_at)?) };
        Ok(Self { header: decode(header_at)?, previous, length, body_at })
    }

    /// Whether the end of the whole frame is what it must be.
    pub(crate) fn tail_holds(&self, frame: &[u8]) -> bool {
        frame.len() == self.length
            && frame[self.length - FRAME_TAIL_BYTES..] == frame_tail(self.length)
    }
}

/// The bytes at the end of a frame of this length.
pub(crate) fn frame_tail(length: usize) -> [u8; FRAME_TAIL_BYTES] {
    let mut tail = [0; FRAME_TAIL_BYTES];
    tail[..4].copy_from_slice(&(length as u32).to_le_bytes());
    tail[4..].copy_from_slice(&FRAME_END);
    tail
}

/// Where a byte of a run lies: the offset of its block in the frame and its place inside the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunPlace {
    pub(crate) block: u32,
    pub(crate) inside: u16,
}

/// A block of a run: how many of the run's bytes lie before it, and its offset in the frame.
#[derive(Clone, Copy, Debug)]
struct RunBlock {
    before: u32,
    offset: u32,
}

/// One section's runs, joined and checked block by block.
#[derive(Debug)]
pub(crate) struct SectionRuns {
    pub(crate) leaves: Vec<u8>,
    pub(crate) payloads: Vec<u8>,
    leaf_blocks: Vec<RunBlock>,
    payload_blocks: Vec<RunBlock>,
}

impl SectionRuns {
    /// Where byte `at` of the leaf run lies.
    pub(crate) fn leaf_place(&self, at: usize) -> RunPlace {
        place(&self.leaf_blocks, at)
    }

    /// Where byte `at` of the payload run lies; behind its end for records without payloads.
    pub(crate) fn payload_place(&self, at: usize) -> RunPlace {
        if at >= self.payloads.len() {
            return RunPlace { block: 0, inside: 0 };
        }
        place(&self.payload_blocks, at)
    }
}

fn place(blocks: &[RunBlock], at: usize) -> RunPlace {
    // Blocks of this version are all as long, but for a run's last one.
    let guess = at / BLOCK_BYTES;
    let begins = |i: usize| blocks.get(i).map(|block| block.before as usize);
    let fits = begins(guess).is_some_and(|begin| begin <= at)
        && begins(guess + 1).is_none_or(|next| at < next);
    let search = || blocks.partition_point(|block| block.before as usize <= at) - 1;
    let i = if fits { guess } else { search() };
    RunPlace { block: blocks[i].offset, inside: (at - blocks[i].before as usize) as u16 }
}

/// Reads the section that begins at `*at` in a frame that lies at `spot`, and moves `*at` behind it.
///
/// # Errors
/// What does not hold and where in the frame.
pub(crate) fn read_section(
    frame: &[u8],
    at: &mut usize,
    leaves_bytes: usize,
    spot: Option<Spot>,
) -> Result<SectionRuns, (usize, &'static str)> {
    let end = frame.len().saturating_sub(FRAME_TAIL_BYTES);
    let block = |at: usize| read_block(rest(frame, at, end), spot.map(|spot| spot.behind(at)));
    let mut runs = SectionRuns {
        leaves: Vec::with_capacity(leaves_bytes.min(end)),
        payloads: Vec::new(),
        leaf_blocks: Vec::new(),
        payload_blocks: Vec::new(),
    };
    while runs.leaves.len() < leaves_bytes {
        let (kind, content, taken) = block(*at).map_err(|what| (*at, what))?;
        if kind != BlockKind::Leaves {
            return Err((*at, "a leaf block is missing"));
        }
        let before = runs.leaves.len() as u32;
        runs.leaf_blocks.push(RunBlock { before, offset: *at as u32 });
        runs.leaves.extend_from_slice(content);
        *at += taken;
    }
    if runs.leaves.len() != leaves_bytes {
        return Err((*at, "there are more leaves than the header says"));
    }
    runs.payloads.reserve(payload_bytes(rest(frame, *at, end)));
    while *at < end && rest(frame, *at, end).get(1) == Some(&(BlockKind::Payloads as u8)) {
        let (_, content, taken) = block(*at).map_err(|what| (*at, what))?;
        let before = runs.payloads.len() as u32;
        runs.payload_blocks.push(RunBlock { before, offset: *at as u32 });
        runs.payloads.extend_from_slice(content);
        *at += taken;
    }
    Ok(runs)
}

/// Bytes in the payload blocks at the front, as far as their heads say so.
fn payload_bytes(mut blocks: &[u8]) -> usize {
    let mut bytes = 0;
    while let Ok(head) = BlockHead::decode(blocks)
        && head.kind == BlockKind::Payloads
        && let Some(behind) = blocks.get(BLOCK_HEAD_BYTES + head.stored..)
    {
        bytes += head.stored;
        blocks = behind;
    }
    bytes
}

/// What is left of a frame, which may be cut off before its end.
fn rest(frame: &[u8], at: usize, end: usize) -> &[u8] {
    frame.get(at..end).unwrap_or_default()
}

/// Gives bytes the sentinels and checksums of a frame at `spot`, wherever they lie in it, and leaves the rest as it is.
#[cfg(feature = "fuzz")]
pub(crate) fn seal_frame(frame: &mut [u8], spot: Spot) {
    let length = frame.len();
    if length < FRAME_HEAD_BYTES + FRAME_TAIL_BYTES {
        return;
    }
    let u32_at = |frame: &[u8], at: usize| {
        u32::from_le_bytes(frame[at..at + 4].try_into().expect("4")) as usize
    };
    frame[..4].copy_from_slice(&START);
    frame[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    let Some(head) = front_length(frame) else { return };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..16]);
    crc.update(&frame[FRAME_HEAD_BYTES..head]);
    frame[16..20].copy_from_slice(&crc.finalize().to_le_bytes());
    let end = length - FRAME_TAIL_BYTES;
    frame[end..].copy_from_slice(&frame_tail(length));
    let mut at = head;
    while let Some(left) = end.checked_sub(at + BLOCK_HEAD_BYTES).filter(|left| *left > 0) {
        let stored = u32_at(frame, at + 4).clamp(1, left.min(BLOCK_BYTES_MAX));
        let block = &mut frame[at..at + BLOCK_HEAD_BYTES + stored];
        block[0] = 0;
        block[BLOCK_PLACED_AT] &= 1;
        block[3] = 0;
        block[4..8].copy_from_slice(&(stored as u32).to_le_bytes());
        block[8..12].copy_from_slice(&(stored as u32).to_le_bytes());
        block[12..16].fill(0);
        let placed = block[BLOCK_PLACED_AT] == 1;
        let crc = block_crc(block, placed.then(|| spot.behind(at)));
        block[BLOCK_CRC_AT..BLOCK_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        at += BLOCK_HEAD_BYTES + stored;
    }
}

#[cfg(test)]
mod tests {
    use kimberlite_consensus::{Identity, Members, Op, ReplicaId, View};

    use super::*;

    #[test]
    fn an_op_that_only_changes_the_members_has_an_empty_body() {
        let members = Members::first(3).with_reset(ReplicaId(1), 2);
        let (cluster, parent) = ([1; 16], Identity::root([1; 16]));
        let (op, view, sections) = (Op(1), View(4), Bytes::new());
        let header = Header { cluster, op, view, parent, time_us: 1, members, sections };
        let frame = Framed::around(&header, None, &[]);
        let frame = frame.bytes();
        let head = FrameHead::decode(frame).unwrap();
        assert!(head.tail_holds(frame) && head.body_at + FRAME_TAIL_BYTES == frame.len());
        assert_eq!((head.header.clone(), Section::all(&head.header).count()), (header, 0));
        for n in 0..head.body_at {
            assert!(FrameHead::decode(&frame.slice(..n)).is_err(), "{n} bytes");
        }
    }

    #[test]
    fn a_large_frame_lies_in_memory_as_it_will_in_the_file() {
        let header = Header {
            cluster: [1; 16],
            op: Op(1),
            view: View(0),
            parent: Identity::root([1; 16]),
            time_us: 1,
            members: None,
            sections: Bytes::from(vec![0; SECTION_BYTES]),
        };
        let page = PAGE_BYTES as usize;
        for lead in [0, 1, 777, page - 1] {
            let runs = || Runs { leaves: vec![1; 100_000], payloads: vec![2; 200_000] };
            let spot = Some(Spot { first_op: 1, offset: (page + lead) as u64 });
            let (frame, placed) = encode_frame(&header, None, vec![runs()], spot);
            let frame = frame.bytes();
            let first = (page - lead) % page;
            assert_eq!(frame[first..].as_ptr().align_offset(page), 0, "{lead}");
            let head = FrameHead::decode(frame).unwrap();
            assert!(head.tail_holds(frame));
            let mut at = head.body_at;
            let read = read_section(frame, &mut at, 100_000, spot).unwrap();
            assert_eq!((&read.leaves, &read.payloads), (&runs().leaves, &runs().payloads));
            for at in [0, 65_535, 65_536, 99_999] {
                assert_eq!(placed[0].leaf_place(at), read.leaf_place(at));
                assert_eq!(placed[0].payload_place(at), read.payload_place(at));
            }
        }
    }
}
