//! Who.
mod stub {
    /// placeholder
    #[derive(Clone, Debug)]
    pub struct Identity;
}
pub use stub::Identity;
