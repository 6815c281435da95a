//! What is encoded is decoded to the same value, of what other control planes say and ours never does: clusters of every kind,
//! routes inside a listener, filters that are resources of their own. Production has no encoder for these; they are written
//! here, out of what it does write wherever that is the same.

use std::time::Duration;

use mesh_core::config::{
    CallFilter, Cluster, CommonLb, Endpoint, Fault as FaultValue, FilterKind, Health, LbPolicy, LoadReporting, Subject,
    TimeLimits,
};
use proptest::prelude::*;

use super::roundtrip::bytes_in;
use super::strategies::{clusters, endpoint_lists, kinds, localities_of, telemetries, trees};
use super::*;
use crate::encode::{self, Calls, Dialect};
use crate::proto::cluster::cluster::{ClusterDiscoveryType, CustomClusterType, DiscoveryType};
use crate::proto::core::{ExtensionConfigSource, TypedExtensionConfig, address};
use crate::proto::endpoint::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use crate::proto::hcm::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};
use crate::proto::listener::Listener as ListenerProto;
use crate::proto::protobuf::{self, Any};
use crate::proto::router::Router;
use crate::proto::{aggregate, cluster, core, pack};
use crate::resource::{
    ClusterSpec, Discovery, DnsCluster, DnsHost, DnsKind, Endpoints, Extension, ExtensionRef, Filter, Http, Listener,
    Routes,
};

const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const SESSION: &str = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
const LUA: &str = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua";

fn message<P: Message + Default>(bytes: &[u8]) -> P {
    P::decode(bytes).unwrap()
}

fn time(value: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: value.as_secs() as i64,
        nanos: value.subsec_nanos() as i32,
    }
}

#[allow(deprecated, reason = "istiod writes the deprecated refresh rate")]
fn written(spec: &ClusterSpec) -> cluster::Cluster {
    let mut proto: cluster::Cluster = message(&encode::cluster(&spec.cluster, Dialect::Mesh));
    let name = &spec.cluster.name;
    let mut kind = DiscoveryType::Static;
    match &spec.discovery {
        Discovery::Eds(service) => {
            proto.eds_cluster_config.as_mut().unwrap().service_name = String::from(&**service);
            return proto;
        }
        // It is written by the cluster's being called wherever a request says.
        Discovery::OriginalDestination => return proto,
        Discovery::Unserved(why) => panic!("nobody writes what cannot be called: {why}"),
        Discovery::Static(own) => {
            proto.load_assignment = Some(message(&encode::endpoints(
                name,
                &own.endpoints,
                &own.drops,
                &own.localities,
            )));
        }
        Discovery::Dns(dns) => {
            kind = match dns.kind {
                DnsKind::Strict => DiscoveryType::StrictDns,
                DnsKind::Logical => DiscoveryType::LogicalDns,
            };
            proto.load_assignment = Some(names(name, dns));
            proto.dns_refresh_rate = Some(time(dns.refresh));
        }
        Discovery::Aggregate(members) => {
            let clusters = members.iter().map(ToString::to_string).collect();
            proto.eds_cluster_config = None;
            proto.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                name: "envoy.clusters.aggregate".into(),
                typed_config: Some(pack(&aggregate::ClusterConfig { clusters })),
            }));
            return proto;
        }
    }
    proto.eds_cluster_config = None;
    proto.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind as i32));
    proto
}

/// As endpoints are written, with names in the place of addresses.
fn names(cluster: &mesh_core::config::ClusterName, dns: &DnsCluster) -> ClusterLoadAssignment {
    let endpoint = |(port, host): (u16, &DnsHost)| Endpoint {
        weight: host.weight,
        priority: host.priority,
        locality: Arc::clone(&host.locality),
        metadata: Arc::clone(&host.metadata),
        ..Endpoint::new(([127, 0, 0, 1], port).into())
    };
    let endpoints: Vec<Endpoint> = (1..).zip(&dns.hosts).map(endpoint).collect();
    let mut proto: ClusterLoadAssignment = message(&encode::endpoints(cluster, &endpoints, &[], &dns.localities));
    let written = proto
        .endpoints
        .iter_mut()
        .flat_map(|locality| &mut locality.lb_endpoints);
    for (written, host) in written.zip(&dns.hosts) {
        let Some(HostIdentifier::Endpoint(endpoint)) = &mut written.host_identifier else {
            panic!("{written:?}")
        };
        let Some(address::Address::SocketAddress(socket)) = &mut endpoint.address.as_mut().unwrap().address else {
            panic!("{endpoint:?}")
        };
        socket.address = String::from(&*host.host);
        socket.port_specifier = Some(core::socket_address::PortSpecifier::PortValue(host.port.into()));
    }
    proto
}

fn filter_config(filter: &Filter, type_url: &str) -> Any {
    match filter {
        Filter::Router => pack(&Router::default()),
        Filter::NoOp | Filter::Unsupported(_) => Any {
            type_url: type_url.into(),
            value: Vec::new(),
        },
        Filter::Call(what) => {
            let filter = CallFilter::new("f", what.clone());
            let (_, manager) = manager(&encode::listener(
                "t",
                "r",
                &Calls {
                    filters: &[filter],
                    ..Calls::default()
                },
            ));
            match &manager.http_filters[0].config_type {
                Some(ConfigType::TypedConfig(any)) => any.clone(),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn manager(listener: &[u8]) -> (ListenerProto, HttpConnectionManager) {
    let proto: ListenerProto = message(listener);
    let any = proto.api_listener.as_ref().unwrap().api_listener.as_ref().unwrap();
    let manager = HttpConnectionManager::decode(&*any.value).unwrap();
    (proto, manager)
}

fn written_listener(http: &Http) -> ListenerProto {
    let routes = match &http.routes {
        Routes::Named(name) => &**name,
        Routes::Inline(_) => "",
    };
    let calls = Calls {
        filters: &http.filters,
        telemetry: Some(&http.telemetry),
    };
    let (mut proto, mut manager) = manager(&encode::listener("t", routes, &calls));
    if let Routes::Inline(tree) = &http.routes {
        manager.route_specifier = Some(RouteSpecifier::RouteConfig(message(&encode::routes(tree))));
    }
    let reference = |one: &ExtensionRef| HttpFilter {
        name: String::from(&*one.name),
        is_optional: one.optional,
        disabled: one.disabled,
        config_type: Some(ConfigType::ConfigDiscovery(ExtensionConfigSource {
            config_source: Some(core::ConfigSource {
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
                    core::AggregatedConfigSource {},
                )),
                ..core::ConfigSource::default()
            }),
            default_config: one.default.as_ref().map(|filter| filter_config(filter, CORS)),
            apply_default_config_without_warming: one.default_without_warming,
            type_urls: one.types.iter().map(|url| String::from(&**url)).collect(),
        })),
    };
    for one in http.extensions.iter().rev() {
        manager.http_filters.insert(one.behind, reference(one));
    }
    // The router is the last.
    let router = Router {
        suppress_envoy_headers: http.limits.untold,
        ..Router::default()
    };
    manager.http_filters.last_mut().unwrap().config_type = Some(ConfigType::TypedConfig(pack(&router)));
    manager.stream_idle_timeout = http.limits.idle.map(time);
    let options = manager.common_http_protocol_options.get_or_insert_default();
    options.max_stream_duration = http.limits.max_stream.map(time);
    *proto.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap() = pack(&manager);
    proto
}

fn hosts(list: Vec<Endpoint>) -> Vec<DnsHost> {
    let host = |(port, endpoint): (u16, Endpoint)| DnsHost {
        host: format!("h{port}.example").into(),
        port,
        weight: endpoint.weight,
        priority: endpoint.priority,
        locality: endpoint.locality,
        metadata: endpoint.metadata,
    };
    (1..).zip(list).map(host).collect()
}

fn strict() -> impl Strategy<Value = DnsCluster> {
    let weights = prop::collection::vec(1u32..5000, 0..10);
    (endpoint_lists(), weights, 1u32..300, 1u64..1000).prop_map(|(list, weights, factor, seconds)| DnsCluster {
        kind: DnsKind::Strict,
        localities: localities_of(&list, &weights, factor, false),
        hosts: hosts(list),
        refresh: Duration::from_secs(seconds),
    })
}

fn logical() -> impl Strategy<Value = DnsCluster> {
    let one = endpoint_lists().prop_filter_map("it has one host", |list| {
        let mut first = list.into_iter().next()?;
        first.priority = 0;
        Some(vec![first])
    });
    (one, 1u64..1000).prop_map(|(list, seconds)| DnsCluster {
        kind: DnsKind::Logical,
        localities: localities_of(&list, &[], 140, false),
        hosts: hosts(list),
        refresh: Duration::from_secs(seconds),
    })
}

fn discoveries() -> impl Strategy<Value = Discovery> {
    let fixed = endpoint_lists().prop_map(|mut list| {
        // Who is well is not said of endpoints that nobody watches, but it may be.
        list.iter_mut().for_each(|endpoint| endpoint.health = Health::Healthy);
        Discovery::Static(Endpoints {
            localities: localities_of(&list, &[], 140, false),
            endpoints: list.into(),
            drops: Arc::default(),
        })
    });
    prop_oneof![
        "[a-z]{1,9}".prop_map(|name| Discovery::Eds(name.as_str().into())),
        fixed,
        strict().prop_map(Discovery::Dns),
        logical().prop_map(Discovery::Dns),
        prop::collection::vec("[a-z|]{1,5}", 1..5)
            .prop_map(|names| Discovery::Aggregate(names.into_iter().map(Into::into).collect())),
        Just(Discovery::OriginalDestination),
    ]
}

pub(super) fn specs() -> impl Strategy<Value = ClusterSpec> {
    (clusters(), discoveries()).prop_map(|(cluster, discovery)| {
        // Load is reported under the name of the endpoints, where they are a resource.
        let service: &str = match &discovery {
            Discovery::Eds(service) => service,
            _ => cluster.name.as_str(),
        };
        let reporting = |one: &LoadReporting| LoadReporting {
            metrics: Arc::clone(&one.metrics),
            ..LoadReporting::of(service)
        };
        let load_reporting = cluster.load_reporting.as_ref().map(reporting);
        let cluster = Cluster {
            load_reporting,
            ..cluster
        };
        // Nobody chooses among endpoints where the request says where it goes.
        let cluster = match discovery == Discovery::OriginalDestination {
            true => Cluster {
                by_authority: true,
                lb: LbPolicy::LEAST_REQUEST,
                common_lb: CommonLb {
                    slow_start: None,
                    subset_size: None,
                    // Both are said of who chooses.
                    fail_on_panic: cluster.common_lb.fail_on_panic && !cluster.common_lb.by_locality,
                    ..cluster.common_lb
                },
                ..cluster
            },
            false => cluster,
        };
        ClusterSpec { cluster, discovery }
    })
}

/// As a sidecar reads them: only gRPC's clients do not see headers in binary.
fn seen(mut fault: FaultValue) -> FaultValue {
    for header in &mut fault.headers {
        if let Subject::Unseen(name) = &header.subject {
            header.subject = Subject::Header(name.clone());
        }
    }
    fault
}

fn filters() -> impl Strategy<Value = Filter> {
    let kind = kinds().prop_map(|kind| Filter::Call(seen_kind(kind)));
    prop_oneof![Just(Filter::NoOp), kind]
}

fn seen_kind(kind: FilterKind) -> FilterKind {
    match kind {
        FilterKind::Fault(fault) => seen((*fault).clone()).into(),
        FilterKind::Session(_) => kind,
    }
}

fn references() -> impl Strategy<Value = Arc<[ExtensionRef]>> {
    let types = prop::collection::vec(prop::sample::select(vec![CORS, FAULT, LUA]), 1..3);
    let one = (types, prop::option::of(filters()), any::<[bool; 3]>());
    prop::collection::btree_map("x-[a-z]{1,3}", one, 0..3).prop_map(|all| {
        let reference = |(name, (types, default, [early, optional, disabled])): (String, (Vec<&str>, _, [bool; 3]))| {
            let default: Option<Filter> = default;
            ExtensionRef {
                name: name.into(),
                behind: 0,
                types: types.into_iter().map(Box::from).collect(),
                default_without_warming: early && default.is_some(),
                default,
                optional: optional || disabled,
                disabled,
            }
        };
        all.into_iter().map(reference).collect()
    })
}

fn call_filters(see: fn(FilterKind) -> FilterKind) -> impl Strategy<Value = Arc<[CallFilter]>> {
    prop::collection::btree_map("[a-z.]{1,5}", (kinds(), any::<bool>()), 0..3).prop_map(move |filters| {
        let filter = |(name, (what, disabled)): (String, (FilterKind, bool))| CallFilter {
            name: name.into(),
            what: see(what),
            disabled,
        };
        filters.into_iter().map(filter).collect()
    })
}

pub(super) fn limits() -> impl Strategy<Value = TimeLimits> {
    let limit = || (1u64..1 << 40).prop_map(Duration::from_nanos);
    (limit(), prop::option::of(limit()), any::<bool>()).prop_map(|(idle, max_stream, untold)| TimeLimits {
        idle: Some(idle),
        max_stream,
        untold,
        ..TimeLimits::default()
    })
}

fn trusted() -> Context {
    Context {
        trusted: true,
        ..context()
    }
}

proptest! {
    #[test]
    fn clusters_of_every_kind_survive_the_wire(spec in specs()) {
        let read = read::<ClusterSpec>(&written(&spec)).unwrap();
        prop_assert_eq!(&read.discovery, &spec.discovery);
        prop_assert_eq!(read.cluster, spec.cluster);
    }

    #[test]
    fn routes_inside_a_listener_survive_the_wire(
        tree in trees(), filters in call_filters(|kind| kind), limits in limits(), telemetry in telemetries()
    ) {
        let http = Http { routes: Routes::Inline(Arc::new(tree)), extensions: Arc::default(), filters, limits, telemetry };
        prop_assert_eq!(bytes_in::<Listener>(written_listener(&http).encode_to_vec(), &trusted()), Listener::Api(http));
    }

    #[test]
    fn references_to_filters_survive_the_wire(
        name in "[a-z]{1,9}", extensions in references(), filters in call_filters(seen_kind), limits in limits(),
        telemetry in telemetries(),
    ) {
        let place = |(place, one): (usize, &ExtensionRef)| ExtensionRef { behind: place.min(filters.len()), ..one.clone() };
        let extensions = extensions.iter().enumerate().map(place).collect();
        let http = Http { routes: Routes::Named(name.into()), extensions, filters, limits, telemetry };
        let read = bytes_in::<Listener>(written_listener(&http).encode_to_vec(), &envoy());
        prop_assert_eq!(read, Listener::Api(http));
    }

    #[test]
    fn filters_of_their_own_survive_the_wire(
        name in "[a-z.]{1,9}",
        (filter, type_url) in prop_oneof![
            filters().prop_map(|filter| match filter {
                Filter::NoOp => (filter, CORS),
                Filter::Call(FilterKind::Session(_)) => (filter, SESSION),
                other => (other, FAULT),
            }),
            Just((Filter::Router, "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router")),
            Just((Filter::Unsupported(format!("filter type {LUA:?} is not supported").into()), LUA)),
        ],
    ) {
        let proto = TypedExtensionConfig { name, typed_config: Some(filter_config(&filter, type_url)) };
        let read = bytes_in::<Extension>(proto.encode_to_vec(), &envoy());
        prop_assert_eq!(read, Extension { type_url: type_url.into(), filter });
    }
}
