//! `examples/kubernetes`: what a cluster would find wrong with the manifests, as far as that can be seen without one. No cluster has run them.
//!
//! A manifest is held against what it is about: the programs' own arguments, the ports that these arguments open, the files that are mounted,
//! and the names that other manifests or the README's commands make.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::{here, meshctl, stdout};

/// All manifests, of all files.
fn manifests() -> Vec<Value> {
    let folder = here().join("../examples/kubernetes");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let files = files
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    let all: Vec<Value> = files
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let read: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&text);
            read.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect();
    assert!(all.len() >= 12, "{} manifests", all.len());
    all
}

fn readme() -> String {
    fs::read_to_string(here().join("../examples/kubernetes/README.md")).unwrap()
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, path: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

fn of_kind<'v>(all: &'v [Value], kind: &str) -> impl Iterator<Item = &'v Value> {
    all.iter().filter(move |one| text(one, "/kind") == kind)
}

fn name(one: &Value) -> (&str, &str) {
    (text(one, "/metadata/namespace"), text(one, "/metadata/name"))
}

/// The arguments of a Deployment's one container.
fn arguments(deployment: &Value) -> Vec<&str> {
    let arguments = list(deployment, "/spec/template/spec/containers/0/args");
    arguments.map(|argument| argument.as_str().unwrap()).collect()
}

fn program(deployment: &Value) -> &str {
    text(deployment, "/spec/template/spec/containers/0/name")
}

/// The options of a program: its help's for `meshctl run`, and the fields of the arguments in the source of those of the example.
fn options(program: &str) -> BTreeSet<String> {
    if program == "meshctl" {
        let help = stdout(&meshctl(&["run", "--help"]));
        let words = help.split_whitespace().filter(|word| word.starts_with("--"));
        return words
            .map(|word| word.trim_matches([',', '.', ')']).to_owned())
            .collect();
    }
    let path = here().join(format!("../examples/src/bin/{program}.rs"));
    let source = fs::read_to_string(path).unwrap();
    let (_, fields) = source.split_once("struct Arguments {").unwrap();
    let (fields, _) = fields.split_once("\n}").unwrap();
    let fields = fields
        .lines()
        .filter(|line| !line.contains("///") && !line.contains("#["));
    let fields = fields.filter_map(|line| line.split_once(": "));
    fields
        .map(|(name, _)| format!("--{}", name.trim().replace('_', "-")))
        .collect()
}

/// The ports that a program opens for others than its own pod.
fn opened(deployment: &Value) -> BTreeSet<u64> {
    let values = arguments(deployment)
        .into_iter()
        .filter_map(|argument| argument.split_once('='));
    let sockets = values.filter_map(|(_, value)| value.parse::<std::net::SocketAddr>().ok());
    sockets
        .filter(|socket| !socket.ip().is_loopback())
        .map(|socket| socket.port().into())
        .collect()
}

/// The ports of its container, by name.
fn ports(deployment: &Value) -> BTreeMap<&str, u64> {
    let ports = list(deployment, "/spec/template/spec/containers/0/ports");
    ports
        .map(|port| (text(port, "/name"), port["containerPort"].as_u64().unwrap()))
        .collect()
}

/// A port as a probe or a service names it.
fn resolve(port: &Value, deployment: &Value) -> u64 {
    let named = port.as_str().map(|name| ports(deployment)[name]);
    named.or_else(|| port.as_u64()).unwrap()
}

/// Whether a selector means the pods of a Deployment.
fn selects(selector: &Value, deployment: &Value) -> bool {
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let mut wanted = selector.as_object().unwrap().iter();
    wanted.all(|(key, value)| labels[key] == *value)
}

#[test]
fn every_argument_is_one_that_the_program_takes() {
    let all = manifests();
    for deployment in of_kind(&all, "Deployment") {
        let known = options(program(deployment));
        let arguments = arguments(deployment);
        assert!(known.len() > 4 && !arguments.is_empty(), "{known:?}");
        for argument in arguments.iter().filter(|argument| argument.starts_with("--")) {
            let option = argument.split('=').next().unwrap();
            assert!(
                known.contains(option),
                "{}: {argument} is none of {known:?}",
                program(deployment)
            );
        }
    }
    // And so of the commands that are typed beside them.
    for line in readme().lines().filter(|line| line.contains("-- meshctl ")) {
        let (_, command) = line.split_once("-- meshctl ").unwrap();
        let verb = command.split(' ').next().unwrap();
        let help = stdout(&meshctl(&[verb, "--help"]));
        for option in command.split(' ').filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "meshctl {verb} has no {option}");
        }
    }
}

#[test]
fn every_port_is_one_that_the_program_opens() {
    let all = manifests();
    let deployments: Vec<_> = of_kind(&all, "Deployment").collect();
    for deployment in &deployments {
        let (opened, container) = (opened(deployment), "/spec/template/spec/containers/0");
        let said: BTreeSet<u64> = ports(deployment).into_values().collect();
        assert_eq!(said, opened, "{}", program(deployment));
        let mut probes = 0;
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            for way in ["httpGet", "tcpSocket"] {
                let port = deployment.pointer(&format!("{container}/{probe}/{way}/port"));
                if let Some(port) = port {
                    assert!(
                        opened.contains(&resolve(port, deployment)),
                        "{}: {probe}",
                        program(deployment)
                    );
                    probes += 1;
                }
            }
        }
        assert_eq!(probes, 3, "{}", program(deployment));
    }
    for service in of_kind(&all, "Service") {
        let meant = deployments
            .iter()
            .filter(|one| selects(&service["spec"]["selector"], one));
        let mut meant = meant.filter(|one| name(one).0 == name(service).0).peekable();
        assert!(meant.peek().is_some(), "{:?} means nobody", name(service));
        for deployment in meant {
            for port in list(service, "/spec/ports") {
                assert!(opened(deployment).contains(&resolve(&port["targetPort"], deployment)));
            }
        }
    }
    for policy in of_kind(&all, "NetworkPolicy") {
        let selector = &policy["spec"]["podSelector"]["matchLabels"];
        let meant: Vec<_> = deployments
            .iter()
            .filter(|one| selects(selector, one) && name(one).0 == name(policy).0)
            .collect();
        assert!(!meant.is_empty(), "{:?} means nobody", name(policy));
        for port in list(policy, "/spec/ingress").flat_map(|rule| list(rule, "/ports")) {
            let port = port["port"].as_u64().unwrap();
            assert!(
                meant.iter().all(|one| opened(one).contains(&port)),
                "{:?}: {port}",
                name(policy)
            );
        }
    }
    // What a bootstrap names is a service of the control plane, and is what its certificate is good for.
    let control_plane = deployments.iter().find(|one| program(one) == "meshctl").unwrap();
    let arguments = arguments(control_plane);
    let advertised = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--advertise="))
        .unwrap();
    let (host, port) = advertised.split_once(':').unwrap();
    let mut services = of_kind(&all, "Service");
    let served = services.find(|service| format!("{1}.{0}.svc", name(service).0, name(service).1) == host);
    let mut served = list(served.unwrap(), "/spec/ports");
    assert!(
        served.any(|one| one["port"].as_u64() == port.parse().ok()),
        "{advertised}"
    );
}

#[test]
fn every_file_is_mounted_and_every_name_is_made() {
    let all = manifests();
    let readme = readme();
    let made = |kind: &str, namespace: &str, wanted: &str| {
        let here = of_kind(&all, kind).any(|one| name(one) == (namespace, wanted));
        here || (kind == "ConfigMap" && readme.contains(&format!("kubectl create configmap {wanted} -n {namespace} ")))
    };
    let namespaces: BTreeSet<&str> = of_kind(&all, "Namespace").map(|one| name(one).1).collect();
    for one in all.iter().filter(|one| text(one, "/kind") != "Namespace") {
        assert!(
            namespaces.contains(name(one).0),
            "{:?} is in no namespace of these",
            name(one)
        );
    }
    for deployment in of_kind(&all, "Deployment") {
        let (namespace, pod) = (name(deployment).0, &deployment["spec"]["template"]["spec"]);
        assert!(made("ServiceAccount", namespace, text(pod, "/serviceAccountName")));
        assert!(selects(&deployment["spec"]["selector"]["matchLabels"], deployment));
        let mounts: BTreeMap<&str, &str> = list(pod, "/containers/0/volumeMounts")
            .map(|mount| (text(mount, "/name"), text(mount, "/mountPath")))
            .collect();
        let volumes: BTreeSet<&str> = list(pod, "/volumes").map(|volume| text(volume, "/name")).collect();
        assert_eq!(
            mounts.keys().copied().collect::<BTreeSet<_>>(),
            volumes,
            "{}",
            program(deployment)
        );
        for volume in list(pod, "/volumes") {
            let (map, claim) = (
                text(volume, "/configMap/name"),
                text(volume, "/persistentVolumeClaim/claimName"),
            );
            assert!(
                map.is_empty() || made("ConfigMap", namespace, map),
                "nobody makes {map}"
            );
            assert!(
                claim.is_empty() || made("PersistentVolumeClaim", namespace, claim),
                "nobody makes {claim}"
            );
        }
        let of_environment = list(pod, "/containers/0/env").map(|one| text(one, "/value"));
        let of_arguments = arguments(deployment);
        let of_arguments = of_arguments
            .iter()
            .map(|one| one.split_once('=').map_or(*one, |(_, value)| value));
        for path in of_environment
            .chain(of_arguments)
            .filter(|value| value.starts_with('/'))
        {
            let mounted = mounts.values().any(|mount| path.starts_with(mount));
            assert!(mounted, "{}: {path} is not mounted", program(deployment));
        }
    }
    // The token that bootstraps name is the one that is projected.
    let mut tokens = 0;
    for volume in of_kind(&all, "Deployment").flat_map(|one| list(one, "/spec/template/spec/volumes")) {
        if let Some(token) = volume.pointer("/projected/sources/0/serviceAccountToken") {
            assert_eq!(
                (text(token, "/audience"), text(token, "/path")),
                ("istio-ca", "istio-token")
            );
            tokens += 1;
        }
    }
    assert_eq!(tokens, 3);
    assert_eq!(
        readme
            .matches("--token-file /var/run/secrets/tokens/istio-token")
            .count(),
        3
    );
}

#[test]
fn the_documents_of_the_config_map_are_taken_without_a_warning() {
    let all = manifests();
    let map = of_kind(&all, "ConfigMap")
        .find(|one| name(one).1 == "mesh-documents")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in map["data"].as_object().unwrap() {
        fs::write(folder.path().join(file), text.as_str().unwrap()).unwrap();
    }
    let output = meshctl(&["analyze", "--strict", &folder.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    // Groups are what each bootstrap names.
    let readme = readme();
    for (group, account) in [("payment-v1", "payment"), ("payment-v2", "payment")] {
        assert!(readme.contains(&format!("--service-account {account} --group {group} ")));
        assert!(
            map["data"]["20-workloads.yaml"]
                .as_str()
                .unwrap()
                .contains(&format!("name: {group}, "))
        );
    }
}

/// Without a token of a control plane's, and what is said is what a pod reads.
#[test]
fn a_bootstrap_by_token_file_holds_no_secret() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().join("state").display().to_string();
    let bootstrap = |more: &[&str]| {
        let mut all = vec![
            "bootstrap",
            "--state",
            &state,
            "--namespace",
            "shop",
            "--service-account",
            "payment",
        ];
        all.extend(more);
        meshctl(&all)
    };
    let output = bootstrap(&[
        "--token-file",
        "/var/run/secrets/tokens/istio-token",
        "--group",
        "payment-v1",
    ]);
    let said: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let ca = &said["certificate_providers"]["default"]["config"];
    assert_eq!(
        (&ca["token_file"], &ca["token"]),
        (&"/var/run/secrets/tokens/istio-token".into(), &Value::Null)
    );
    assert_eq!(said["node"]["metadata"]["AUTO_REGISTER_GROUP"], "payment-v1");
    assert!(
        !fs::exists(format!("{state}/tokens")).unwrap()
            || fs::read_dir(format!("{state}/tokens")).unwrap().next().is_none()
    );
    for (other, code) in [
        (&["--ttl", "5m"][..], 2),
        (&["--reusable", "--ttl", "5m", "--output", "x"], 2),
    ] {
        let mut all = vec!["--token-file", "t"];
        all.extend(other);
        assert_eq!(bootstrap(&all).status.code(), Some(code), "{other:?}");
    }
}

/// Who leaves out one half of what says whose tokens are believed, or names keys that are none, is told before anything is served.
#[test]
fn service_accounts_need_an_issuer_and_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("keys.json"), "{}").unwrap();
    let (documents, keys, state) = (path(""), path("keys.json"), path("state"));
    let issuer = "--service-account-issuer=https://cluster.example";
    let keys = format!("--service-account-keys={keys}");
    let run = |more: &[&str]| {
        let mut all = vec![
            "run",
            &documents,
            "--state",
            &state,
            "--listen",
            "127.0.0.1:0",
            "--plaintext-ads",
            "127.0.0.1:0",
        ];
        all.extend(more);
        meshctl(&all).status.code()
    };
    assert_eq!(run(&[issuer]), Some(2));
    assert_eq!(run(&[&keys]), Some(2));
    assert_eq!(run(&[issuer, &keys]), Some(1));
}
