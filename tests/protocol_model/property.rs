//! What is to be checked of a model.

use crate::protocol::Protocol;
use crate::world::World;

/// Something that must hold in every state.
#[derive(Clone, Copy)]
pub struct Property {
    pub name: &'static str,
    pub holds: fn(&Protocol, &World) -> bool,
}

impl Property {
    pub const fn new(name: &'static str, holds: fn(&Protocol, &World) -> bool) -> Self {
        Self { name, holds }
    }
}
