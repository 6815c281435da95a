//! A copy on disk, whoever wrote it: it is refused or read, and what is read is judged as a control plane's word is.
//!
//! No fuzzer finds the sum of a file. So the input is a body, behind a front that fits it; and the input as it is, which is
//! hardly ever a copy, must be told to be none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::resource;
use crate::client::ads::{AdsState, Needs, Recall};
use crate::client::disk::{Entry, Good, Kept, body_of, read, seal, write};
use crate::resource::ResourceKind;
use crate::wire::Sotw;

/// The largest copy that is written again. An input is much smaller.
const MAX_BYTES: usize = 1 << 24;
/// The wall time at which a copy is recalled.
const NOW: u64 = 1_000_000;

/// The body of a copy.
pub fn disk_copy(bytes: &[u8]) {
    assert!(read(bytes, &[]).is_err() || bytes == seal(body_of(bytes)));
    let Ok(kept) = read(&seal(bytes), &[]) else {
        return;
    };
    let again = write(&kept, &[], MAX_BYTES).expect("it is not larger than it was");
    assert_eq!(read(&again, &[]).as_ref(), Ok(&kept));
    let names: BTreeSet<Arc<str>> = kept.entries.keys().map(|(_, name)| Arc::clone(name)).collect();
    for context in resource::contexts() {
        for everything in [false, true] {
            let mut needs = Needs::default();
            for kind in ResourceKind::ALL {
                needs[kind.index()].clone_from(&names);
            }
            if everything {
                needs.want_everything(ResourceKind::Listener);
                needs.want_everything(ResourceKind::Cluster);
            }
            let mut ads = AdsState::<Sotw>::new(Arc::default(), context.clone());
            ads.subscribe(&needs);
            recalled(&mut ads, &kept);
        }
    }
}

fn recalled(ads: &mut AdsState<Sotw>, kept: &Kept) {
    let now = Instant::now();
    let recall = Recall {
        copy: kept,
        is_plain: &|name| !name.starts_with("xdstp:"),
        now,
        wall_time: Some(NOW),
    };
    let (_, refused) = ads.recall(&recall);
    for rejected in &refused {
        resource::bounded(rejected);
    }
    assert_eq!(ads.recall(&recall).0, 0, "each name is answered once");
    // Nothing is in use that the copy does not have, or that was over.
    for row in ads.cache().rows().filter(|row| row.accepted.is_some()) {
        let entry = &kept.entries[&(row.kind, Arc::clone(row.name))];
        let good = entry.good.as_ref().expect("what is in use was good");
        assert_eq!(row.bytes, Some(&good.bytes));
        assert!(good.ends.is_none_or(|ends| ends > NOW && ends > kept.written) && row.recalled.is_some());
    }
    let longest = kept
        .entries
        .values()
        .filter_map(|entry| entry.good.as_ref()?.ends)
        .max();
    if let Some(last) = longest.and_then(|ends| now.checked_add(Duration::from_secs(ends))) {
        ads.on_timer(last);
    }
    // Nothing of it is claimed from a control plane.
    ads.stream_opened();
    while let Some(request) = ads.next_request(now) {
        assert!(request.version.is_empty() && request.nonce.is_empty());
    }
}

/// A seed: the body of a copy of these resources, and of a cluster that there was not.
pub(super) fn body(resources: &[(&str, ResourceKind, Vec<u8>)], is_own: bool) -> Vec<u8> {
    let mut kept = Kept {
        written: NOW - 10,
        listed: [is_own; ResourceKind::COUNT],
        ..Kept::default()
    };
    for (index, (_, kind, bytes)) in resources.iter().enumerate() {
        let name = match *kind {
            _ if !is_own => "z",
            ResourceKind::Listener | ResourceKind::Route => "t",
            _ => "c",
        };
        let good = Good {
            version: "1".into(),
            bytes: bytes.clone().into(),
            told: NOW - 20,
            ends: (index == 1).then_some(NOW + 5),
        };
        let entry = Entry {
            server: "a:1".into(),
            good: Some(good),
        };
        kept.entries.insert((*kind, name.into()), entry);
    }
    let none = Entry {
        server: "a:1".into(),
        good: None,
    };
    kept.entries.insert((ResourceKind::Cluster, "d".into()), none);
    let copy = write(&kept, &[], MAX_BYTES).expect("a seed is small");
    body_of(&copy).to_vec()
}
