//! The setups of a run while they live: all of them are started before the first turn and idle between theirs.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::Failure;
use crate::children::{self, Machine, Worker};
use crate::envoy::{self, Files, Sidecar};
use crate::load::{Order, Turn};
use crate::pki::Pair;
use crate::roles::Whom;
use crate::setups::{Setup, Sidecars};

/// What all setups of a run share.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    pub(crate) server: (Pair, Files),
    pub(crate) client: (Pair, Files),
    pub(crate) envoy: Result<PathBuf, String>,
    /// The program of the package `others`.
    pub(crate) others: Result<PathBuf, String>,
    /// The one core that everything runs on, if it does.
    pub(crate) core: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) setup: &'static Setup,
    client: Worker,
    far: Far,
}

/// All of a setup but its client.
#[derive(Debug)]
pub(crate) struct Far {
    server: Worker,
    sidecars: Vec<Sidecar>,
    /// What the client is told.
    pub(crate) whom: serde_json::Value,
    _plane: Option<Worker>,
}

/// Of one turn: what the client says, and what the system says of the processes.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) turn: Turn,
    /// Nanoseconds of the processors: client, server, sidecars.
    pub(crate) cpu: [u64; 3],
    /// Of all processors' time in the turn: what another guest of the host had, and what others on this machine did.
    pub(crate) stolen: f64,
    pub(crate) others: f64,
}

impl Far {
    pub(crate) fn start(setup: &Setup, lab: &Lab) -> Result<Self, Failure> {
        let own = env::current_exe()?;
        let name = format!("server of {}", setup.name);
        let count = setup.servers.to_string();
        let mut server = Worker::spawn(&name, &own, &["--server", setup.server, &count], lab.core)?;
        server.tell(&lab.server.0)?;
        let addresses: Vec<SocketAddr> = server.answer()?;
        let mut address = *addresses.first().ok_or("a server without an address")?;
        let mut sidecars = Vec::new();
        if setup.sidecars == Sidecars::Two {
            let config = envoy::of_server(&lab.server.1, address);
            let sidecar = lab.sidecar(&format!("{}-server", setup.name), &config)?;
            address = sidecar.address;
            sidecars.push(sidecar);
        }
        if setup.sidecars != Sidecars::None {
            let config = envoy::of_client(&lab.client.1, address);
            let sidecar = lab.sidecar(&format!("{}-client", setup.name), &config)?;
            address = sidecar.address;
            sidecars.push(sidecar);
        }
        let whom = Whom {
            client: lab.client.0.clone(),
            address,
        };
        let (mut plane, mut told_by) = (None, None::<SocketAddr>);
        if setup.plane {
            let mut worker = Worker::spawn(&format!("control plane of {}", setup.name), &own, &["--plane"], None)?;
            worker.tell(&whom)?;
            told_by = Some(worker.answer()?);
            plane = Some(worker);
        }
        let files = &lab.client.1;
        let whom = match setup.of_others {
            false => serde_json::to_value(whom)?,
            true => json!({
                "servers": addresses,
                "plane": told_by,
                "chain": files.chain,
                "key": files.key,
                "root": files.root,
            }),
        };
        Ok(Self {
            server,
            sidecars,
            whom,
            _plane: plane,
        })
    }
}

impl Running {
    pub(crate) fn start(setup: &'static Setup, lab: &Lab) -> Result<Self, Failure> {
        let name = format!("client of {}", setup.name);
        let own = env::current_exe()?;
        let (program, arguments) = match setup.of_others {
            false => (own, vec!["--client", setup.client]),
            true => (lab.others.clone()?, vec![setup.client]),
        };
        let far = Far::start(setup, lab)?;
        let mut client = Worker::spawn(&name, &program, &arguments, lab.core)?;
        client.tell(&far.whom)?;
        let ready: String = client.answer()?;
        match ready == "ready" {
            true => Ok(Self { setup, client, far }),
            false => Err(format!("{name}: {ready}").into()),
        }
    }

    pub(crate) fn measure(&mut self, order: Order) -> Result<Measured, Failure> {
        let (before, machine) = (self.cpu()?, Machine::now()?);
        self.client.tell(&order)?;
        let turn: Turn = self.client.answer()?;
        let (after, now) = (self.cpu()?, Machine::now()?);
        let cpu = [0, 1, 2].map(|part| after[part].saturating_sub(before[part]));
        let all = (now.all - machine.all).max(1) as f64;
        let busy = (now.all - machine.all).saturating_sub(now.idle - machine.idle + now.stolen - machine.stolen);
        // A tick is a hundredth of a second.
        let ours = cpu.iter().sum::<u64>() as f64 / 10_000_000.0;
        Ok(Measured {
            turn,
            cpu,
            stolen: (now.stolen - machine.stolen) as f64 / all,
            others: ((busy as f64 - ours) / all).max(0.0),
        })
    }

    fn cpu(&self) -> Result<[u64; 3], Failure> {
        let mut sidecars = 0;
        for sidecar in &self.far.sidecars {
            sidecars += children::cpu_nanoseconds(sidecar.process)?;
        }
        let [client, server] = [&self.client, &self.far.server].map(|worker| children::cpu_nanoseconds(worker.id()));
        Ok([client?, server?, sidecars])
    }

    /// KiB: client, server, sidecars.
    pub(crate) fn resident(&self) -> Result<[u64; 3], Failure> {
        let mut sidecars = 0;
        for sidecar in &self.far.sidecars {
            sidecars += children::resident_kib(sidecar.process)?;
        }
        let [client, server] = [&self.client, &self.far.server].map(|worker| children::resident_kib(worker.id()));
        Ok([client?, server?, sidecars])
    }
}

impl Lab {
    fn sidecar(&self, name: &str, config: &serde_json::Value) -> Result<Sidecar, Failure> {
        let envoy: &Path = self.envoy.as_ref().map_err(Clone::clone)?;
        Sidecar::start(name, envoy, config, &self.folder, self.core)
    }
}
