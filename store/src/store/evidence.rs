//! What shows that a record is in the log: checkpoints, proofs, tiles.

use std::{sync::Arc, time::Duration};

use super::{Store, Tenant};
use crate::{
    error::{Damage, ReadError},
    fragment::RecordReader,
    index::View,
    limits::PROOF_WAIT_MS,
    proof::{
        Receipt, Tile, TilePath, consistency, inclusion, root_of_inclusion, verify_consistency,
    },
    read::{NamedBefore, RecordView},
    reader::Reader,
    record::{genesis, leaf_hash},
    signing::{SignedLog, SigningError},
    tiles::{FOLDER, Hashes},
    words::{Hash, Position},
};

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// No checkpoint covers the record in time.
    #[error("no checkpoint covers it yet")]
    Pending,
    /// The sizes are not `0 < from <= to <= size`.
    #[error("the checkpoint has {size} records")]
    Sizes {
        /// Records that the checkpoint covers.
        size: u64,
    },
    /// The log or what is derived from it cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The key could not be changed.
    #[error(transparent)]
    Signing(#[from] SigningError),
}

/// That one size of a log begins with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// The earlier size.
    pub from: u64,
    /// The later size.
    pub to: u64,
    /// As RFC 6962, section 2.1.2, has them.
    pub hashes: Vec<Hash>,
}

impl Store {
    /// One record as [`Store::record`] has it, and where the names stand that its leaf has only references of.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn opening(
        &self,
        tenant: &Tenant,
        position: Position,
    ) -> Result<(RecordView, Vec<NamedBefore>), ReadError> {
        self.reading(tenant, false, move |reader| reader.opening(position)).await
    }

    /// The id that the log's chain of leaves and its payloads' keys begin with; that of the first log, also behind a fork.
    pub fn log_id(&self, tenant: &Tenant) -> [u8; 16] {
        tenant.shared.log_id
    }

    /// The newest checkpoint; `None` while there is none.
    pub fn signed(&self, tenant: &Tenant) -> Option<Arc<SignedLog>> {
        tenant.shared.signed.borrow().clone()
    }

    /// A checkpoint of at least `size` records, waited for as long as [`PROOF_WAIT_MS`].
    ///
    /// # Errors
    /// [`EvidenceError::Pending`].
    pub async fn signed_at(
        &self,
        tenant: &Tenant,
        size: u64,
    ) -> Result<Arc<SignedLog>, EvidenceError> {
        let mut signed = tenant.shared.signed.subscribe();
        let covers = |signed: &Option<Arc<SignedLog>>| {
            signed.as_ref().is_some_and(|signed| signed.checkpoint.size >= size)
        };
        let found = proof_wait(signed.wait_for(covers)).await;
        let found = found.and_then(Result::ok).and_then(|signed| signed.clone());
        found.ok_or(EvidenceError::Pending)
    }

    /// Waits, no longer than for a proof, until every log that is signed has a checkpoint, and with it a name.
    pub(crate) async fn named(&self) {
        if self.shared.signer.lock().is_none() {
            return;
        }
        let all = async {
            for tenant in self.shared.tenants.all().iter().filter(|t| t.name.is_some()) {
                let mut signed = tenant.signed.subscribe();
                let _shown = signed.wait_for(Option::is_some).await.is_ok();
            }
        };
        let _in_time = proof_wait(all).await.is_some();
    }

    /// That the record at `position` is in the log: its way to the newest checkpoint, which is waited for.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub async fn receipt(
        &self,
        tenant: &Tenant,
        position: Position,
    ) -> Result<Receipt, EvidenceError> {
        self.cosigned_receipt(tenant, position, 0).await
    }

    /// As [`Store::receipt`], to the newest checkpoint that at least so many witnesses cosigned.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub async fn cosigned_receipt(
        &self,
        tenant: &Tenant,
        position: Position,
        cosignatures: usize,
    ) -> Result<Receipt, EvidenceError> {
        let index = position.get();
        if index >= *tenant.shared.tip.borrow() {
            return Err(ReadError::NoRecord.into());
        }
        let signed = self.cosigned_at(tenant, index + 1, cosignatures).await?;
        let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
        let checkpoint = signed.note.clone();
        let read = move |hashes: &Hashes<'_>| {
            let proof = inclusion(index, size, |node| hashes.node(node))?;
            let leaf = hashes.range(0, index, 1)?[0];
            let holds = root_of_inclusion(leaf, index, size, &proof) == Ok(root);
            Ok(holds.then_some(proof))
        };
        let hashes = self.proving(tenant, signed, read).await?;
        Ok(Receipt { index, hashes, checkpoint, extra: None })
    }

    /// That the log of `to` records (those of the newest checkpoint, where it is left out) begins with that of `from`.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub async fn consistency(
        &self,
        tenant: &Tenant,
        from: u64,
        to: Option<u64>,
    ) -> Result<Consistency, EvidenceError> {
        let signed = self.signed_at(tenant, 0).await?;
        let (size, root) = (signed.checkpoint.size, signed.checkpoint.root);
        let to = to.unwrap_or(size);
        if from == 0 || from > to || to > size {
            return Err(EvidenceError::Sizes { size });
        }
        let read = move |hashes: &Hashes<'_>| {
            let proof = consistency(from, to, |node| hashes.node(node))?;
            let later = if to == size { root } else { hashes.tree(to)?.root() };
            let earlier = hashes.tree(from)?.root();
            let holds = verify_consistency((from, earlier), (to, later), &proof).is_ok();
            Ok(holds.then_some(proof))
        };
        let hashes = self.proving(tenant, signed, read).await?;
        Ok(Consistency { from, to, hashes })
    }

    /// A tile, or the leaves of one, as far as the newest checkpoint covers it; `None` where it does not.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub async fn tile(
        &self,
        tenant: &Tenant,
        path: TilePath,
    ) -> Result<Option<Vec<u8>>, EvidenceError> {
        let signed = self.signed_at(tenant, 0).await?;
        let tile = match path {
            TilePath::Hashes(tile) => tile,
            TilePath::Entries { index, width } => Tile { level: 0, index, width },
        };
        if !tile.is_in(signed.checkpoint.size) {
            return Ok(None);
        }
        let (first, count) = (tile.index * 256, u64::from(tile.width));
        if let TilePath::Entries { .. } = path {
            let read = move |reader: Reader<'_>| entries(&reader, first, count);
            return Ok(Some(self.reading(tenant, false, read).await?));
        }
        let read = move |hashes: &Hashes<'_>| hashes.range(tile.level, first, count).map(Some);
        let hashes = self.proving(tenant, signed, read).await?;
        Ok(Some(hashes.into_iter().flat_map(|hash| hash.0).collect()))
    }

    /// Has a new key sign a tenant's log from its newest record on. What older keys signed goes on to verify with them.
    ///
    /// # Errors
    /// See [`EvidenceError`].
    pub async fn rotate_log_key(&self, tenant: &Tenant) -> Result<Arc<SignedLog>, EvidenceError> {
        let signer = self.shared.signer.lock().clone();
        let rotated = match signer {
            Some(signer) => signer.rotate(tenant.shared.reference).await,
            None => None,
        };
        rotated.ok_or(EvidenceError::Pending)??;
        self.signed(tenant).ok_or(EvidenceError::Pending)
    }

    /// Reads hashes that lead to what was signed; tiles that lead elsewhere are made anew, once.
    async fn proving<T: Send + 'static>(
        &self,
        tenant: &Tenant,
        signed: Arc<SignedLog>,
        read: impl Fn(&Hashes<'_>) -> Result<Option<T>, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let run = move |reader: Reader<'_>| {
            let view = reader.tenant.view();
            let hashes = Hashes { tiles: &signed.tiles, view: &view };
            if let Some(found) = read(&hashes)? {
                return Ok(found);
            }
            tracing::error!(
                "the tiles of a log do not lead to what was signed; they are made anew"
            );
            let io = |source| ReadError::Io { file: FOLDER.into(), source };
            signed.tiles.clear().map_err(io)?;
            let what = "the log is not what was signed";
            let damage = || Damage { file: FOLDER.into(), offset: 0, what };
            read(&hashes)?.ok_or_else(|| damage().into())
        };
        self.reading(tenant, false, run).await
    }
}

/// As far as the longest wait for a checkpoint.
pub(super) async fn proof_wait<F: Future>(future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_millis(PROOF_WAIT_MS), future).await.ok()
}

/// Leaves, each behind its length in two bytes (C2SP tlog-tiles).
fn entries(reader: &Reader<'_>, first: u64, count: u64) -> Result<Vec<u8>, ReadError> {
    let view = reader.tenant.view();
    let mut previous = before(&view, reader.tenant.log_id, first)?;
    let (mut records, mut bundle) = (RecordReader::sequential(), Vec::new());
    for position in first..first + count {
        let (segment, entry) = view.entry(position)?.ok_or(ReadError::NoRecord)?;
        records.load_leaf(segment, &entry)?;
        if leaf_hash(&records.leaf, previous) != entry.hash {
            return Err(records.damage(&entry, "a leaf does not match its hash"));
        }
        let length = (records.leaf.len() + previous.0.len()) as u16;
        bundle.extend(length.to_be_bytes());
        bundle.extend(&records.leaf);
        bundle.extend(previous.0);
        previous = entry.hash;
    }
    Ok(bundle)
}

/// What the leaf at `position` goes on from.
fn before(view: &View, log_id: [u8; 16], position: u64) -> Result<Hash, ReadError> {
    match position.checked_sub(1) {
        None => Ok(genesis(log_id)),
        Some(last) => Ok(view.entry(last)?.ok_or(ReadError::NoRecord)?.1.hash),
    }
}
