//! Attachments that are of no use any more, whatever is asked of them

use super::{AllocError, ArenaError, DirectoryError, HandleError};

/// Said of every handle of the parent process.
pub(super) const FORKED: &str =
    "the handle belongs to the parent process from before fork; open the segment in this process";

/// Said of every handle to a segment that has lost memory.
pub(super) const SEVERED: &str = "memory of the segment has gone away: its file was cut short, or there was none left for a page; \
     drop what belongs to it, and open the segment again";

/// Why an attachment is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Forked,
    Severed,
}

/// What cannot be done by such an attachment fails for that reason.
macro_rules! from_unusable {
    ($($error:ty)*) => {
        $(impl From<Unusable> for $error {
            fn from(unusable: Unusable) -> Self {
                match unusable {
                    Unusable::Forked => Self::Forked,
                    Unusable::Severed => Self::Severed,
                }
            }
        })*
    };
}

from_unusable! { AllocError ArenaError DirectoryError HandleError }
