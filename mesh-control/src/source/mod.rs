//! Where documents come from.

mod directory;
mod events;
#[cfg(test)]
mod tests;

pub(crate) use directory::watch;
pub use directory::{MAX_FILES, Reading};
