//! What a measured client is, to whoever makes it call: nothing else is known of it.

use bytes::Bytes;

use crate::Failure;

/// A measured client. Clones share its connections.
pub(crate) trait Caller: Clone {
    /// One call, which is answered with what it sent.
    async fn call(&mut self, note: Bytes) -> Result<(), Failure>;
}

/// An echo of another length is none.
pub(crate) fn came_back(sent: usize, received: usize) -> Result<(), Failure> {
    match sent == received {
        true => Ok(()),
        false => Err(format!("{sent} bytes were sent, and {received} came back").into()),
    }
}
