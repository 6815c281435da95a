//! RES-3: connections, configurations and certificates come and go, and nothing is left of them.
//!
//! In a process of its own, since descriptors and memory are a process's, on one thread, so that a moment of rest is one. A turn goes from
//! a state of the mesh through others and back to it: endpoints move, weights turn, both ends get new certificates, a process joins and
//! leaves, strangers knock. At rest after it there are as many tasks and descriptors as after the turns before, and the memory that is in use is what
//! the allocator was asked for, to the byte. What a turn leaves behind is then told by the median of turns, and what stays of connections and
//! tasks by their number: so twenty seconds can find what two hours would. More than half an hour besides is held to bytes per hour:
//!
//! ```sh
//! RES_3_SECONDS=7200 cargo test --release -p tests --test e2e res_3_ -- --nocapture
//! ```

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use examples::load::Client;
use examples::proto::ChargeRequest;
use examples::proto::payment_client::PaymentClient;
use mesh_client::Channel;
use mesh_core::testing::TestCa;
use mesh_xds::XdsClient;
use tests::{Backend, CHECKOUT, Mesh, PATIENCE, PAYMENT, admitted, listener, routes, soon, workloads};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::LIVE;
use crate::rotation::{Secret, has};

/// Set in the process that does it.
const ALONE: &str = "RES_3_ALONE";
/// Turns until tables, buffers and caches have their size.
const WARM_UP: usize = 12;
/// The fewest turns after those, however slow the machine is: a slope through fewer says nothing.
const LEAST: usize = 24;
/// The most bytes that a turn may leave, by the median of turns: a table that doubles is a step in one of them, and what stays after each is in
/// all. A connection that stays is some 60 KiB, the smallest task that stays more than this; once in some turns, they are counted by number.
const MOST_BYTES_A_TURN: f64 = 256.0;
/// How many times as often the thread may be woken in the end: one timer of a member that stays after each turn is four times as much.
const MOST_WAKES: u64 = 3;
/// From here on the run is long enough to be held to bytes per hour.
const LONG: Duration = Duration::from_secs(1_800);
/// RES-3.
const MOST_BYTES_AN_HOUR: f64 = 1024.0 * 1024.0;
const TARGET: &str = "xds:///payment-service";

#[test]
fn res_3_nothing_is_left_of_connections_configurations_and_certificates() {
    if std::env::var_os(ALONE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(soak());
        return;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(ALONE, "")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, failed) = (
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr),
    );
    for line in said.lines().filter(|line| line.starts_with("res_3: ")) {
        println!("{line}");
    }
    assert!(
        child.status.success() && said.contains("res_3: at the end"),
        "{said}\n{failed}"
    );
}

async fn soak() {
    let seconds: u64 = std::env::var("RES_3_SECONDS").map_or(20, |text| text.parse().unwrap());
    let before = Rest::of(0);
    let mut rig = Rig::start().await;
    for _ in 0..WARM_UP {
        rig.turn().await;
    }
    let base = rig.rest(None).await;
    println!("res_3: after {WARM_UP} turns {base:?}");
    let begun = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < LEAST || begun.elapsed() < Duration::from_secs(seconds) {
        rig.turn().await;
        let rest = rig.rest(Some(&base)).await;
        seen.push((begun.elapsed().as_secs_f64(), rest.bytes as f64));
    }
    let (calls, turns) = (rig.calls, seen.len());
    let mut left: Vec<f64> = seen.windows(2).map(|two| two[1].1 - two[0].1).collect();
    left.sort_by(f64::total_cmp);
    let (a_turn, an_hour) = (left[left.len() / 2], slope(&seen) * 3_600.0);
    let (first, last) = (seen[0].1, seen[turns - 1].1);
    println!(
        "res_3: {turns} turns, {calls} calls, in {:.0?}: {a_turn:.1} bytes a turn, {:.1} KiB an hour; from {first} to {last} bytes",
        begun.elapsed(),
        an_hour / 1024.0
    );
    assert!(a_turn <= MOST_BYTES_A_TURN, "{a_turn} bytes a turn: {seen:?}");
    assert!(
        begun.elapsed() < LONG || an_hour <= MOST_BYTES_AN_HOUR,
        "{an_hour} bytes an hour"
    );
    let end = rig.rest(None).await;
    println!("res_3: after all turns {end:?}");
    // A timer that was left behind and comes again is seen here. The members look at their files fifty times a second each.
    assert!(end.wakes <= MOST_WAKES * base.wakes, "{end:?} after {base:?}");
    rig.stop().await;
    // Timers are parts of tasks, or of what was just dropped.
    until("no task and no descriptor to be left", || {
        let rest = Rest::of(0);
        (rest.tasks, rest.descriptors) == (before.tasks, before.descriptors)
    })
    .await;
    println!("res_3: at the end {:?}, before {before:?}", Rest::of(0));
}

/// What there is at a moment.
#[derive(Clone, Copy, Debug)]
struct Rest {
    tasks: usize,
    descriptors: usize,
    /// What the allocator was asked for and did not get back.
    bytes: usize,
    /// How often the runtime's thread has nothing to do in a second: each timer that fires is one.
    wakes: u64,
}

impl Rest {
    fn of(wakes: u64) -> Self {
        let stats = LIVE.stats();
        // One is the list's own.
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count() - 1;
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors,
            bytes: stats.bytes_allocated - stats.bytes_deallocated,
            wakes,
        }
    }
}

/// The slope of the straight line through `points` that fits best.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let own: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    both / own
}

/// Waits for what nobody tells of: the kernel's tables, and tasks that have been told to end.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    soon(what, async {
        while !is_so() {
            looks.tick().await;
        }
    })
    .await;
}

/// One caller, one callee at two places and its second version; all with certificates from files.
struct Rig {
    ca: TestCa,
    checkout: Secret,
    payment: Secret,
    caller: XdsClient,
    client: Client,
    backends: Vec<(Backend, XdsClient)>,
    mesh: Mesh,
    calls: u64,
}

impl Rig {
    async fn start() -> Self {
        let ca = TestCa::new("cluster.local");
        let (mut checkout, mut payment) = (Secret::new(CHECKOUT), Secret::new(PAYMENT));
        checkout.swap(&ca, &[&ca]);
        payment.swap(&ca, &[&ca]);
        let places = [listener().await, listener().await, listener().await];
        let [here, there, second] = places.each_ref().map(|(_, address)| *address);
        // Both places of the first version, so that each of them is told whom it lets in.
        let all = workloads(here, second) + &elsewhere(there.port());
        let mesh = Mesh::start(&[("workloads.yaml", &all), ("routes.yaml", &routes(0, 100))]).await;
        let mut backends = Vec::new();
        for ((listener, _), version) in places.into_iter().zip(["here", "there", "second"]) {
            let member = XdsClient::start(payment.bootstrap(&mesh, "payment")).unwrap();
            let backend = Backend::serve_on(listener, member.link(), version);
            admitted(&member.link(), &backend.address.to_string()).await;
            backends.push((backend, member));
        }
        let caller = XdsClient::start(checkout.bootstrap(&mesh, "checkout")).unwrap();
        let channel = Channel::new(&caller.link(), TARGET);
        soon("the target's configuration", channel.ready()).await;
        Self {
            ca,
            checkout,
            payment,
            caller,
            client: PaymentClient::new(channel),
            backends,
            mesh,
            calls: 0,
        }
    }

    /// Through every kind of change, and back.
    async fn turn(&mut self) {
        let [here, there, second] = [0, 1, 2].map(|index| self.backends[index].0.address);
        self.mesh.save("routes.yaml", &routes(100, 0));
        self.mesh.save("workloads.yaml", &workloads(here, second));
        self.answered_by("here").await;
        self.mesh.save("workloads.yaml", &workloads(there, second));
        self.answered_by("there").await;
        self.strangers(there).await;
        let served = self.payment.swap(&self.ca, &[&self.ca]);
        for (_, member) in &self.backends {
            has(&member.link(), &served).await;
        }
        let own = self.checkout.swap(&self.ca, &[&self.ca]);
        has(&self.caller.link(), &own).await;
        self.guest().await;
        self.mesh.save("routes.yaml", &routes(0, 100));
        self.answered_by("second").await;
        let all = workloads(here, second) + &elsewhere(there.port());
        let read = self.mesh.control().status().accepted;
        self.mesh.save("workloads.yaml", &all);
        self.mesh.until_read(|status| status.accepted > read).await;
    }

    /// Calls until `version` answers. No call fails.
    async fn answered_by(&mut self, version: &str) {
        let answered = async {
            loop {
                let request = ChargeRequest {
                    id: self.calls.to_string(),
                    amount: 100,
                    ..ChargeRequest::default()
                };
                self.calls += 1;
                let reply = self.client.charge(request).await.expect("no call fails");
                if reply.into_inner().version == version {
                    return;
                }
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, answered).await;
        assert!(outcome.is_ok(), "waited for {version}");
    }

    /// A process that comes, calls and goes.
    async fn guest(&mut self) {
        let guest = XdsClient::start(self.checkout.bootstrap(&self.mesh, "checkout")).unwrap();
        let channel = Channel::new(&guest.link(), TARGET);
        soon("the target's configuration", channel.ready()).await;
        let mut client = PaymentClient::new(channel);
        for _ in 0..3 {
            self.calls += 1;
            client.charge(ChargeRequest::default()).await.expect("no call fails");
        }
    }

    /// Those who say nothing, who say what is no TLS, and who go in the middle.
    async fn strangers(&self, address: std::net::SocketAddr) {
        for said in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 2, 0]] {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            stranger.write_all(said).await.unwrap();
        }
    }

    /// The mesh at rest, with no more of anything than there was.
    async fn rest(&mut self, base: Option<&Rest>) -> Rest {
        if let Some(base) = base {
            let (tasks, descriptors) = (base.tasks, base.descriptors);
            until("the tasks and descriptors of the turns before", || {
                let rest = Rest::of(0);
                rest.tasks <= tasks && rest.descriptors <= descriptors
            })
            .await;
            return Rest::of(0);
        }
        // The least that there is in a second, in which all that goes has gone: what is more later was left behind.
        let begin = Handle::current().metrics().worker_park_count(0);
        let mut least = Rest::of(0);
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..200 {
            looks.tick().await;
            let rest = Rest::of(0);
            least.tasks = least.tasks.min(rest.tasks);
            least.descriptors = least.descriptors.min(rest.descriptors);
        }
        least.wakes = Handle::current().metrics().worker_park_count(0) - begin;
        least
    }

    async fn stop(self) {
        let Self {
            backends,
            mut mesh,
            client,
            caller,
            ..
        } = self;
        drop((client, caller));
        for (backend, member) in backends {
            assert_eq!(backend.stop().await, 0, "nothing had to be cut");
            drop(member);
        }
        mesh.stop_control().await;
    }
}

/// The first version's other place.
fn elsewhere(port: u16) -> String {
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: payment-elsewhere, namespace: default}}
spec:
  address: 127.0.0.1
  ports: {{grpc: {port}}}
  labels: {{app: payment, version: v1}}
  serviceAccount: payment
"
    )
}
