//! The request that is asked about, and who sends it.

use http::{HeaderName, HeaderValue, Method, Request, Uri};
use mesh_core::identity::SpiffeId;

use super::spiffe;
use crate::translate::Mesh;

/// A request, and who sends it to whom.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who calls: `NAMESPACE/SERVICE-ACCOUNT`, or `SERVICE-ACCOUNT` in `default`, or a whole SPIFFE id.
    pub from: String,
    /// The target, as a client is given it; `xds:///` before it may stand there.
    pub target: String,
    /// The method.
    pub method: String,
    /// The path, with the query.
    pub path: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
}

impl Asked {
    pub(super) fn target(&self) -> &str {
        self.target.strip_prefix("xds:///").unwrap_or(&self.target)
    }

    /// The caller's namespace and identity.
    pub(super) fn caller(&self, mesh: &Mesh) -> Result<(String, SpiffeId), String> {
        let whole = match self.from.split_once("://") {
            Some(_) => self.from.clone(),
            None => {
                let (namespace, account) = self.from.split_once('/').unwrap_or(("default", &self.from));
                format!("spiffe://{}/ns/{namespace}/sa/{account}", mesh.trust_domain)
            }
        };
        let identity = spiffe(&whole)?;
        let namespace = whole.split_once("/ns/").and_then(|(_, rest)| rest.split('/').next());
        let namespace = namespace
            .ok_or_else(|| format!("{whole:?} is in no namespace"))?
            .to_owned();
        Ok((namespace, identity))
    }

    pub(super) fn request(&self) -> Result<Request<()>, String> {
        let method: Method = self
            .method
            .parse()
            .map_err(|_| format!("{:?} is no method", self.method))?;
        let uri: Uri = self.path.parse().map_err(|_| format!("{:?} is no path", self.path))?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
            let value: HeaderValue = value
                .parse()
                .map_err(|_| format!("{value:?} is no value of a header"))?;
            request.headers_mut().append(name, value);
        }
        Ok(request)
    }
}
