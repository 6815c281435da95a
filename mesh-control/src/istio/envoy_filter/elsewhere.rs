//! Patches that could not keep anybody out of a workload, and are about an Envoy that is not there.
//!
//! Who comes from sidecars has documents with such patches, of gateways and of what Envoy does on the way out, and they are no mistake.
//! Nothing here is what they would change, so they are told of, each by its document and line, and the rest of the folder is published. What
//! stands between callers and a workload is another matter: a patch of that may be a guard, and leaving it out would let somebody in. So this
//! lists what is left out, and not what is refused.

use super::super::fields::Fields;

/// Where in a mesh a patch may hold that is not the way into a workload.
const CONTEXTS: [(&str, &str); 2] = [
    ("GATEWAY", "it changes gateways, and none is served from here"),
    (
        "SIDECAR_OUTBOUND",
        "it changes an Envoy on the way out of workloads, and calls go out of the process by themselves",
    ),
];

/// What of Envoy's own may be patched that no request meets on its way in. A cluster of Envoy's is where it calls.
const OBJECTS: [&str; 2] = ["BOOTSTRAP", "CLUSTER"];

/// Filters that look at requests or answers and turn none away.
const FILTERS: [&str; 8] = [
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "envoy.extensions.filters.http.compressor.v3.Compressor",
    "envoy.extensions.filters.http.decompressor.v3.Decompressor",
    "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb",
    "envoy.extensions.filters.http.cors.v3.Cors",
    "envoy.extensions.filters.http.tap.v3.Tap",
    "envoy.extensions.filters.http.on_demand.v3.OnDemand",
    "stats.PluginConfig",
];

/// Why a patch changes nothing here; `None`: it may mean something.
pub(super) fn why(patch: &Fields) -> Option<String> {
    let context = patch.glance(&["match", "context"]);
    if let Some((name, why)) = CONTEXTS.iter().find(|(name, _)| context == Some(name)) {
        return Some(format!("context {name}: {why}"));
    }
    let object = patch.glance(&["applyTo"])?;
    if OBJECTS.contains(&object) {
        return Some(format!("applyTo {object}: it changes an Envoy, and there is none"));
    }
    if patch.glance(&["patch", "operation"]) == Some("REMOVE") {
        return Some("operation REMOVE: what it would take away is not there".into());
    }
    let filter = filter(patch)?;
    let is_known = object == "HTTP_FILTER" && FILTERS.contains(&filter);
    is_known.then(|| format!("filter {filter}: it turns no request away, and there is no Envoy that has it"))
}

/// The type of the filter that is put in, also in the other clothes that Istio's documents have it in.
fn filter(patch: &Fields) -> Option<&str> {
    let config = ["patch", "value", "typedConfig"];
    let at = |last| {
        let [a, b, c] = config;
        patch.glance(&[a, b, c, last])
    };
    let kind = at("@type")?;
    let kind = if super::STRUCTS.contains(&kind) {
        at("typeUrl")?
    } else {
        kind
    };
    kind.strip_prefix("type.googleapis.com/")
}
