//! Line pointers and items: the primitives of redo.
//!
//! Each primitive leaves the same bytes as PostgreSQL's: item positions, line pointers and flags. The unused space
//! between `pd_lower` and `pd_upper` may differ.

use super::{LINE_POINTER_LEN, PAGE_HEADER_LEN, PAGE_SIZE, PD_HAS_FREE_LINES, Page, PageError, maxalign};

/// The most line pointers of a heap page (`MaxHeapTuplesPerPage`).
pub const HEAP_TUPLES_MAX: u16 = 291;

/// What a line pointer is good for (`lp_flags` in `itemid.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ItemState {
    /// Free for a new item.
    Unused = 0,
    /// Points to an item.
    Normal = 1,
    /// Points to another line pointer.
    Redirect = 2,
    /// Dead, with or without an item.
    Dead = 3,
}

/// A line pointer (`ItemIdData`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ItemId {
    /// Where the item lies; of a redirect: the line pointer's number.
    pub off: u16,
    /// What it is.
    pub state: ItemState,
    /// Length of the item, unaligned; 0 without an item.
    pub len: u16,
}

impl ItemId {
    /// A free one.
    pub const UNUSED: ItemId = ItemId { off: 0, state: ItemState::Unused, len: 0 };
    /// A dead one without an item.
    pub const DEAD: ItemId = ItemId { off: 0, state: ItemState::Dead, len: 0 };

    /// One that leads to line pointer `target`.
    pub const fn redirect(target: u16) -> ItemId {
        ItemId { off: target, state: ItemState::Redirect, len: 0 }
    }

    const fn from_bits(bits: u32) -> ItemId {
        let state = match bits >> 15 & 3 {
            0 => ItemState::Unused,
            1 => ItemState::Normal,
            2 => ItemState::Redirect,
            _ => ItemState::Dead,
        };
        ItemId { off: (bits & 0x7FFF) as u16, state, len: (bits >> 17) as u16 }
    }

    const fn to_bits(self) -> u32 {
        self.off as u32 & 0x7FFF | (self.state as u32) << 15 | (self.len as u32) << 17
    }

    /// Whether it is not free (`ItemIdIsUsed`).
    pub fn is_used(self) -> bool {
        self.state != ItemState::Unused
    }

    /// Whether there are bytes behind it (`ItemIdHasStorage`).
    pub const fn has_storage(self) -> bool {
        self.len != 0
    }
}

/// How [`Page::add_item_at`] treats line pointers at and behind the given one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// They move up by one: indexes.
    Shift,
    /// The given one must be free: heap; at most [`HEAP_TUPLES_MAX`].
    Heap,
    /// The given one must be free: BRIN.
    Overwrite,
}

impl Page {
    /// How many line pointers there are (`PageGetMaxOffsetNumber`).
    pub fn max_offset(&self) -> u16 {
        let lower = self.lower();
        if lower <= PAGE_HEADER_LEN { 0 } else { ((lower.min(PAGE_SIZE) - PAGE_HEADER_LEN) / LINE_POINTER_LEN) as u16 }
    }

    /// Whether there are no line pointers (`PageIsEmpty`).
    pub fn is_empty(&self) -> bool {
        self.lower() <= PAGE_HEADER_LEN
    }

    /// Line pointer `off`, from 1.
    ///
    /// # Errors
    /// When there is none.
    pub fn item_id(&self, off: u16) -> Result<ItemId, PageError> {
        Ok(ItemId::from_bits(self.u32_at(self.slot(off)?)?))
    }

    /// Overwrites line pointer `off`.
    ///
    /// # Errors
    /// When there is none.
    pub fn set_item_id(&mut self, off: u16, id: ItemId) -> Result<(), PageError> {
        let at = self.slot(off)?;
        self.put_u32(at, id.to_bits())
    }

    /// The bytes behind line pointer `off`, its whole unaligned length.
    ///
    /// # Errors
    /// When there is none, or it has no item.
    pub fn item(&self, off: u16) -> Result<&[u8], PageError> {
        let id = self.stored_item(off)?;
        self.bytes(usize::from(id.off), usize::from(id.len))
    }

    /// As [`Page::item`], to write to.
    ///
    /// # Errors
    /// As [`Page::item`].
    pub fn item_mut(&mut self, off: u16) -> Result<&mut [u8], PageError> {
        let id = self.stored_item(off)?;
        self.bytes_mut(usize::from(id.off), usize::from(id.len))
    }

    /// Checks what every primitive relies on: header ≤ lower ≤ upper ≤ special ≤ page, special aligned.
    ///
    /// # Errors
    /// [`PageError::Pointers`].
    pub fn check_pointers(&self) -> Result<(), PageError> {
        let (lower, upper, special) = (self.lower(), self.upper(), self.special());
        let ordered = PAGE_HEADER_LEN <= lower && lower <= upper && upper <= special && special <= PAGE_SIZE;
        if ordered && special == maxalign(special) {
            Ok(())
        } else {
            Err(PageError::Pointers { lower, upper, special })
        }
    }

    /// Adds an item behind the last line pointer; its number (`PageAddItem` without an offset, on a page without free
    /// line pointers).
    ///
    /// # Errors
    /// When it does not fit.
    pub fn add_item(&mut self, item: &[u8]) -> Result<u16, PageError> {
        let off = self.max_offset() + 1;
        self.add_item_at(item, off, Place::Shift)?;
        Ok(off)
    }

    /// Adds an item as line pointer `off` (`PageAddItemExtended`).
    ///
    /// # Errors
    /// When `off` is taken or would leave a gap, or the item does not fit.
    pub fn add_item_at(&mut self, item: &[u8], off: u16, place: Place) -> Result<(), PageError> {
        self.check_pointers()?;
        let max = self.max_offset();
        let limit = max + 1;
        let refuse = |why| Err(PageError::Item { off, max, why });
        if off == 0 || off > limit {
            return refuse("an item cannot be added beyond the end of the line pointers");
        }
        if place == Place::Heap && off > HEAP_TUPLES_MAX {
            return refuse("more items than a heap page holds");
        }
        let shifts = off < limit && place == Place::Shift;
        if off < limit && !shifts {
            let id = self.item_id(off)?;
            if id.is_used() || id.has_storage() {
                return refuse("it is in use and would be overwritten");
            }
        }
        let grown = self.lower() + if off == limit || shifts { LINE_POINTER_LEN } else { 0 };
        let Some(upper) = self.upper().checked_sub(maxalign(item.len())).filter(|upper| grown <= *upper) else {
            return Err(PageError::NoSpace { len: item.len(), lower: self.lower(), upper: self.upper() });
        };
        let at = PAGE_HEADER_LEN + usize::from(off - 1) * LINE_POINTER_LEN;
        if shifts {
            let end = self.lower();
            self.0.copy_within(at..end, at + LINE_POINTER_LEN);
        }
        let id = ItemId { off: short(upper), state: ItemState::Normal, len: short(item.len()) };
        self.put_u32(at, id.to_bits())?;
        self.put(upper, item)?;
        self.set_lower(grown);
        self.set_upper(upper);
        Ok(())
    }

    /// Lays out all items anew, without gaps, in the order of the line pointers (`PageRepairFragmentation`).
    /// `truncate`: free line pointers at the end are cut off (PostgreSQL 15 and later).
    ///
    /// # Errors
    /// When the page is damaged.
    pub fn repair_fragmentation(&mut self, truncate: bool) -> Result<(), PageError> {
        self.check_pointers()?;
        let max = self.max_offset();
        let (mut kept, mut last_used, mut unused) = (Vec::new(), 0, 0);
        for off in 1..=max {
            let id = self.item_id(off)?;
            if !id.is_used() {
                self.set_item_id(off, ItemId::UNUSED)?;
                unused += 1;
                continue;
            }
            last_used = off;
            if id.has_storage() {
                kept.push(off);
            }
        }
        self.compactify(&kept)?;
        if truncate && last_used != max {
            unused -= max - last_used;
            self.set_lower(PAGE_HEADER_LEN + usize::from(last_used) * LINE_POINTER_LEN);
        }
        self.hint_free_lines(unused > 0);
        Ok(())
    }

    /// Cuts off free line pointers at the end, down to one (`PageTruncateLinePointerArray`).
    ///
    /// # Errors
    /// When the page is damaged.
    pub fn truncate_line_pointers(&mut self) -> Result<(), PageError> {
        let mut max = self.max_offset();
        while max > 1 && !self.item_id(max)?.is_used() {
            max -= 1;
        }
        let mut free = false;
        for off in 1..=max {
            free |= !self.item_id(off)?.is_used();
        }
        self.set_lower(PAGE_HEADER_LEN + usize::from(max) * LINE_POINTER_LEN);
        self.hint_free_lines(free);
        Ok(())
    }

    /// Removes item `off` and its line pointer (`PageIndexTupleDelete`).
    ///
    /// # Errors
    /// When there is no such item, or the page is damaged.
    pub fn index_delete(&mut self, off: u16) -> Result<(), PageError> {
        self.check_pointers()?;
        let id = self.item_inside(off)?;
        let at = self.slot(off)?;
        let lower = self.lower();
        self.0.copy_within(at + LINE_POINTER_LEN..lower, at);
        self.set_lower(lower - LINE_POINTER_LEN);
        self.close_gap(id)?;
        let size = maxalign(usize::from(id.len));
        for other in 1..=self.max_offset() {
            self.move_item(other, |other| other.off <= id.off, size as isize)?;
        }
        Ok(())
    }

    /// Removes several items, `offs` ascending (`PageIndexMultiDelete`).
    ///
    /// # Errors
    /// When one of them does not exist, or the page is damaged.
    pub fn index_multi_delete(&mut self, offs: &[u16]) -> Result<(), PageError> {
        // Two or fewer are removed one by one; removing them together could leave a different layout.
        if offs.len() <= 2 {
            return offs.iter().rev().try_for_each(|off| self.index_delete(*off));
        }
        self.check_pointers()?;
        let max = self.max_offset();
        let mut doomed = offs.iter().copied().peekable();
        let mut kept = Vec::new();
        for off in 1..=max {
            let id = self.item_inside(off)?;
            if doomed.next_if_eq(&off).is_none() {
                kept.push(id);
            }
        }
        if let Some(off) = doomed.next() {
            return Err(PageError::Item {
                off,
                max,
                why: "an item to delete does not exist, or the list is not in order",
            });
        }
        self.set_lower(PAGE_HEADER_LEN + kept.len() * LINE_POINTER_LEN);
        for (n, id) in kept.iter().enumerate() {
            self.put_u32(PAGE_HEADER_LEN + n * LINE_POINTER_LEN, id.to_bits())?;
        }
        let offs: Vec<u16> = (1..=self.max_offset()).collect();
        self.compactify(&offs)
    }

    /// Removes item `off` but keeps the numbers of the others (`PageIndexTupleDeleteNoCompact`).
    ///
    /// # Errors
    /// When there is no such item, or the page is damaged.
    pub fn index_delete_no_compact(&mut self, off: u16) -> Result<(), PageError> {
        self.check_pointers()?;
        let id = self.item_inside(off)?;
        if off < self.max_offset() {
            self.set_item_id(off, ItemId::UNUSED)?;
        } else {
            self.set_lower(self.lower() - LINE_POINTER_LEN);
        }
        self.close_gap(id)?;
        let size = maxalign(usize::from(id.len));
        for other in 1..=self.max_offset() {
            self.move_item(other, |other| other.has_storage() && other.off <= id.off, size as isize)?;
        }
        Ok(())
    }

    /// Replaces item `off` by `item` in place (`PageIndexTupleOverwrite`).
    ///
    /// # Errors
    /// When there is no such item, the new one does not fit, or the page is damaged.
    pub fn index_overwrite(&mut self, off: u16, item: &[u8]) -> Result<(), PageError> {
        self.check_pointers()?;
        let id = self.item_inside(off)?;
        let (old_size, new_size) = (maxalign(usize::from(id.len)), maxalign(item.len()));
        if new_size > old_size + (self.upper() - self.lower()) {
            return Err(PageError::NoSpace { len: item.len(), lower: self.lower(), upper: self.upper() });
        }
        let shift = old_size as isize - new_size as isize;
        let mut at = usize::from(id.off);
        if shift != 0 {
            let upper = self.upper();
            let moved = upper.wrapping_add_signed(shift);
            self.0.copy_within(upper..at, moved);
            self.set_upper(moved);
            for other in 1..=self.max_offset() {
                self.move_item(other, |other| other.has_storage() && other.off <= id.off, shift)?;
            }
            at = at.wrapping_add_signed(shift);
        }
        self.set_item_id(off, ItemId { off: short(at), state: id.state, len: short(item.len()) })?;
        self.put(at, item)
    }

    fn slot(&self, off: u16) -> Result<usize, PageError> {
        let max = self.max_offset();
        if off == 0 || off > max {
            return Err(PageError::Item { off, max, why: "there is no such line pointer" });
        }
        Ok(PAGE_HEADER_LEN + usize::from(off - 1) * LINE_POINTER_LEN)
    }

    fn stored_item(&self, off: u16) -> Result<ItemId, PageError> {
        let id = self.item_id(off)?;
        if id.has_storage() {
            return Ok(id);
        }
        Err(PageError::Item { off, max: self.max_offset(), why: "it has no item" })
    }

    /// An item that lies, whole, between upper and special, as the primitives that move bytes need it.
    fn item_inside(&self, off: u16) -> Result<ItemId, PageError> {
        let id = self.item_id(off)?;
        let (at, size) = (usize::from(id.off), maxalign(usize::from(id.len)));
        let inside = at >= self.upper() && at + size <= self.special() && at == maxalign(at);
        if inside {
            return Ok(id);
        }
        Err(PageError::Item { off, max: self.max_offset(), why: "it points outside of the items" })
    }

    /// Moves everything below item `id` up over it.
    fn close_gap(&mut self, id: ItemId) -> Result<(), PageError> {
        let (upper, at, size) = (self.upper(), usize::from(id.off), maxalign(usize::from(id.len)));
        if at > upper {
            self.0.copy_within(upper..at, upper + size);
        }
        self.set_upper(upper + size);
        self.check_pointers()
    }

    fn move_item(&mut self, off: u16, moves: impl Fn(&ItemId) -> bool, by: isize) -> Result<(), PageError> {
        let id = self.item_id(off)?;
        if moves(&id) {
            self.set_item_id(off, ItemId { off: short(usize::from(id.off).wrapping_add_signed(by)), ..id })?;
        }
        Ok(())
    }

    /// Lays the items of `offs` out from the special space downwards, in that order (`compactify_tuples`).
    fn compactify(&mut self, offs: &[u16]) -> Result<(), PageError> {
        let (mut offs, lower) = (offs, self.lower());
        let mut upper = self.special();
        // Items at the end that need not move: usually nearly all.
        while let [off, rest @ ..] = offs {
            let id = self.item_inside(*off)?;
            if usize::from(id.off) + maxalign(usize::from(id.len)) != upper {
                break;
            }
            (upper, offs) = (usize::from(id.off), rest);
        }
        let scratch = self.0;
        for off in offs {
            let id = self.item_inside(*off)?;
            let (at, size) = (usize::from(id.off), maxalign(usize::from(id.len)));
            upper = upper.checked_sub(size).filter(|upper| *upper >= lower).ok_or(PageError::Pointers {
                lower,
                upper: self.upper(),
                special: self.special(),
            })?;
            self.0[upper..upper + size].copy_from_slice(&scratch[at..at + size]);
            self.set_item_id(*off, ItemId { off: short(upper), ..id })?;
        }
        self.set_upper(upper);
        Ok(())
    }

    fn hint_free_lines(&mut self, free: bool) {
        self.change_flags(PD_HAS_FREE_LINES, if free { PD_HAS_FREE_LINES } else { 0 });
    }
}

/// A number below a page's length.
fn short(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
