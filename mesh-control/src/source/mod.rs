//! Where documents come from.

mod directory;
#[cfg(test)]
mod tests;

pub(crate) use directory::watch;
pub use directory::{MAX_FILES, Reading};
