//! `meshctl run DIR`

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use mesh_control::{ControlPlane, ServiceAccountTokens};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tokio::net::TcpListener;

/// Serve a folder of Istio YAML to the mesh until interrupted.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The folder. It is watched; a save takes effect.
    folder: PathBuf,
    /// Where ADS and the CA are served over TLS.
    #[arg(long, default_value = "127.0.0.1:15012")]
    listen: SocketAddr,
    /// Where ADS is served in the clear; loopback only.
    #[arg(long, default_value = crate::DEFAULT_PLAINTEXT)]
    plaintext_ads: SocketAddr,
    /// Where the page of the mesh is served over HTTP; loopback only. Default: 127.0.0.1:15014, or nowhere where that is taken.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Keeps the root and the join tokens.
    #[arg(long, default_value = crate::DEFAULT_STATE)]
    state: PathBuf,
    /// The trust domain of the mesh.
    #[arg(long, default_value = "cluster.local")]
    trust_domain: String,
    /// The HOST:PORT that bootstraps name, when it is not the address that is listened on.
    #[arg(long)]
    advertise: Option<String>,
    /// For how long after its token a workload renews its certificate by certificates alone, as 2160h; 0s: for ever.
    #[arg(long, default_value = "2160h", value_parser = crate::bootstrap::duration_or_zero)]
    max_renewal: Duration,
    /// Believes the tokens of a cluster's service accounts, for the audience istio-ca, that this issuer made
    /// (`kubectl get --raw /.well-known/openid-configuration`).
    #[arg(long, requires = "service_account_keys")]
    service_account_issuer: Option<String>,
    /// The issuer's public keys (`kubectl get --raw /openid/v1/jwks`). They are read once.
    #[arg(long, requires = "service_account_issuer")]
    service_account_keys: Option<PathBuf>,
    /// Believes it when all documents, or all those of security, vanish from the folder at once. Who may call what then is nobody's word.
    #[arg(long)]
    allow_empty: bool,
    /// The roots (PEM) that vouch for servers of issuers' keys (jwksUri), in the place of the system's.
    #[arg(long)]
    jwks_roots: Option<PathBuf>,
    /// Fetches issuers' keys in plaintext from other hosts too, where a document says http. Whoever is on the way may sign tokens.
    #[arg(long)]
    dangerous_plaintext_jwks: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(arguments))
}

async fn serve(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let mut builder = ControlPlane::builder(arguments.folder)
        .listen(arguments.listen)
        .plaintext(arguments.plaintext_ads)
        .state(&arguments.state)
        .trust_domain(&arguments.trust_domain)
        .max_renewal(arguments.max_renewal);
    builder = match arguments.admin {
        Some(address) => builder.admin(address),
        // Two control planes on one machine are no mistake.
        None => match TcpListener::bind(crate::DEFAULT_ADMIN).await {
            Ok(listener) => builder.admin_listener(listener),
            Err(error) => {
                tracing::warn!(%error, "no page is served: {} cannot be listened on (--admin)", crate::DEFAULT_ADMIN);
                builder
            }
        },
    };
    if let Some(server) = &arguments.advertise {
        builder = builder.advertise(server);
    }
    if let Some(path) = &arguments.jwks_roots {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&std::fs::read(path)?).collect();
        builder = builder.jwks_roots(roots?);
    }
    if let (Some(issuer), Some(path)) = (&arguments.service_account_issuer, &arguments.service_account_keys) {
        let keys = std::fs::read_to_string(path)?;
        builder = builder.service_account_tokens(ServiceAccountTokens::new(issuer, &keys)?);
    }
    if arguments.allow_empty {
        builder = builder.dangerous().allow_empty();
    }
    if arguments.dangerous_plaintext_jwks {
        builder = builder.dangerous().plaintext_jwks();
    }
    let control_plane = builder.start().await?;
    let ready = json!({
        "listen": control_plane.address(),
        "plaintext_ads": control_plane.plaintext_address(),
        "admin": control_plane.admin_address(),
        "server": control_plane.enrolment().server(),
        "state": arguments.state,
        "trust_domain": arguments.trust_domain,
    });
    crate::print(&ready)?;
    interrupted().await?;
    tracing::info!("shutting down; clients keep what they have");
    control_plane.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

#[cfg(unix)]
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
