//! A client of `compare` that is not the mesh's: `others CLIENT`, told whom to call by the first line of its standard input. It obeys as the
//! mesh's do, by the same code.

#[path = "../../src/caller.rs"]
mod caller;
mod clients;
#[allow(dead_code, reason = "the one who orders looks at more of it")]
#[path = "../../src/compare/load.rs"]
mod load;
#[allow(dead_code, reason = "the server is the mesh's")]
#[path = "../../../examples/src/proto.rs"]
mod proto;

use clients::{Client, Whom};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let name = std::env::args().nth(1).ok_or("which client?")?;
    let whom = Whom::told()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(async { Client::new(&name, &whom) })?;
    load::obey(&runtime, &client)
}
