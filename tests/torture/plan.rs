//! How the segment of a round is to live and die

use crate::common::arena::Random;
use shmem_bind::{
    AllocError, ArenaError, Builder, BuilderWithSize, DirectoryError, HandleError, LockFailure, OrphanPolicy,
    ShmemError, UnlinkPolicy,
};
use std::time::Duration;

/// Longer than anybody may hang: who waits as long has been found before.
const PATIENCE: Duration = Duration::from_secs(50);

/// Known to all processes of a round.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    pub unlink: UnlinkPolicy,
    pub orphan: OrphanPolicy,
    /// How long operations wait. If it is short, so that it may pass while the holder of a lock waits for a CPU,
    /// `Busy` is an answer like any other; else nobody may get it.
    pub patience: Duration,
    pub size: usize,
    pub max_size: usize,
    /// Somebody who is not killed is attached all along.
    pub has_survivor: bool,
}

impl Plan {
    /// The plan of this number. All sizes have their turn.
    pub fn new(name: &str, number: u64, random: &mut Random) -> Self {
        let unlink = match random.below(8) {
            0 => UnlinkPolicy::LastDetach,
            1 => UnlinkPolicy::OwnerDrop,
            _ => UnlinkPolicy::Never,
        };
        let orphan = match random.below(8) {
            0 => OrphanPolicy::Recreate,
            1 => OrphanPolicy::Refuse,
            _ => OrphanPolicy::Adopt,
        };
        let patience = if random.below(6) == 0 { Duration::from_millis(2) } else { PATIENCE };
        // Ample, or so little that memory is short, or little at first.
        let (size, max_size) = match number % 4 {
            0 => (1 << 19, 1 << 19),
            1 => (1 << 20, 8 << 20),
            _ => (8 << 20, 8 << 20),
        };
        let has_survivor = random.below(3) != 0;
        Self { name: name.to_owned(), unlink, orphan, patience, size, max_size, has_survivor }
    }

    pub fn builder(&self) -> BuilderWithSize {
        self.look().max_size(self.max_size)
    }

    fn look(&self) -> BuilderWithSize {
        self.attaching().with_size(self.size)
    }

    pub fn attaching(&self) -> Builder {
        Builder::new(&self.name).timeout(self.patience).unlink_policy(self.unlink).orphan_policy(self.orphan)
    }

    /// Whether memory is to be short.
    pub const fn is_small(&self) -> bool {
        self.max_size < 1 << 20
    }

    /// For one that is to wait as long as it takes.
    pub fn patient(&self) -> Self {
        Self { patience: PATIENCE, ..self.clone() }
    }

    fn may_be_busy(&self) -> bool {
        self.patience < PATIENCE
    }

    /// Fails unless an attempt to open the segment may end like this.
    #[track_caller]
    pub fn allow_open(&self, error: ShmemError) {
        let may_be = match error {
            ShmemError::NotFound | ShmemError::AlreadyExists => true,
            ShmemError::Orphaned => self.orphan == OrphanPolicy::Refuse,
            ShmemError::Busy => self.may_be_busy(),
            _ => false,
        };
        assert!(may_be, "{error:?}");
    }

    #[track_caller]
    pub fn allow_alloc(&self, error: AllocError) {
        let may_be = match error {
            AllocError::OutOfMemory { .. } => true,
            AllocError::Busy => self.may_be_busy(),
            _ => false,
        };
        assert!(may_be, "{error:?}");
    }

    #[track_caller]
    pub fn allow_arena<T>(&self, result: Result<T, ArenaError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(ArenaError::Busy) if self.may_be_busy() => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// What becomes of a handle that others may have claimed, or that is of a segment that was.
    #[track_caller]
    pub fn allow_claim(&self, error: HandleError) {
        let may_be = match error {
            HandleError::Gone { .. } | HandleError::Stale { .. } | HandleError::Foreign => true,
            HandleError::Busy => self.may_be_busy(),
            _ => false,
        };
        assert!(may_be, "{error:?}");
    }

    #[track_caller]
    pub fn allow_lock(&self, error: LockFailure) {
        assert!(error == LockFailure::Busy && self.may_be_busy(), "{error:?}");
    }

    #[track_caller]
    pub fn allow_name(&self, error: DirectoryError) {
        match error {
            DirectoryError::NotFound | DirectoryError::Taken | DirectoryError::Published => {}
            DirectoryError::Alloc(error) => self.allow_alloc(error),
            DirectoryError::Busy if self.may_be_busy() => {}
            error => panic!("{error:?}"),
        }
    }
}
