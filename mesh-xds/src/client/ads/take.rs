//! One response into the cache: each resource by itself, so that the good ones of a bad response are used (gRFC A46).

use std::collections::HashSet;
use std::sync::Arc;

use super::AdsState;
use super::kind::Timer;
use crate::client::cache::Cached;
use crate::decode::{Fault, Rejected, decode, unwrap};
use crate::wire::{NOT_FOUND, Response};

/// gRPC's PERMISSION_DENIED.
const PERMISSION_DENIED: i32 = 7;

impl AdsState {
    /// Takes the resources of a response, and says which it refuses.
    pub(super) fn take<R: Cached>(&mut self, response: Response, version: &Arc<str>) -> Vec<Rejected> {
        let state = &mut self.types[R::KIND.index()];
        let table = R::table_mut(&mut self.cache);
        let (mut rejected, mut present) = (Vec::new(), HashSet::new());
        let mut heard = |name: &Arc<str>| {
            if let Some(timer) = state.names.get_mut(name) {
                *timer = Timer::Done;
            }
        };
        for (index, raw) in response.resources.into_iter().enumerate() {
            let nameless = |fault: Fault| Rejected::new(R::KIND, "", fault);
            let decoded = unwrap(raw)
                .map_err(nameless)
                .and_then(|raw| Ok((decode::<R>(&raw, &self.context)?, raw.bytes)));
            let (mut decoded, bytes) = match decoded {
                Ok(decoded) => decoded,
                Err(nameless) => {
                    rejected.push(nameless.at(index));
                    continue;
                }
            };
            heard(&decoded.name);
            if !present.insert(Arc::clone(&decoded.name)) {
                let fault = Fault::new("name", "is there twice in one response");
                decoded.value = Err(Rejected::new(R::KIND, Arc::clone(&decoded.name), fault));
            }
            if let Err(why) = &decoded.value {
                rejected.push(why.clone());
            } else if table.confirm(&decoded.name, &bytes, version) {
                continue;
            }
            table.receive(decoded, bytes, version);
        }
        for error in response.errors {
            // Anything else is the control plane's own trouble, which passes (gRFC A88).
            if matches!(error.code, NOT_FOUND | PERMISSION_DENIED) {
                let why = format!(
                    "{} {:?}: the control plane says: {}",
                    R::KIND,
                    error.name,
                    error.message
                );
                heard(&error.name.as_str().into());
                present.insert(error.name.as_str().into());
                table.absent(&error.name, &why.into());
            }
        }
        if R::KIND.absence_means_deleted() {
            let gone: Vec<Arc<str>> = table.known().filter(|name| !present.contains(*name)).cloned().collect();
            for name in gone {
                let why = format!(
                    "{} {name:?} was deleted by the control plane; its last value is kept",
                    R::KIND
                );
                table.absent(&name, &why.into());
            }
        }
        rejected
    }
}
