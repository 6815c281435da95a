//! Where documents come from.

mod belief;
mod directory;
mod events;
mod files;
#[cfg(test)]
mod tests;

pub use directory::Reading;
pub(crate) use directory::watch;
pub use files::MAX_FILES;
pub(crate) use files::texts;
