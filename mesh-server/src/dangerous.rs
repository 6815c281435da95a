//! The word that stands before every choice against the mesh's protection.
//!
//! Each builder that has such choices keeps them behind `dangerous()`, as rustls does: a reviewer finds all of them by one
//! word, and no editor's completion offers them beside the harmless ones.

/// Choices that give up the protection of the mesh; each leads back to what it was made from.
#[derive(Debug)]
#[must_use = "it does nothing until a choice is made"]
pub struct Dangerous<T>(pub(crate) T);
