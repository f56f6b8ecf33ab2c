//! What is done once, by whoever comes first: a cell without a value
//!
//! # Safety
//! Says that it may lie in shared memory, as the cell may that it is made of.
#![allow(unsafe_code)]

use super::once_cell::OnceCell;
use crate::error::LockFailure;
use crate::shareable::{FromZeros, Shareable, TypeTag};
use core::fmt;
use core::time::Duration;

/// Something in shared memory that is done once, by whichever process comes first.
///
/// As a [`OnceCell`] without a value. It is done when whoever does it has returned, and that has been written; if that one is killed
/// before, or panics, another one does it, from the beginning. So that must be something that can be done again.
///
/// # Examples
/// ```
/// use core::sync::atomic::{AtomicU32, Ordering};
/// use shmem_bind::sync::Once;
/// use shmem_bind::{Arena, Builder, ShmemError, Tlsf, shareable};
///
/// shareable! {
///     #[derive(Default)]
///     #[repr(C)]
///     pub struct Table {
///         pub filled: Once,
///         pub squares: [AtomicU32; 10],
///     }
/// }
///
/// # fn main() -> Result<(), ShmemError> {
/// # let name = &format!("shmem-bind-doc-{}-once", std::process::id());
/// let arena: Arena<Tlsf> = Builder::new(name).with_size(64 * 1024).open()?.arena()?;
/// let table = arena.find_or_alloc("table", Table::default)?;
///
/// table.filled.call_once(|| {
///     for (number, square) in (0..).zip(&table.squares) {
///         square.store(number * number, Ordering::Relaxed);
///     }
/// })?;
/// assert!(table.filled.is_completed());
/// let soon = std::time::Duration::from_secs(1);
/// table.filled.call_once_for(soon, || unreachable!("it is done"))?;
/// assert!(table.filled.wait_for(soon)? && table.filled.wait().is_ok());
/// assert_eq!(table.squares[7].load(Ordering::Relaxed), 49);
/// # Ok(())
/// # }
/// ```
#[repr(transparent)]
#[derive(Default)]
pub struct Once(OnceCell<()>);

// SAFETY: a `OnceCell`, under another name.
unsafe impl Shareable for Once {
    const TAG: TypeTag =
        TypeTag::new::<Self>("shmem_bind::Once", 1).with_field("cell", 0, <OnceCell<()>>::TAG);
    const FROZEN: bool = false;
}

// SAFETY: an empty cell.
unsafe impl FromZeros for Once {}

impl Once {
    /// Something that is not done yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceCell::new())
    }

    /// Whether it is done. Who sees that sees all that was done.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.0.get().is_some()
    }

    /// Does it, if it is not done; waits as long as somebody alive is doing it.
    ///
    /// # Errors
    /// As [`OnceCell::get_or_init`].
    #[inline]
    pub fn call_once(&self, f: impl FnOnce()) -> Result<(), LockFailure> {
        self.call_once_for(Duration::MAX, f)
    }

    /// The same; waits for at most `timeout` while somebody alive is doing it.
    ///
    /// # Errors
    /// As [`OnceCell::get_or_init_for`].
    #[inline]
    pub fn call_once_for(&self, timeout: Duration, f: impl FnOnce()) -> Result<(), LockFailure> {
        self.0.get_or_init_for(timeout, f).copied()
    }

    /// Waits until somebody has done it.
    ///
    /// # Errors
    /// As [`OnceCell::wait`].
    pub fn wait(&self) -> Result<(), LockFailure> {
        self.0.wait().copied()
    }

    /// Waits until somebody has done it, for at most `timeout`; gives whether it is done.
    ///
    /// # Errors
    /// As [`OnceCell::wait_for`].
    pub fn wait_for(&self, timeout: Duration) -> Result<bool, LockFailure> {
        Ok(self.0.wait_for(timeout)?.is_some())
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("is_completed", &self.is_completed()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_impl_all;

    assert_impl_all!(Once: Shareable, Send, Sync);

    #[test]
    fn it_is_no_cell() {
        assert_ne!(<OnceCell<()>>::TAG, Once::TAG);
        assert_eq!(Once::TAG.size(), 24);
    }
}
