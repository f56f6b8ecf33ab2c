//! The segments of a machine

use crate::error::ShmemError;
use crate::header::{Header, PREFIX_LEN};
use crate::name::Name;
use crate::sys::shm::{self, Access};
use alloc::string::String;
use alloc::vec::Vec;
use rustix::io::Errno;

/// The names of all segments of this crate that exist and that this process may read, sorted.
///
/// Looks at the first bytes of each file under `/dev/shm` and changes nothing. Files that are not segments
/// are passed over, and so are those that vanish meanwhile.
///
/// # Errors
/// [`ShmemError::Os`]: the directory cannot be read, or there is no descriptor left to look at its files.
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
    let mut names = Vec::new();
    for name in shm::file_names()? {
        if let Ok(path) = Name::new(&name) {
            if is_segment(&path)? {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

fn is_segment(name: &Name) -> Result<bool, ShmemError> {
    let os = |call| move |errno| ShmemError::Os { call, errno };
    let fd = match shm::open(name.path(), Access::ReadOnly, None) {
        // Not this process's to read, gone, or something else in its place.
        Err(Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::LOOP | Errno::ISDIR) => return Ok(false),
        Err(Errno::NXIO | Errno::NODEV) => return Ok(false),
        result => result.map_err(os("open"))?,
    };
    let mut bytes = [0; PREFIX_LEN];
    Ok(Header::parse(shm::read_start(&fd, &mut bytes).map_err(os("pread"))?).is_ok())
}
