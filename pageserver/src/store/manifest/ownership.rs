//! Whether a timeline's manifests are this process's to write. To be fenced is a state with nothing to write by.

use super::{Durable, Fenced, Manifest, ManifestError, Manifests, Sweep};

/// Who writes the manifests of a timeline, as far as this process knows.
#[derive(Debug)]
pub(crate) enum Ownership {
    /// This process, with what it writes them by.
    Held(Box<Manifests>),
    /// Another one, for good.
    Lost(Fenced),
}

impl Ownership {
    /// Writes the next manifest: see [`Manifests::advance`].
    ///
    /// # Errors
    /// [`ManifestError::Fenced`], from then on for ever; by [`ManifestError::kind`] otherwise.
    pub(crate) fn advance(&mut self, edit: impl FnOnce(&mut Manifest)) -> Result<(), ManifestError> {
        let manifests = match self {
            Ownership::Held(manifests) => manifests,
            Ownership::Lost(fenced) => return Err((*fenced).into()),
        };
        let result = manifests.advance(edit);
        if let Err(ManifestError::Fenced(fenced)) = &result {
            *self = Ownership::Lost(*fenced);
        }
        result
    }

    /// The manifest that counts, and up to where it makes everything durable; none when that is for another to say.
    pub(crate) fn counting(&self) -> Option<(&Manifest, Durable)> {
        match self {
            Ownership::Held(manifests) => Some((manifests.current(), manifests.durable())),
            Ownership::Lost(_) => None,
        }
    }

    /// What may be deleted is begun to be found out: a sweep needs no ownership while it runs. None while it is unknown
    /// which manifest counts, or when that is another's.
    pub(crate) fn begin_sweep(&mut self) -> Option<Sweep> {
        match self {
            Ownership::Held(manifests) => manifests.begin_sweep(),
            Ownership::Lost(_) => None,
        }
    }

    /// A sweep has ended, with success or without.
    pub(crate) fn end_sweep(&mut self, sweep: Sweep) {
        if let Ownership::Held(manifests) = self {
            manifests.end_sweep(sweep);
        }
    }
}
