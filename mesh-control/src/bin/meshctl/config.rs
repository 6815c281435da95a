//! `meshctl config listeners|routes|clusters|endpoints|extensions|secrets CLIENT`

use std::error::Error;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh_control::roster::{Resources, refusing};
use mesh_xds::ResourceKind;
use mesh_xds::csds::fetch;
use serde_json::json;

/// Show what a workload holds of one kind, as it says itself. Exit code 1 when it refuses one of them.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The kind.
    #[arg(value_enum)]
    kind: Kind,
    /// The HOST:PORT of the workload's admin port.
    client: String,
    /// Only the resources whose names hold this.
    #[arg(long)]
    name: Option<String>,
    /// How the answer is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Listeners,
    Routes,
    Clusters,
    Endpoints,
    /// Filters that are resources of their own.
    Extensions,
    /// None: keys and certificates travel beside the configuration, and no workload tells them.
    Secrets,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A table, the reasons of refusals, and a count.
    Text,
    /// One JSON object.
    Json,
}

impl Kind {
    fn resource(self) -> Option<ResourceKind> {
        Some(match self {
            Self::Listeners => ResourceKind::Listener,
            Self::Routes => ResourceKind::Route,
            Self::Clusters => ResourceKind::Cluster,
            Self::Endpoints => ResourceKind::Endpoints,
            Self::Extensions => ResourceKind::ExtensionConfig,
            Self::Secrets => return None,
        })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut clients = runtime.block_on(fetch(&arguments.client))?;
    let wanted = arguments.kind.resource().map(ResourceKind::type_url);
    for client in &mut clients {
        let named = |name: &str| arguments.name.as_ref().is_none_or(|part| name.contains(part));
        let resources = &mut client.resources;
        resources.retain(|one| Some(one.type_url.as_str()) == wanted && named(&one.name));
    }
    let refusing = refusing(&clients);
    match arguments.output {
        Output::Json => crate::print(&Resources(&clients).to_json())?,
        Output::Text => {
            crate::print(&Resources(&clients).to_string().trim_end())?;
            let resources: usize = clients.iter().map(|client| client.resources.len()).sum();
            crate::print(&json!({ "resources": resources, "refusing": refusing }))?;
        }
    }
    Ok(match refusing {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
