//! What is known of damage in the WAL that is held here, and whose turn it is to read WAL back.
//!
//! Owner of both. One range is read at a time, a few wait, and more are told to ask again.

use std::sync::{Arc, Mutex, PoisonError};

use pgformat::Lsn;
use tokio::sync::Semaphore;

use crate::storage::read_back::WalDamage;

/// Questions at a time, with the one that is being answered: others of a set ask, and a stream or two.
const QUESTIONS_MAX: usize = 5;

/// What is known of damage, and the turn of who reads back.
#[derive(Debug)]
pub(super) struct Doubts {
    /// With the first byte of the range that was asked about.
    damage: Mutex<Option<(WalDamage, Lsn)>>,
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) places: Arc<Semaphore>,
}

impl Default for Doubts {
    fn default() -> Doubts {
        let places = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Doubts { damage: Mutex::default(), turn: tokio::sync::Mutex::default(), places }
    }
}

impl Doubts {
    pub(super) fn set(&self, damage: Option<(WalDamage, Lsn)>) {
        *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = damage;
    }

    pub(super) fn get(&self) -> Option<(WalDamage, Lsn)> {
        self.damage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
