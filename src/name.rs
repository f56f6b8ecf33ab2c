//! Segment names
//!
//! A segment is a file directly under `/dev/shm`, which is where `shm_open` puts it too. A name is checked
//! once, here, and carries its whole path with it, so that nothing later allocates or fails.

use crate::error::NameError;
use core::ffi::CStr;
use core::fmt;

const DIRECTORY: &[u8] = b"/dev/shm/";
const MAX_LEN: usize = 255;
const PATH_LEN: usize = DIRECTORY.len() + MAX_LEN + 1;

/// The checked name of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    /// INVARIANT: `/dev/shm/`, then `len` bytes of UTF-8 without slash or NUL, then NULs.
    path: [u8; PATH_LEN],
    /// INVARIANT: 1 to 255.
    len: u8,
}

impl Name {
    /// Checks `name`; one leading slash, as `shm_open` wants it for portability, is dropped.
    pub(crate) fn new(name: &str) -> Result<Self, NameError> {
        let name = name.strip_prefix('/').unwrap_or(name);
        let Ok(len) = u8::try_from(name.len()) else {
            return Err(NameError::TooLong { len: name.len() });
        };
        match name {
            "" => return Err(NameError::Empty),
            "." | ".." => return Err(NameError::Dots),
            _ if name.contains('/') => return Err(NameError::Slash),
            _ if name.contains('\0') => return Err(NameError::Nul),
            _ => {}
        }
        let mut path = [0; PATH_LEN];
        for (to, from) in path.iter_mut().zip(DIRECTORY.iter().chain(name.as_bytes())) {
            *to = *from;
        }
        Ok(Self { path, len })
    }

    pub(crate) fn as_str(&self) -> &str {
        let bytes = self.path.get(DIRECTORY.len()..).and_then(|rest| rest.get(..usize::from(self.len)));
        // By the invariant of `path` the default is never used.
        bytes.and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// The path of the segment's file.
    pub(crate) fn path(&self) -> &CStr {
        // By the invariant of `path` the default is never used.
        CStr::from_bytes_until_nul(&self.path).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    #[test]
    fn good_names_become_paths() {
        for (given, name, path) in [
            ("a", "a", c"/dev/shm/a"),
            ("/a.shm", "a.shm", c"/dev/shm/a.shm"),
            ("größe", "größe", c"/dev/shm/größe"),
            ("...", "...", c"/dev/shm/..."),
        ] {
            let checked = Name::new(given).unwrap();
            assert_eq!((checked.as_str(), checked.path()), (name, path));
        }
        let longest = "x".repeat(255);
        assert_eq!(Name::new(&longest).unwrap().as_str(), longest);
        assert_eq!(Name::new(&longest).unwrap().path().count_bytes(), PATH_LEN - 1);
    }

    #[test]
    fn bad_names_are_told_apart() {
        for (given, error) in [
            ("", NameError::Empty),
            ("/", NameError::Empty),
            (".", NameError::Dots),
            ("/..", NameError::Dots),
            ("a/b", NameError::Slash),
            ("//a", NameError::Slash),
            ("a\0", NameError::Nul),
            (&"x".repeat(256), NameError::TooLong { len: 256 }),
        ] {
            assert_eq!(Name::new(given).unwrap_err(), error, "{given:?}");
        }
    }
}
