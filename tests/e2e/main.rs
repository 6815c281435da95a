//! The promises of the mesh to its user, a file for each, over real sockets and through the production assembly.
//!
//! One binary, because linking is what costs.

mod split;
