//! The same clients with an allocator that counts: `counted --only CLIENT CALLS CONCURRENT`, as `cost` does it for the mesh's.

#[path = "../../src/caller.rs"]
mod caller;
mod clients;
#[allow(dead_code, reason = "`cost` takes the median of rounds")]
#[path = "../../src/measuring.rs"]
mod measuring;
#[allow(dead_code, reason = "the server is the mesh's")]
#[path = "../../../examples/src/proto.rs"]
mod proto;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Runtime;

use clients::{Client, Whom};
use measuring::{Cost, measure};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Failure = Box<dyn std::error::Error>;

/// Calls before counting starts.
const WARM_UP: usize = 320;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [_, name, calls, concurrent] = &arguments[..] else {
        return Err("--only CLIENT CALLS CONCURRENT".into());
    };
    let (calls, concurrent) = (calls.parse()?, concurrent.parse()?);
    let whom = Whom::told()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(async { Client::new(name, &whom) })?;
    runtime.block_on(measure(&client, ALLOCATOR, &|| 0, WARM_UP, concurrent))?;
    let cost = profiled(&runtime, &client, calls, concurrent)?;
    println!("{}", cost.json());
    Ok(())
}

/// A profiler finds it by its name.
#[inline(never)]
fn profiled(runtime: &Runtime, client: &Client, calls: usize, concurrent: usize) -> Result<Cost, Failure> {
    runtime.block_on(measure(client, ALLOCATOR, &|| 0, calls, concurrent))
}
