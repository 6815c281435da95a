//! Identities beside the workload's own: what the other certificate providers of the bootstrap have, for filter chains that name them
//! (gRFC A29).
//!
//! A provider runs from the first time that somebody names it, and only once, whoever shows its certificate or judges by its roots;
//! a CA is not asked for certificates that nobody shows. A pair of providers is one value, put together here: a handshake must not
//! meet the certificate of one moment beside the roots of another. Whoever asks holds the lock of a configuration that is being
//! published, so asking only writes down what is wanted, and one task does it.
//!
//! Whom such an identity trusts is what its provider says and nothing else: roots that the process knows of other domains are for
//! its own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, PoisonError};

use mesh_core::config::{ChainIdentity, Reason, ReasonKind};
use mesh_core::identity::{Identity, TrustBundle, TrustDomain};
use mesh_core::link::Standing;
use mesh_core::{Link, live};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{OTHER_EVENT, Supply, files};
use crate::bootstrap::{Half, HalfWatcher, Provider};
use crate::connector::Connector;

/// See the module. What is wanted is kept for as long as the process is a member of the mesh: it is no more than the pairs of the
/// bootstrap's providers.
pub(crate) struct Others {
    providers: BTreeMap<String, Provider>,
    wanted: Mutex<Wanted>,
    bell: Notify,
}

#[derive(Default)]
struct Wanted {
    readers: BTreeMap<ChainIdentity, live::Reader<Standing>>,
    /// Those that nobody supplies yet.
    new: Vec<(ChainIdentity, live::Writer<Standing>)>,
}

impl Others {
    /// Those of these providers.
    pub(crate) fn new(providers: BTreeMap<String, Provider>) -> Self {
        Self {
            providers,
            wanted: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// The identity of these providers; `None`: one of them is not there, or has not what is asked of it.
    pub(crate) fn find(&self, of: &ChainIdentity) -> Option<live::Reader<Standing>> {
        let half = |provider: &Provider| match provider {
            Provider::Half(half) => Some(half.half.clone()),
            _ => None,
        };
        let shows = |provider: &Provider| !matches!(half(provider), Some(Half::Trust(_)));
        let judges = |provider: &Provider| !matches!(half(provider), Some(Half::Certificate(_)));
        let has = |name: &Option<Box<str>>, has: &dyn Fn(&Provider) -> bool| {
            name.as_deref()
                .is_none_or(|name| self.providers.get(name).is_some_and(has))
        };
        // A certificate alone is enough for a chain that asks nobody who they are, which names it twice.
        if !has(&of.certificate, &shows) || !(of.roots == of.certificate || has(&of.roots, &judges)) {
            return None;
        }
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = wanted.readers.get(of) {
            return Some(known.clone());
        }
        let text = "the process is being given this identity";
        let (writer, reader) = live::channel(Err(Reason::new(ReasonKind::Waiting, text)));
        wanted.readers.insert(of.clone(), reader.clone());
        wanted.new.push((of.clone(), writer));
        drop(wanted);
        self.bell.notify_one();
        Some(reader)
    }

    /// Supplies what is wanted until `stop` completes.
    pub(crate) async fn run(self: Arc<Self>, maker: Maker, stop: impl Future<Output = ()>) {
        let mut begun = Begun {
            providers: &self.providers,
            maker,
            supplies: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                () = self.bell.notified() => {}
            }
            let new = std::mem::take(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner).new);
            for (of, writer) in new {
                begun.pair(&of, writer);
            }
        }
    }
}

/// What supplies are made of.
pub(crate) struct Maker {
    own: live::Reader<Standing>,
    make: Box<dyn Fn(Provider, live::Writer<Standing>) -> Supply + Send + Sync>,
}

impl Maker {
    pub(crate) fn new(connector: &Connector, link: &Link) -> Self {
        let parts = super::Parts::of(connector.clone(), link, OTHER_EVENT);
        Self {
            own: link.identity().clone(),
            make: Box::new(move |provider, writer| parts.supply(provider, writer)),
        }
    }
}

/// What runs. All of it ends with this.
struct Begun<'a> {
    providers: &'a BTreeMap<String, Provider>,
    maker: Maker,
    supplies: BTreeMap<&'a str, live::Reader<Standing>>,
    tasks: JoinSet<Infallible>,
}

impl<'a> Begun<'a> {
    fn pair(&mut self, of: &ChainIdentity, writer: live::Writer<Standing>) {
        let certificate = self.standing(of.certificate.as_deref());
        let roots = match of.roots.as_deref() {
            roots if roots == of.certificate.as_deref() => Roots::OfCertificate,
            Some(name) => match self.providers.get(name) {
                Some(Provider::Half(HalfWatcher {
                    half: Half::Trust(file),
                    refresh_interval,
                })) => Roots::File(files::Trust::new(file.clone(), *refresh_interval)),
                _ => Roots::Of(self.standing(Some(name))),
            },
            None => Roots::Of(self.standing(None)),
        };
        self.tasks.spawn(join(certificate, roots, writer));
    }

    /// What a provider gives; of `None`, the workload's own.
    fn standing(&mut self, name: Option<&str>) -> live::Reader<Standing> {
        // Those that are asked for were found before.
        let found = name.and_then(|name| self.providers.get_key_value(name));
        let Some((name, provider)) = found else {
            return self.maker.own.clone();
        };
        if let Some(known) = self.supplies.get(name.as_str()) {
            return known.clone();
        }
        let (writer, reader) = live::channel(Err(Reason::new(ReasonKind::Waiting, "")));
        let supply = (self.maker.make)(provider.clone(), writer);
        self.tasks.spawn(async move {
            supply.run(pending()).await;
            pending().await
        });
        self.supplies.insert(name, reader.clone());
        reader
    }
}

/// Where the roots of a pair come from.
enum Roots {
    /// From where its certificate does.
    OfCertificate,
    Of(live::Reader<Standing>),
    File(files::Trust),
}

/// Puts a certificate and roots together, again whenever one of them is another.
async fn join(certificate: live::Reader<Standing>, mut roots: Roots, writer: live::Writer<Standing>) -> Infallible {
    let bell = Arc::new(Notify::new());
    let ring = |reader: &live::Reader<Standing>| {
        let bell = Arc::clone(&bell);
        reader.on_change(move || bell.notify_one())
    };
    let _certificate = ring(&certificate);
    let _roots = match &roots {
        Roots::Of(reader) => Some(ring(reader)),
        Roots::OfCertificate | Roots::File(_) => None,
    };
    let mut bundle = None;
    let mut last: Option<(u64, TrustBundle)> = None;
    loop {
        let standing = match &*certificate.load_full() {
            Ok(shown) => match roots.bundle(shown, &mut bundle).await {
                Ok(bundle) => Ok((shown.clone(), bundle)),
                Err(why) => Err(why),
            },
            Err(why) => Err(why.clone()),
        };
        match standing {
            Ok((shown, bundle)) => {
                let made_of = (shown.generation(), bundle);
                if last.as_ref() != Some(&made_of) {
                    writer.publish(Ok(match made_of.1 == *shown.bundle() {
                        true => shown,
                        false => Identity::new(shown.svid().clone(), made_of.1.clone()),
                    }));
                    last = Some(made_of);
                }
            }
            Err(why) => {
                last = None;
                writer.publish(Err(why));
            }
        }
        let look_again = async {
            match &roots {
                Roots::File(trust) => tokio::time::sleep(trust.interval(bundle.is_some())).await,
                Roots::OfCertificate | Roots::Of(_) => pending().await,
            }
        };
        tokio::select! {
            () = bell.notified() => {}
            () = look_again => {}
        }
    }
}

impl Roots {
    /// The roots now, or the last there were: roots do not end with the certificate that came with them, and a file that cannot be
    /// read changes nothing.
    async fn bundle(
        &mut self,
        shown: &Identity,
        last: &mut Option<(TrustDomain, TrustBundle)>,
    ) -> Result<TrustBundle, Reason> {
        let domain = shown.id().trust_domain();
        let new = match self {
            Self::OfCertificate => return Ok(shown.bundle().clone()),
            Self::Of(reader) => reader.load_full().as_ref().clone().map(|judge| judge.bundle().clone()),
            Self::File(trust) => trust.read(domain).await.map_err(|error| {
                let text = format!("there are no roots to judge clients by: {error}");
                Reason::new(ReasonKind::NoIdentity, text)
            }),
        };
        match new {
            Ok(bundle) => {
                *last = Some((domain.clone(), bundle.clone()));
                Ok(bundle)
            }
            Err(why) => match last {
                // Of a file in PEM they are the certificate's domain's.
                Some((of, bundle)) if of == domain => Ok(bundle.clone()),
                _ => {
                    *last = None;
                    Err(why)
                }
            },
        }
    }
}
