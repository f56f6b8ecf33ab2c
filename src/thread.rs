//! Which thread this is

#[cfg(feature = "std")]
use crate::attachment;
use crate::lock::Holder;
use crate::sys::process;

/// The number of this thread. To be asked only while something is attached.
#[inline]
pub(crate) fn own_thread() -> u32 {
    #[cfg(feature = "std")]
    {
        use core::cell::Cell;

        std::thread_local! {
            /// The mark of the process where the number is right, and the number: a forked child has this thread's memory,
            /// but another number.
            static KNOWN: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
        }
        let process = attachment::process_mark();
        // Fails for no thread, since a cell has no destructor.
        let known = KNOWN.try_with(Cell::get).unwrap_or_default();
        if known.0 == process {
            return known.1;
        }
        let number = process::own_thread();
        let _: Result<(), std::thread::AccessError> = KNOWN.try_with(|known| known.set((process, number)));
        number
    }
    #[cfg(not(feature = "std"))]
    process::own_thread()
}

/// A number that differs between the threads of a process, and between processes, if only by chance. Costs no system call.
#[inline]
pub(crate) fn spread(holder: Holder) -> usize {
    // Slots are let in order.
    let slot = holder.slot().map_or(0, |slot| slot.index());
    #[cfg(feature = "std")]
    {
        slot.wrapping_add(own_thread() as usize)
    }
    #[cfg(not(feature = "std"))]
    slot
}
