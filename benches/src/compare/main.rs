//! The comparison that anyone can run again: the mesh, what it replaces and what else there is, in one interleaved run on loopback.
//!
//! Same echo, same mutual TLS, each client, server and sidecar a process of its own (`setups` has the list, `roles` what they do). Setups take
//! turns, so what disturbs the machine disturbs all of them, and are compared turn by turn; `results` is what is kept and `report` what is
//! published of it: `benches/results.json`, `BENCHMARKS.md` and a picture. Nothing here gates: times do not.
//!
//! ```text
//! cargo run --release --locked -p benches --bin compare               all of it, about eight minutes
//!   --quick                                                            a first look, about a minute
//!   --only SETUP[,SETUP]                                               these, and what they are compared with; publishes nothing
//!   --pin CORE                                                         everything on one core
//!   -o json                                                            results to standard output; publishes nothing
//!   --render                                                           measures nothing: publishes benches/results.json again
//! ```
//!
//! tonic's `balance_list` and tonic-xds are in a package of their own (`benches/others`), which is built when this runs; Envoy is what
//! `tests/interop` installs. What cannot be had is left out, and the document says so.

#![allow(clippy::print_stdout, reason = "a tool's result goes to standard output")]

#[path = "../bare.rs"]
mod bare;
#[path = "../caller.rs"]
mod caller;
mod children;
#[path = "../clients.rs"]
mod clients;
mod counted;
#[allow(dead_code, reason = "`cost` counts the writes")]
#[path = "../counting.rs"]
mod counting;
#[path = "../direct.rs"]
mod direct;
#[allow(dead_code, reason = "`cost` has the server")]
#[path = "../echo.rs"]
mod echo;
mod envoy;
mod facts;
mod load;
#[path = "../meshed.rs"]
mod meshed;
mod picture;
#[path = "../pki.rs"]
mod pki;
mod report;
mod results;
mod roles;
mod running;
#[allow(dead_code, reason = "`server` has the names")]
#[path = "../server/serving.rs"]
mod serving;
mod setups;
#[path = "../transport.rs"]
mod transport;
#[path = "../web.rs"]
mod web;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use counted::{Counter, Tools};
use load::{Loop, Order};
use results::{Curve, Demand, Figures, LeftOut, Results, SetupResults, Spread, Turns, cpu_us, load_name, ratio, short};
use running::{Lab, Running};
use setups::{Family, SETUPS, Setup, Sidecars};

type Failure = Box<dyn std::error::Error>;

const LOADS: [Loop; 5] = [
    Loop::Closed { concurrent: 1 },
    Loop::Closed { concurrent: 16 },
    Loop::Closed { concurrent: 64 },
    Loop::Open { rate: 1000 },
    Loop::Open { rate: 5000 },
];
/// Rounds, and how long a turn is, in milliseconds: in full and in a hurry.
const FULL: (usize, u64) = (11, 300);
const QUICK: (usize, u64) = (3, 150);
/// Calls in flight while the client's work is counted.
const COUNTED: [usize; 2] = [1, 16];
/// What issue 8 wants: instructions of a lean client, processor time of both ends, and how much dearer two sidecars are.
const INSTRUCTIONS: f64 = 0.68;
const BOTH_ENDS: f64 = 0.65;
const SIDECARS: f64 = 10.0;

/// What was asked for.
struct Asked {
    quick: bool,
    only: Vec<String>,
    core: Option<usize>,
    json: bool,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--client", name] => return roles::client(name),
        ["--server", kind, count] => {
            let known = SETUPS.iter().find(|setup| setup.server == kind);
            return roles::server(known.ok_or("no such server")?.server, count.parse()?);
        }
        ["--plane"] => return roles::plane(),
        ["--guard", log, ..] => return children::guard(log, &arguments[2..]),
        ["--render"] => {
            let root = root();
            let results = serde_json::from_str(&fs::read_to_string(root.join(RESULTS))?)?;
            return publish(&root, &results);
        }
        _ => {}
    }
    if mesh_core::TESTING {
        return Err("built with the feature `testing`: measure with `cargo run --release -p benches`".into());
    }
    let asked = Asked::of(&words)?;
    let results = measure(&asked, &words)?;
    for left in &results.left_out {
        eprintln!("!!! LEFT OUT: {}: {}", left.what, left.why);
    }
    if asked.json || !asked.only.is_empty() {
        println!("{}", serde_json::to_string_pretty(&results)?);
        return Ok(());
    }
    publish(&root(), &results)
}

impl Asked {
    fn of(words: &[&str]) -> Result<Self, Failure> {
        let mut asked = Self {
            quick: false,
            only: Vec::new(),
            core: None,
            json: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} what?"));
            match *word {
                "--quick" => asked.quick = true,
                "--only" => asked.only.extend(value()?.split(',').map(str::to_owned)),
                "--pin" => asked.core = Some(value()?.parse()?),
                "-o" if *value()? == "json" => asked.json = true,
                other => {
                    return Err(format!("not understood: {other}; the header of compare/main.rs has the words").into());
                }
            }
        }
        let unknown = asked
            .only
            .iter()
            .find(|name| !SETUPS.iter().any(|setup| setup.name == **name));
        match unknown {
            Some(name) => Err(format!("no setup {name:?}: one of {:?}", SETUPS.map(|setup| setup.name)).into()),
            None => Ok(asked),
        }
    }

    fn wants(&self, setup: &Setup) -> bool {
        let named = |name: &str| self.only.iter().any(|only| only == name);
        let is_base = setup.name == setup.family.base();
        let compared = SETUPS
            .iter()
            .any(|other| other.family == setup.family && named(other.name));
        self.only.is_empty() || named(setup.name) || (is_base && compared)
    }
}

const RESULTS: &str = "benches/results.json";

fn root() -> PathBuf {
    let benches = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    benches.join("..")
}

fn publish(root: &Path, results: &Results) -> Result<(), Failure> {
    fs::write(
        root.join(RESULTS),
        format!("{}\n", serde_json::to_string_pretty(results)?),
    )?;
    fs::write(root.join("BENCHMARKS.md"), report::markdown(results))?;
    fs::write(root.join(report::PICTURE), picture::svg(results))?;
    eprintln!("written: {RESULTS}, BENCHMARKS.md, {}", report::PICTURE);
    Ok(())
}

fn measure(asked: &Asked, words: &[&str]) -> Result<Results, Failure> {
    let (began, root) = (Instant::now(), root());
    let mut left_out = Vec::new();
    let mut about = facts::about(&root)?;
    about.command = ["cargo run --release --locked -p benches --bin compare"]
        .into_iter()
        .chain((!words.is_empty()).then_some("--"))
        .chain(words.iter().copied())
        .collect::<Vec<_>>()
        .join(" ");
    (about.turns, about.turn_ms) = if asked.quick { QUICK } else { FULL };
    about.one_core = asked.core.is_some();
    let wanted: Vec<&'static Setup> = SETUPS.iter().filter(|setup| asked.wants(setup)).collect();
    let lab = lab(&root, asked.core, &wanted)?;
    if let Ok(envoy) = &lab.envoy {
        about.versions.insert("Envoy".to_owned(), envoy::version(envoy)?);
    }
    if lab.others.is_ok() {
        let lock = fs::read_to_string(root.join(OTHERS).join("Cargo.lock"))?;
        about.versions.extend(facts::locked(&lock, &["tonic-xds"]));
    }
    let mut running = Vec::new();
    for setup in wanted {
        eprintln!("starting {}", setup.name);
        match Running::start(setup, &lab) {
            Ok(one) => running.push(one),
            Err(failure) => left_out.push(LeftOut {
                what: setup.name.to_owned(),
                why: failure.to_string(),
            }),
        }
    }
    let turns = turns(&mut running, about.turns, about.turn_ms, &mut left_out);
    let mut setups = Vec::new();
    for one in &running {
        let mut results = SetupResults::new(one.setup);
        results.resident_mib = one.resident()?.map(|kib| short(kib as f64 / 1024.0));
        for how in LOADS {
            let of = |name: &'static str| turns.get(&(name, load_name(how)));
            let base = of(one.setup.family.base()).filter(|_| !results.is_base());
            let figures = of(one.setup.name).map(|turns| Figures::of(turns, base));
            results
                .loads
                .insert(load_name(how), figures.ok_or("a setup without turns")?);
        }
        setups.push(results);
    }
    let started: Vec<&'static Setup> = running.iter().map(|one| one.setup).collect();
    drop(running);
    count(&root, &lab, &started, &mut setups, asked.quick, &mut left_out);
    let curves = match asked.quick {
        true => Err("--quick".into()),
        false => curves(&root),
    };
    let curves = curves.unwrap_or_else(|failure| {
        left_out.push(LeftOut {
            what: "how it grows".to_owned(),
            why: failure.to_string(),
        });
        Vec::new()
    });
    let demands = demands(&setups, &turns);
    about.took_s = began.elapsed().as_secs();
    fs::remove_dir_all(&lab.folder)?;
    Ok(Results {
        about,
        setups,
        demands,
        curves,
        left_out,
    })
}

/// Where what is not ours is, with a lock file of its own.
const OTHERS: &str = "benches/others";

/// Certificates, and the programs that are not ours.
fn lab(root: &Path, core: Option<usize>, wanted: &[&Setup]) -> Result<Lab, Failure> {
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).ok_or("no target folder")?;
    let folder = target.join("compare").join(std::process::id().to_string());
    fs::create_dir_all(&folder)?;
    let (server, client) = pki::issue()?;
    let has = |is: fn(&Setup) -> bool| wanted.iter().any(|setup| is(setup));
    let envoy = match has(|setup| setup.sidecars != Sidecars::None) {
        true => envoy::executable(root).map_err(|error| error.to_string()),
        false => Err("not asked for".to_owned()),
    };
    let others = match has(|setup| setup.of_others) {
        true => {
            let manifest = format!("{OTHERS}/Cargo.toml");
            counted::build(
                root,
                &["--manifest-path", &manifest],
                "others",
                Some(&target.join("others")),
            )
            .map_err(|error| format!("{OTHERS} cannot be built: {error}"))
        }
        false => Err("not asked for".to_owned()),
    };
    Ok(Lab {
        server: (server.clone(), envoy::Files::write("server", &server, &folder)?),
        client: (client.clone(), envoy::Files::write("client", &client, &folder)?),
        folder,
        envoy,
        others,
        core,
    })
}

type AllTurns = BTreeMap<(&'static str, String), Turns>;

/// Round by round and load by load, each setup in turn, from another one on in each round. One that breaks is left out from then on, with
/// all its figures.
fn turns(running: &mut Vec<Running>, rounds: usize, millis: u64, left_out: &mut Vec<LeftOut>) -> AllTurns {
    let mut all = AllTurns::new();
    for round in 0..rounds {
        for how in LOADS {
            if !running.is_empty() {
                running.rotate_left(1);
            }
            running.retain_mut(|one| match one.measure(Order { how, millis }) {
                Ok(measured) => {
                    let (name, load, turn) = (one.setup.name, load_name(how), &measured.turn);
                    eprintln!(
                        "round {}/{rounds}, {load}: {name}: {} calls, {:.1} us of the processors each",
                        round + 1,
                        turn.calls,
                        cpu_us(&measured),
                    );
                    if let Some(error) = &turn.error {
                        eprintln!("{name}: {} calls failed: {error}", turn.failed);
                    }
                    all.entry((name, load)).or_default().push(measured);
                    true
                }
                Err(failure) => {
                    left_out.push(LeftOut {
                        what: one.setup.name.to_owned(),
                        why: failure.to_string(),
                    });
                    false
                }
            });
        }
    }
    running.sort_by_key(|one| SETUPS.iter().position(|setup| setup.name == one.setup.name));
    all
}

/// What clients do for a call; a client that several setups share is counted once.
fn count(
    root: &Path,
    lab: &Lab,
    started: &[&'static Setup],
    setups: &mut [SetupResults],
    quick: bool,
    left_out: &mut Vec<LeftOut>,
) {
    let tools = Tools::found(left_out);
    if quick {
        left_out.push(LeftOut {
            what: "what clients without gRPC do for a call, and all with more than one in flight".to_owned(),
            why: "--quick".to_owned(),
        });
    }
    let cost =
        counted::build(root, &["-p", "benches", "--bin", "cost"], "cost", None).map_err(|error| error.to_string());
    let mut known: BTreeMap<(&str, usize), Result<results::Counted, String>> = BTreeMap::new();
    for (setup, results) in started.iter().zip(setups) {
        // A caller in the clear is not what is compared; and sidecars are no client.
        if setup.sidecars != Sidecars::None || (quick && setup.family != Family::Grpc) {
            continue;
        }
        for concurrent in COUNTED.into_iter().filter(|concurrent| !quick || *concurrent == 1) {
            let counted = known.entry((setup.client, concurrent)).or_insert_with(|| {
                eprintln!("counting {}, {concurrent} in flight", setup.client);
                let counted = count_one(setup, lab, &cost, concurrent, tools);
                counted.map_err(|error| error.to_string())
            });
            match counted {
                Ok(counted) => {
                    results.counted.insert(concurrent, *counted);
                }
                Err(why) => left_out.push(LeftOut {
                    what: format!(
                        "what the client of {} does for a call, {concurrent} in flight",
                        setup.name
                    ),
                    why: why.clone(),
                }),
            }
        }
    }
}

fn count_one(
    setup: &Setup,
    lab: &Lab,
    cost: &Result<PathBuf, String>,
    concurrent: usize,
    tools: Tools,
) -> Result<results::Counted, Failure> {
    if !setup.of_others {
        let counter = Counter {
            program: cost.clone()?,
            profiled: "cost::profiled*",
            client: setup.client,
            whom: None,
        };
        return counter.count(concurrent, tools);
    }
    // There until it is counted.
    let far = running::Far::start(setup, lab)?;
    let counter = Counter {
        program: lab.others.clone()?.with_file_name("counted"),
        profiled: "counted::profiled*",
        client: setup.client,
        whom: Some(far.whom.to_string()),
    };
    counter.count(concurrent, tools)
}

/// How it all grows, by `scale`.
fn curves(root: &Path) -> Result<Vec<Curve>, Failure> {
    let scale = counted::build(root, &["-p", "benches", "--bin", "scale"], "scale", None)?;
    eprintln!("drawing curves");
    let said = Command::new(scale).arg("--curves").output()?;
    let curves: Vec<Curve> = serde_json::from_slice(&said.stdout)?;
    Ok(curves.into_iter().map(Curve::shortened).collect())
}

fn demands(setups: &[SetupResults], turns: &AllTurns) -> Vec<Demand> {
    let named = |name: &str| setups.iter().find(|setup| setup.name == name);
    let instructions = |name: &str| named(name)?.counted.get(&1)?.instructions;
    let lean = instructions("lean").zip(instructions("bare_channel"));
    let cpu = |name: &'static str, base: &'static str, how: Loop| {
        let load = load_name(how);
        let (turns, base) = (turns.get(&(name, load.clone()))?, turns.get(&(base, load))?);
        Some(ratio(turns, base, &cpu_us))
    };
    let (alone, low) = (LOADS[0], LOADS[3]);
    let at_most = |what: &str, wanted, found| Demand {
        what: what.to_owned(),
        wanted,
        at_least: false,
        found,
    };
    let at_least = |what: &str, wanted, found| Demand {
        what: what.to_owned(),
        wanted,
        at_least: true,
        found,
    };
    vec![
        at_most(
            "instructions of the lean client beside a bare `Channel`, one in flight",
            INSTRUCTIONS,
            lean.map(|(lean, bare)| Spread::exactly(lean / bare)),
        ),
        at_most(
            "processor time of client and server, lean, beside bare, one in flight",
            BOTH_ENDS,
            cpu("lean", "bare_channel", alone),
        ),
        at_least(
            "processor time of two sidecars beside ours with everything, 1,000 calls a second",
            SIDECARS,
            cpu("two_sidecars", "everything", low),
        ),
        at_least(
            "the same, one in flight",
            SIDECARS,
            cpu("two_sidecars", "everything", alone),
        ),
    ]
}
