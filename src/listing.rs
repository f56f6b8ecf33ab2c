//! The segments of a machine

use crate::error::ShmemError;
use crate::header::{Header, PREFIX_LEN};
use crate::name::Name;
use crate::sys::shm::{self, Access};
use alloc::string::String;
use alloc::vec::Vec;

/// The names of all segments of this crate that exist and that this process may read, sorted.
///
/// Looks at the first bytes of each file under `/dev/shm` and changes nothing. Files that are not segments
/// are passed over, and so are those that vanish meanwhile.
///
/// # Errors
/// [`ShmemError::Os`]: the directory cannot be read.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), shmem_bind::ShmemError> {
/// # let name = format!("shmem-bind-doc-{}-segments", std::process::id());
/// let segment = shmem_bind::Builder::new(&name).with_size(1).create()?;
/// assert!(shmem_bind::segments()?.contains(&name));
/// # Ok(())
/// # }
/// ```
pub fn segments() -> Result<Vec<String>, ShmemError> {
    let mut names = shm::file_names()?;
    names.retain(|name| Name::new(name).is_ok_and(|name| is_segment(&name)));
    names.sort();
    Ok(names)
}

fn is_segment(name: &Name) -> bool {
    let mut bytes = [0; PREFIX_LEN];
    let read = shm::open(name.path(), Access::ReadOnly, None)
        .and_then(|fd| shm::read_start(&fd, &mut bytes).map(Header::parse));
    matches!(read, Ok(Ok(_)))
}
