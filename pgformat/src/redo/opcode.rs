//! Opcodes of heap and heap2, which redo of tables and of the visibility map share.
//!
//! Source: PostgreSQL 14-18, `src/include/access/heapam_xlog.h`.

/// Bits of `info` that say what is done (`XLOG_HEAP_OPMASK`).
pub(super) const OPCODE: u8 = 0x70;

// Heap.
pub(super) const INSERT: u8 = 0x00;
pub(super) const DELETE: u8 = 0x10;
pub(super) const UPDATE: u8 = 0x20;
pub(super) const HOT_UPDATE: u8 = 0x40;
pub(super) const CONFIRM: u8 = 0x50;
pub(super) const LOCK: u8 = 0x60;
pub(super) const INPLACE: u8 = 0x70;

// Heap2.
/// Pruning; since 17 while a page is read.
pub(super) const PRUNE: u8 = 0x10;
/// Vacuum's second pass; since 17 its first.
pub(super) const VACUUM: u8 = 0x20;
/// Freezing; since 17 vacuum's second pass.
pub(super) const FREEZE: u8 = 0x30;
pub(super) const VISIBLE: u8 = 0x40;
pub(super) const MULTI_INSERT: u8 = 0x50;
pub(super) const LOCK_UPDATED: u8 = 0x60;
