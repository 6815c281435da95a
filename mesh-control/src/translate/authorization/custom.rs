//! Action CUSTOM: policies by which an authorizer outside of the process is asked, and which that is.
//!
//! Authorizers stand in the mesh's configuration (`extensionProviders`), and policies name them. What a policy of one that is not there, or
//! whose service is not, would have asked about is denied, with a warning (Istio): nothing passes for allowed that nobody was asked about.
//! Several on one workload are asked in the order of their names, and each has to allow, as in an Istio that is told to take several.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_core::config::{
    AskedAbout, CheckService, ExtAuthz, FilterRules, GrpcCheck, HttpCheck, OnFailure, Rbac, RbacAction, RbacFilter,
    RbacPolicy, SentHeaders,
};

use super::super::service::Registry;
use super::super::{ClientScope, Findings, Mesh, cluster};
use crate::diagnostic::{Code, Severity};
use crate::istio::{At, Authorizer, Documents, Meta};

/// How long an authorizer has that nobody said it of. Istio: ten minutes, during which a request would hold its place.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Before the names of policies of this action (Istio).
const PREFIX: &str = "istio-ext-authz";

/// The authorizers of the mesh, by name; or why one of them cannot be asked.
#[derive(Debug, Default)]
pub(super) struct Providers(BTreeMap<String, Result<ExtAuthz, String>>);

/// What the policies of a workload want one provider asked about.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) policies: Vec<RbacPolicy>,
    /// One of the documents, and where it names the provider.
    pub(super) meta: &'a Meta,
    pub(super) named: &'a At<String>,
}

impl Providers {
    pub(super) fn new(
        documents: &Documents,
        mesh: &Mesh,
        (scope, registry): (&ClientScope, &Registry<'_>),
        findings: &mut Findings,
    ) -> Self {
        let mut all = BTreeMap::new();
        // The mesh's configuration is that of the root namespace.
        let mut configs = documents.mesh_configs.iter();
        let config = configs.find(|config| config.meta.namespace() == &*mesh.root_namespace);
        if let Some(document) = config {
            for one in &document.spec.authorizers {
                let read = authorizer(one, scope, registry);
                let read = match all.contains_key(&one.name.value) {
                    true => Err(format!("there are several providers {:?}", one.name.value)),
                    false => read,
                };
                if let Err(why) = &read {
                    let place = &one.service.place;
                    findings.say(&document.meta, Severity::Warning, Code::NotFound, place, why.clone());
                }
                all.insert(one.name.value.clone(), read);
            }
        }
        Self(all)
    }

    /// What the policies of each provider come to: authorizers that are asked, and filters that deny where nobody can be.
    pub(super) fn resolve(
        &self,
        wanted: BTreeMap<&str, Wanted<'_>>,
        findings: &mut Findings,
    ) -> (Vec<ExtAuthz>, Vec<RbacFilter>) {
        let (mut checks, mut denials) = (Vec::new(), Vec::new());
        for (provider, wanted) in wanted {
            let Wanted {
                mut policies,
                meta,
                named,
            } = wanted;
            policies.sort_by(|a, b| a.name.cmp(&b.name));
            match self.0.get(provider) {
                Some(Ok(check)) => checks.push(ExtAuthz {
                    about: AskedAbout::Matched(policies),
                    ..check.clone()
                }),
                other => {
                    let why = match other {
                        Some(Err(why)) => why.clone(),
                        _ => format!("there is no provider {provider:?} in the mesh's configuration"),
                    };
                    let message = format!("denies what it would have asked about: {why}");
                    findings.say(meta, Severity::Warning, Code::NotFound, &named.place, message);
                    let denied = |policy: RbacPolicy| RbacPolicy {
                        name: format!("{}-deny-due-to-bad-CUSTOM-action", policy.name).into(),
                        ..policy
                    };
                    denials.push(RbacFilter {
                        name: format!("rbac-custom-{provider}").into(),
                        rules: FilterRules {
                            enforced: Some(Rbac {
                                action: RbacAction::Deny,
                                policies: policies.into_iter().map(denied).collect(),
                            }),
                            shadow: None,
                        },
                    });
                }
            }
        }
        (checks, denials)
    }
}

/// What a policy of action CUSTOM is called (Istio).
pub(super) fn named(policy: &RbacPolicy, provider: &str) -> RbacPolicy {
    RbacPolicy {
        name: format!("{PREFIX}-{provider}-{}", policy.name).into(),
        ..policy.clone()
    }
}

fn authorizer(one: &Authorizer, scope: &ClientScope, registry: &Registry<'_>) -> Result<ExtAuthz, String> {
    let (namespace, host) = match one.service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, &*one.service.value),
    };
    let service = registry.get(host).filter(|service| {
        service.is_visible(&scope.namespace) && namespace.is_none_or(|namespace| service.meta.namespace() == namespace)
    });
    let service = service.ok_or_else(|| {
        format!(
            "provider {:?}: {scope} sees no service {:?}",
            one.name.value, one.service.value
        )
    })?;
    if service.port(one.port).is_none() {
        return Err(format!(
            "provider {:?}: {host:?} has no port {}",
            one.name.value, one.port
        ));
    }
    let cluster = cluster::name(host, one.port, "");
    let (service, allowed) = match &one.http {
        // A cluster's name has signs that no authority may have (Istio).
        None => {
            let authority = cluster.as_str().replace('|', "_.");
            let grpc = GrpcCheck {
                authority: authority.into(),
                metadata: Vec::new(),
            };
            (CheckService::Grpc(grpc), None)
        }
        Some(http) => {
            let check = HttpCheck {
                path_prefix: http.path_prefix.as_str().into(),
                path_override: None,
                add: http.additional.clone(),
                upstream: http.upstream.clone(),
                upstream_append: Vec::new(),
                client_on_deny: http.downstream_on_deny.clone(),
                client_on_allow: http.downstream_on_allow.clone(),
            };
            let allowed = (!http.include.is_empty()).then(|| http.include.clone());
            (CheckService::Http(Box::new(check)), allowed)
        }
    };
    Ok(ExtAuthz {
        name: format!("ext-authz-{}", one.name.value).into(),
        after: 0,
        disabled: false,
        about: AskedAbout::Matched(Vec::new()),
        cluster: cluster.as_str().into(),
        service,
        timeout: one.timeout.unwrap_or(DEFAULT_TIMEOUT).min(ExtAuthz::MAX_TIMEOUT),
        on_failure: OnFailure {
            allow: one.fail_open,
            tell: false,
            status: one.status_on_error,
        },
        body: one.body,
        headers: SentHeaders {
            allowed,
            ..SentHeaders::default()
        },
        server_name: false,
        claims: one.http.is_none(),
        max_denied_body: ExtAuthz::MAX_DENIED_BODY_BYTES,
    })
}
