//! Records as bytes: leaves, payloads, commitments. `FORMAT.md` says what each byte means.

use sha2::{Digest, Sha256};

use crate::{
    limits::LEAF_BYTES_MAX,
    words::{Hash, Reference, Timestamp, Version},
};

const LEAF_VERSION: u8 = 1;
const FORM_CLEAR: u8 = 1;
const FORM_SEALED: u8 = 2;
const FIXED_BYTES: usize = 4 + 16 + 8 + 8;
const REFERENCE_BYTES: usize = 17;
const PAYLOAD_HEAD_BYTES: usize = 35;
const PAIR_BYTES: usize = 24;
const SALT_BYTES: usize = 16;
/// Stream, type, actor, and eight subjects.
const REFERENCES_MAX: u8 = 11;
/// State and length before a payload's stored bytes.
const ENTRY_HEAD_BYTES: usize = 5;

/// What a record records. The numbers of later kinds are reserved in `FORMAT.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Event = 1,
    StreamDeleted = 2,
    LogForked = 3,
    TenantCreated = 4,
    SchemaChanged = 16,
    RowChanged = 17,
    CheckpointStamped = 65,
}

impl RecordKind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Event,
            2 => Self::StreamDeleted,
            3 => Self::LogForked,
            4 => Self::TenantCreated,
            16 => Self::SchemaChanged,
            17 => Self::RowChanged,
            65 => Self::CheckpointStamped,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::StreamDeleted => "stream_deleted",
            Self::LogForked => "log_forked",
            Self::TenantCreated => "tenant_created",
            Self::SchemaChanged => "schema_changed",
            Self::RowChanged => "row_changed",
            Self::CheckpointStamped => "checkpoint_stamped",
        }
    }
}

/// What a reference stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Stream = 1,
    Type = 2,
    Actor = 3,
    Subject = 4,
}

impl Role {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Stream,
            2 => Self::Type,
            3 => Self::Actor,
            4 => Self::Subject,
            _ => return None,
        })
    }
}

/// What a payload holds. They stand in this order in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PayloadKind {
    StreamName = 1,
    TypeName = 2,
    ActorName = 3,
    Data = 4,
    Metadata = 5,
    OccurredAt = 6,
    Tags = 7,
    Idempotency = 8,
    Body = 9,
    Row = 10,
}

/// The kinds of one record's payloads, of which there is at most one each; they come in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PayloadKinds(pub(crate) u16);

impl PayloadKinds {
    pub(crate) fn iter(self) -> impl Iterator<Item = PayloadKind> {
        (0..16).filter(move |bit| self.0 >> bit & 1 == 1).filter_map(PayloadKind::from_byte)
    }
}

impl FromIterator<PayloadKind> for PayloadKinds {
    fn from_iter<I: IntoIterator<Item = PayloadKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |mask, kind| mask | 1 << kind as u8))
    }
}

impl PayloadKind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::StreamName,
            2 => Self::TypeName,
            3 => Self::ActorName,
            4 => Self::Data,
            5 => Self::Metadata,
            6 => Self::OccurredAt,
            7 => Self::Tags,
            8 => Self::Idempotency,
            9 => Self::Body,
            10 => Self::Row,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::StreamName => "stream",
            Self::TypeName => "type",
            Self::ActorName => "actor",
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::OccurredAt => "occurred_at",
            Self::Tags => "tags",
            Self::Idempotency => "idempotency",
            Self::Body => "body",
            Self::Row => "row",
        }
    }
}

/// Payloads of one record, ready to be written: their heads for the leaf, their bytes for the payload run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payloads {
    pub(crate) heads: Vec<(PayloadKind, Hash)>,
    pub(crate) stored: Vec<u8>,
}

impl Payloads {
    /// Adds a clear payload: salts it and commits to it.
    pub(crate) fn push_clear(&mut self, kind: PayloadKind, json: &[u8]) {
        debug_assert!(self.heads.last().is_none_or(|(last, _)| *last < kind), "ascending kinds");
        let salt: [u8; SALT_BYTES] = crate::chance::random();
        let length = (SALT_BYTES + json.len()) as u32;
        self.stored.reserve(ENTRY_HEAD_BYTES + SALT_BYTES + json.len());
        self.stored.push(0);
        self.stored.extend_from_slice(&length.to_le_bytes());
        let start = self.stored.len();
        self.stored.extend_from_slice(&salt);
        self.stored.extend_from_slice(json);
        self.heads.push((kind, Hash(Sha256::digest(&self.stored[start..]).into())));
    }

    /// One clear payload that holds a JSON string.
    pub(crate) fn name(kind: PayloadKind, text: &str) -> Self {
        let mut payloads = Self::default();
        payloads.push_clear(kind, &json_string(text));
        payloads
    }
}

/// `text` as a JSON string.
pub(crate) fn json_string(text: &str) -> Vec<u8> {
    serde_json::to_vec(text).expect("strings serialise")
}

/// All of a leaf but its payload heads and previous hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafFields<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) id: [u8; 16],
    pub(crate) version: u64,
    pub(crate) time_us: i64,
    pub(crate) references: &'a [(Role, Reference)],
}

/// Encodes a leaf without its previous hash into `out`, which is cleared first.
pub(crate) fn encode_leaf<'a>(
    out: &mut Vec<u8>,
    fields: LeafFields<'_>,
    payloads: impl Iterator<Item = &'a (PayloadKind, Hash)>,
) {
    out.clear();
    out.extend_from_slice(&[LEAF_VERSION, fields.kind as u8, fields.references.len() as u8, 0]);
    out.extend_from_slice(&fields.id);
    out.extend_from_slice(&fields.version.to_le_bytes());
    out.extend_from_slice(&fields.time_us.to_le_bytes());
    for (role, reference) in fields.references {
        out.push(*role as u8);
        out.extend_from_slice(&reference.0);
    }
    let mut count = 0;
    for (kind, commitment) in payloads {
        out.extend_from_slice(&[*kind as u8, FORM_CLEAR, 0]);
        out.extend_from_slice(&commitment.0);
        count += 1;
    }
    out[3] = count;
    assert!(out.len() + 32 <= LEAF_BYTES_MAX, "a leaf is bounded by its counts");
}

/// The hash of a leaf given as stored, behind the record with hash `previous`.
pub(crate) fn leaf_hash(stored: &[u8], previous: Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(stored);
    hasher.update(previous.0);
    Hash(hasher.finalize().into())
}

/// What stands before position 0 of a log.
pub(crate) fn genesis(log_id: [u8; 16]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(b"kimberlite log");
    hasher.update(log_id);
    Hash(hasher.finalize().into())
}

/// A stored leaf, checked for its form and taken apart without copying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) id: [u8; 16],
    pub(crate) version: u64,
    pub(crate) time_us: i64,
    references: &'a [u8],
    payloads: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// Reads a stored leaf; says what does not hold otherwise.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (fixed, rest) = bytes.split_at_checked(FIXED_BYTES).ok_or("a leaf is too short")?;
        if bytes.len() + 32 > LEAF_BYTES_MAX {
            return Err("a leaf is too long");
        }
        if fixed[0] != LEAF_VERSION {
            return Err("unknown leaf version");
        }
        let kind = RecordKind::from_byte(fixed[1])
            .ok_or("a record kind that this version does not know")?;
        let references = usize::from(fixed[2]) * REFERENCE_BYTES;
        let (references, payloads) =
            rest.split_at_checked(references).ok_or("a leaf is too short")?;
        if fixed[2] > REFERENCES_MAX || fixed[3] > PayloadKind::Row as u8 {
            return Err("a leaf has too many parts");
        }
        let roles = references.chunks_exact(REFERENCE_BYTES).map(|r| Role::from_byte(r[0]));
        if !roles.clone().all(|r| r.is_some()) || !roles.is_sorted() {
            return Err("references do not ascend by role");
        }
        let mut left = payloads;
        let mut last = 0;
        for _ in 0..fixed[3] {
            let head = left.get(..PAYLOAD_HEAD_BYTES).ok_or("a leaf is too short")?;
            if PayloadKind::from_byte(head[0]).is_none() || head[0] <= last {
                return Err("payload kinds do not ascend");
            }
            last = head[0];
            let pairs = match (head[1], head[2]) {
                (FORM_CLEAR, 0) => 0,
                (FORM_SEALED, 1..=8) => usize::from(head[2]) * PAIR_BYTES,
                _ => return Err("unknown payload form"),
            };
            left = left.get(PAYLOAD_HEAD_BYTES + pairs..).ok_or("a leaf is too short")?;
        }
        if !left.is_empty() {
            return Err("a leaf is longer than its fields");
        }
        let u64_at = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("8"));
        let (version, time_us) = (u64_at(20), u64_at(28).cast_signed());
        if Version::new(version).is_none() || Timestamp::from_micros(time_us).is_none() {
            return Err("a leaf's version or time cannot be");
        }
        Ok(Self {
            kind,
            id: fixed[4..20].try_into().expect("16"),
            version,
            time_us,
            references,
            payloads,
        })
    }

    /// The reference with this role, where there is one.
    pub(crate) fn reference(&self, role: Role) -> Option<Reference> {
        let found = self.references.chunks_exact(REFERENCE_BYTES).find(|r| r[0] == role as u8)?;
        Some(Reference(found[1..].try_into().expect("16")))
    }

    /// Kind and commitment of each payload, in order.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = (PayloadKind, Hash)> + 'a {
        let mut left = self.payloads;
        std::iter::from_fn(move || {
            let head = left.get(..PAYLOAD_HEAD_BYTES)?;
            left = &left[PAYLOAD_HEAD_BYTES + usize::from(head[2]) * PAIR_BYTES..];
            let kind = PayloadKind::from_byte(head[0]).expect("checked by decode");
            Some((kind, Hash(head[3..].try_into().expect("32"))))
        })
    }
}

/// What a payload run holds for one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Present(&'a [u8]),
    Erased,
    Expired,
}

impl<'a> Entry<'a> {
    /// How many bytes an entry with this head has.
    fn length(head: [u8; ENTRY_HEAD_BYTES]) -> usize {
        let length = u32::from_le_bytes(head[1..].try_into().expect("4"));
        ENTRY_HEAD_BYTES + length as usize
    }

    /// Takes the first entry off a payload run.
    pub(crate) fn take(run: &mut &'a [u8]) -> Result<Self, &'static str> {
        let head: [u8; ENTRY_HEAD_BYTES] = run
            .get(..ENTRY_HEAD_BYTES)
            .and_then(|h| h.try_into().ok())
            .ok_or("a payload run ends early")?;
        let whole = run.get(..Self::length(head)).ok_or("a payload run ends early")?;
        *run = &run[whole.len()..];
        match head[0] {
            0 => Ok(Self::Present(&whole[ENTRY_HEAD_BYTES..])),
            1 if whole.len() == ENTRY_HEAD_BYTES => Ok(Self::Erased),
            2 if whole.len() == ENTRY_HEAD_BYTES => Ok(Self::Expired),
            _ => Err("unknown payload state"),
        }
    }

    /// The JSON of a clear payload that is there.
    pub(crate) fn json(self) -> Result<Option<&'a [u8]>, &'static str> {
        match self {
            Self::Present(stored) => {
                stored.get(SALT_BYTES..).map(Some).ok_or("a clear payload is shorter than its salt")
            }
            Self::Erased | Self::Expired => Ok(None),
        }
    }

    /// Whether the leaf's commitment holds (an absent payload breaks none).
    pub(crate) fn matches(self, commitment: Hash) -> bool {
        match self {
            Self::Present(stored) => <[u8; 32]>::from(Sha256::digest(stored)) == commitment.0,
            Self::Erased | Self::Expired => true,
        }
    }
}

/// The salt at the front of a clear payload's stored bytes.
pub(crate) fn salt(stored: &[u8]) -> Option<[u8; 16]> {
    stored.get(..SALT_BYTES)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<u8>, Payloads) {
        let mut payloads = Payloads::name(PayloadKind::StreamName, "order-1");
        payloads.push_clear(PayloadKind::Data, b"{\"a\": 1e400}");
        let mut leaf = Vec::new();
        let references = [(Role::Stream, Reference([1; 16])), (Role::Type, Reference([2; 16]))];
        let fields = LeafFields {
            kind: RecordKind::Event,
            id: [3; 16],
            version: 7,
            time_us: -1,
            references: &references,
        };
        encode_leaf(&mut leaf, fields, payloads.heads.iter());
        (leaf, payloads)
    }

    #[test]
    fn leaves_come_back_as_they_were() {
        let (bytes, payloads) = sample();
        let leaf = Leaf::decode(&bytes).unwrap();
        assert_eq!((leaf.id, leaf.version, leaf.time_us), ([3; 16], 7, -1));
        assert_eq!(leaf.reference(Role::Type), Some(Reference([2; 16])));
        assert_eq!(leaf.reference(Role::Actor), None);
        assert_eq!(leaf.payloads().collect::<Vec<_>>(), payloads.heads);
        let mut run = &payloads.stored[..];
        for (_, commitment) in leaf.payloads() {
            assert!(Entry::take(&mut run).unwrap().matches(commitment));
        }
        assert!(run.is_empty());
    }

    #[test]
    fn cut_and_lengthened_leaves_are_refused() {
        let (bytes, _) = sample();
        for n in 0..bytes.len() {
            assert!(Leaf::decode(&bytes[..n]).is_err(), "{n} bytes");
        }
        assert!(Leaf::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn references_out_of_order_are_refused() {
        let (mut bytes, _) = sample();
        (bytes[36], bytes[53]) = (Role::Type as u8, Role::Stream as u8);
        assert_eq!(Leaf::decode(&bytes).err(), Some("references do not ascend by role"));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused_but_never_panic() {
        let (bytes, _) = sample();
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = value;
                if let Ok(leaf) = Leaf::decode(&changed) {
                    leaf.payloads().for_each(drop);
                    leaf.reference(Role::Subject);
                }
            }
        }
    }

    #[test]
    fn equal_payloads_have_unequal_commitments() {
        let one = Payloads::name(PayloadKind::Data, "x");
        let two = Payloads::name(PayloadKind::Data, "x");
        assert_ne!(one.heads, two.heads);
    }

    #[test]
    fn a_changed_payload_breaks_its_commitment() {
        let payloads = Payloads::name(PayloadKind::Data, "hello");
        for at in ENTRY_HEAD_BYTES..payloads.stored.len() {
            let mut changed = payloads.stored.clone();
            changed[at] ^= 1;
            let entry = Entry::take(&mut &changed[..]).unwrap();
            assert!(!entry.matches(payloads.heads[0].1), "byte {at}");
        }
    }
}
