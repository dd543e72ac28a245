//! Checkpoints that witnesses cosigned.

use std::sync::Arc;

use tokio::sync::watch;

use super::{EvidenceError, Store, Tenant, evidence::proof_wait};
use crate::{
    limits::COSIGNED_KEPT,
    proof::{Note, NoteError, NoteSignature, VerifierKey},
    signing::SignedLog,
};

impl SignedLog {
    /// Witnesses that cosigned it.
    pub fn cosignatures(&self) -> usize {
        self.note.signatures().len() - 1
    }

    /// Whether this witness did.
    pub fn is_cosigned_by(&self, witness: &VerifierKey) -> bool {
        self.note.verify([witness]).is_ok()
    }

    fn with<'a>(&self, more: impl IntoIterator<Item = &'a NoteSignature>) -> Arc<Self> {
        let mut note = self.note.clone();
        more.into_iter().for_each(|signature| note.add(signature.clone()));
        let (checkpoint, keys) = (self.checkpoint.clone(), self.keys.clone());
        Arc::new(Self { checkpoint, note, keys, tiles: Arc::clone(&self.tiles) })
    }
}

impl Store {
    /// The newest checkpoint, each time that there is another, or another cosignature on it.
    pub fn watch_signed(&self, tenant: &Tenant) -> watch::Receiver<Option<Arc<SignedLog>>> {
        tenant.shared.signed.subscribe()
    }

    /// Puts a witness's cosignature on a checkpoint that was signed here, which from now on shows it.
    ///
    /// # Errors
    /// [`NoteError`]: it is not this witness's, or does not hold.
    pub fn add_cosignature(
        &self,
        tenant: &Tenant,
        signed: &SignedLog,
        witness: &VerifierKey,
        signature: &NoteSignature,
    ) -> Result<(), NoteError> {
        Note::new(signed.note.text().to_owned(), signature.clone()).verify([witness])?;
        let mut cosigned = signed.with([signature]);
        tenant.shared.cosigned.send_modify(|kept| {
            kept.retain(|k| k.checkpoint.origin == signed.checkpoint.origin);
            if let Some(at) = kept.iter().position(|k| k.checkpoint == signed.checkpoint) {
                cosigned = cosigned.with(&kept.remove(at).note.signatures()[1..]);
            }
            let at = kept.partition_point(|k| k.checkpoint.size < signed.checkpoint.size);
            kept.insert(at, Arc::clone(&cosigned));
            if kept.len() > COSIGNED_KEPT {
                // The newest with that many stays, however long nobody cosigns as one.
                let passed = |at: usize| {
                    let count = kept[at].cosignatures();
                    kept[at + 1..].iter().any(|later| later.cosignatures() >= count)
                };
                let at = (0..kept.len()).find(|at| passed(*at)).unwrap_or(0);
                kept.remove(at);
            }
        });
        tenant.shared.signed.send_if_modified(|shown| match shown {
            Some(newest) if newest.checkpoint == signed.checkpoint => {
                *newest = newest.with(&cosigned.note.signatures()[1..]);
                true
            }
            _ => false,
        });
        Ok(())
    }

    /// The newest checkpoint of at least `size` records that at least so many witnesses cosigned, waited for as long as
    /// [`crate::limits::PROOF_WAIT_MS`].
    ///
    /// # Errors
    /// [`EvidenceError::Pending`].
    pub async fn cosigned_at(
        &self,
        tenant: &Tenant,
        size: u64,
        cosignatures: usize,
    ) -> Result<Arc<SignedLog>, EvidenceError> {
        if cosignatures == 0 {
            return self.signed_at(tenant, size).await;
        }
        let mut kept = tenant.shared.cosigned.subscribe();
        let covers = |signed: &&Arc<SignedLog>| {
            signed.checkpoint.size >= size && signed.cosignatures() >= cosignatures
        };
        let wait = kept.wait_for(|kept| kept.iter().any(|signed| covers(&signed)));
        let found = proof_wait(wait).await.and_then(Result::ok);
        let found = found.and_then(|kept| kept.iter().rev().find(covers).cloned());
        found.ok_or(EvidenceError::Pending)
    }
}
