//! One configuration, with its buckets found.

use std::sync::Arc;
use std::time::Instant;

use super::bucket::{Bucket, Dynamic};
use super::describe::{Entries, describe};
use super::{Asked, Buckets, Judged, Key, Place, Places, Question, Quota, Scope, nanoseconds};
use crate::config::{Describing, Instead, LimitHost, LimitRoute, LocalRateLimit, RateLimits, VirtualHostLimits};
use crate::entropy::Draw;
use crate::route::{best_host, takes};

/// The rate limits of one chain, and their buckets. Cheap to ask; made once for each configuration.
#[derive(Debug)]
pub struct Limiter {
    limits: Arc<RateLimits>,
    /// Of each filter.
    own: Vec<Option<Live>>,
    hosts: Vec<LiveHost>,
}

#[derive(Debug)]
struct LiveHost {
    instead: Vec<(usize, Option<Live>)>,
    routes: Vec<Vec<(usize, Option<Live>)>>,
}

/// One limit.
#[derive(Debug)]
struct Live {
    limit: Arc<LocalRateLimit>,
    /// Where the clock of its buckets begins.
    origin: Instant,
    bucket: Option<Arc<Bucket>>,
    /// Of each descriptor that names a bucket, by its place; the slowest first (Envoy), so that what is nearest to its end says no before
    /// others are spent.
    descriptors: Vec<(usize, Held)>,
}

#[derive(Debug)]
enum Held {
    One(Arc<Bucket>),
    EachValue(Arc<Dynamic>),
}

/// What a route says of its requests.
#[derive(Clone, Copy)]
struct Told<'a> {
    host: Option<&'a LimitHost>,
    route: Option<&'a LimitRoute>,
}

/// Which of a limit's descriptors fit: a bit for each.
type Fits = [u64; LocalRateLimit::MAX_DESCRIPTORS / 64];

impl Limiter {
    /// `limits` of `scope`, with their buckets from `places`.
    pub fn new(limits: &Arc<RateLimits>, scope: &Scope, places: Places<'_>, now: Instant) -> Self {
        let scope = Arc::new(scope.clone());
        let find = |limit: &Arc<LocalRateLimit>, filter: &str, place: &Place| {
            let buckets = match limit.per_connection {
                true => places.connection,
                false => places.shared,
            };
            let key = Key {
                scope: Arc::clone(&scope),
                filter: filter.into(),
                place: place.clone(),
                descriptor: None,
            };
            Live::find(limit, buckets, &key, now)
        };
        let position = |name: &str| limits.filters().iter().position(|filter| *filter.name == *name);
        let instead = |all: &[Instead], place: &Place| -> Vec<(usize, Option<Live>)> {
            let found = all.iter().filter_map(|instead| {
                let live = |limit| find(limit, &instead.filter, place);
                Some((position(&instead.filter)?, instead.limit.as_ref().map(live)))
            });
            found.collect()
        };
        let host = |host: &LimitHost| LiveHost {
            instead: instead(&host.instead, &Place::Host(host.domains.clone())),
            routes: (host.routes.iter())
                .map(|route| {
                    let place = Place::Route(host.domains.clone(), route.matches.clone());
                    instead(&route.instead, &place)
                })
                .collect(),
        };
        let own = (limits.filters().iter()).map(|filter| {
            let limit = filter.limit.as_ref();
            limit.map(|limit| find(limit, &filter.name, &Place::Chain))
        });
        Self {
            own: own.collect(),
            hosts: limits.hosts().iter().map(host).collect(),
            limits: Arc::clone(limits),
        }
    }

    /// Whether it is of these limits.
    pub fn is_of(&self, limits: &Arc<RateLimits>) -> bool {
        Arc::ptr_eq(&self.limits, limits)
    }

    /// What is to be asked of others about a request, of the filters before those that ask who may, or of those behind them.
    pub fn questions(&self, asked: &Asked<'_>, after_guards: bool) -> Vec<Question> {
        let mut questions = Vec::new();
        for filter in self
            .limits
            .global()
            .iter()
            .filter(|filter| filter.after_guards == after_guards)
        {
            let Some(limit) = &filter.limit else { continue };
            let (told, _, _) = self.told(asked);
            let mut descriptors = Vec::new();
            each(
                (&limit.describing[..], limit.stage, VirtualHostLimits::Override),
                asked,
                told,
                |entries| {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let entries = entries.all().iter();
                    descriptors.push(
                        entries
                            .map(|entry| (entry.key().to_owned(), text(entry.value())))
                            .collect(),
                    );
                },
            );
            // Nothing to go by: nobody is asked (Envoy).
            if !descriptors.is_empty() {
                questions.push(Question {
                    limit: Arc::clone(limit),
                    descriptors,
                });
            }
        }
        questions
    }

    /// The host and the route of a request, and their places.
    fn told<'a>(&'a self, asked: &Asked<'_>) -> (Told<'a>, Option<&'a LiveHost>, Option<usize>) {
        let host = match self.limits.hosts() {
            [] => None,
            hosts => {
                let numbered = hosts.iter().enumerate().map(|(index, host)| (&*host.domains, index));
                best_host(numbered, asked.head.authority()).map(|index| (&hosts[index], &self.hosts[index]))
            }
        };
        let route = host.and_then(|(host, _)| host.routes.iter().position(|route| takes(&route.matches, &asked.head)));
        let told = Told {
            host: host.map(|(host, _)| host),
            route: host.and_then(|(host, _)| route.map(|route| &host.routes[route])),
        };
        (told, host.map(|(_, live)| live), route)
    }

    /// Takes the tokens that a request needs, of the filters before those that ask who may, or of those behind them. What is taken is
    /// not given back where a later limit has none (Envoy).
    pub fn judge(&self, asked: &Asked<'_>, after_guards: bool, now: Instant, draw: &mut Draw) -> Judged {
        let mut judged = Judged::default();
        let filters = self.limits.filters();
        if filters.iter().all(|filter| filter.after_guards != after_guards) {
            return judged;
        }
        let (told, host, place) = self.told(asked);
        let route = host.and_then(|live| place.map(|place| &live.routes[place]));
        for (index, filter) in filters.iter().enumerate() {
            if filter.after_guards != after_guards {
                continue;
            }
            let of = |all: &'_ Vec<(usize, Option<Live>)>| all.iter().position(|(of, _)| *of == index);
            let of_route = route.and_then(|live| of(live).map(|at| &live[at].1));
            let of_host = || host.and_then(|live| of(&live.instead).map(|at| &live.instead[at].1));
            let live = of_route.or_else(of_host).unwrap_or(&self.own[index]);
            if let Some(live) = live {
                live.judge(asked, told, now, draw, &mut judged);
            }
            if judged.limited.is_some() {
                break;
            }
        }
        judged
    }
}

impl Live {
    fn find(limit: &Arc<LocalRateLimit>, buckets: &Buckets, key: &Key, now: Instant) -> Self {
        let (origin, now) = (buckets.origin, buckets.at(now));
        let mut descriptors: Vec<(usize, Held)> = (limit.descriptors.iter().enumerate())
            .take(LocalRateLimit::MAX_DESCRIPTORS)
            .map(|(index, descriptor)| {
                let key = Key {
                    descriptor: Some(descriptor.entries.clone()),
                    ..key.clone()
                };
                let held = match descriptor.entries.iter().any(|entry| entry.value.is_empty()) {
                    true => Held::EachValue(buckets.dynamic(key, now)),
                    false => Held::One(buckets.bucket(key, descriptor.bucket, now)),
                };
                (index, held)
            })
            .collect();
        descriptors.sort_by_key(|(index, _)| std::cmp::Reverse(limit.descriptors[*index].bucket.token_ns()));
        Self {
            bucket: limit.bucket.map(|bucket| buckets.bucket(key.clone(), bucket, now)),
            limit: Arc::clone(limit),
            origin,
            descriptors,
        }
    }

    fn judge(&self, asked: &Asked<'_>, told: Told<'_>, now: Instant, draw: &mut Draw, judged: &mut Judged) {
        let limit = &self.limit;
        if !limit.enabled.holds(draw.next()) {
            return;
        }
        let mut least = None;
        let has_token = self.take(asked, told, nanoseconds(self.origin, now), &mut least);
        if limit.quota_headers {
            let nearest = judged.quota.into_iter().chain(least);
            judged.quota = nearest.min_by_key(|quota| quota.remaining);
        }
        if has_token {
            return;
        }
        match limit.enforced.holds(draw.next()) {
            true => judged.limited = Some(Arc::clone(limit)),
            false => judged.passed_over.push(Arc::clone(limit)),
        }
    }

    /// Takes what the request needs, and says whether it was there.
    fn take(&self, asked: &Asked<'_>, told: Told<'_>, now: i64, least: &mut Option<Quota>) -> bool {
        let limit = &self.limit;
        let mut counted = |(taken, quota): (bool, Quota)| {
            if least.is_none_or(|least| quota.remaining <= least.remaining) {
                *least = Some(quota);
            }
            taken
        };
        let mut any = false;
        if !self.descriptors.is_empty() {
            let mut fits = Fits::default();
            self.each(asked, told, |entries| {
                for (at, (index, _)) in self.descriptors.iter().enumerate() {
                    if entries.fit(&limit.descriptors[*index].entries) {
                        fits[at / 64] |= 1 << (at % 64);
                        any = true;
                    }
                }
            });
            let fitting = self.descriptors.iter().enumerate();
            let mut fitting = fitting.filter(|(at, _)| any && fits[at / 64] & (1 << (at % 64)) != 0);
            let all = fitting.all(|(_, (index, held))| {
                let descriptor = &limit.descriptors[*index];
                let taken = match held {
                    Held::One(bucket) => counted(bucket.take(&descriptor.bucket, now)),
                    Held::EachValue(values) => {
                        let wanted = (&*descriptor.entries, &descriptor.bucket);
                        let mut taken = true;
                        self.each(asked, told, |entries| {
                            if entries.fit(wanted.0) {
                                taken &= counted(values.take(wanted, entries.all(), limit.max_dynamic, now));
                            }
                        });
                        taken
                    }
                };
                taken || descriptor.shadow
            });
            if !all {
                return false;
            }
        }
        match &self.bucket {
            Some(bucket) if !any || limit.always_consume_default => {
                let of = limit.bucket.as_ref();
                of.is_none_or(|of| counted(bucket.take(of, now)))
            }
            _ => true,
        }
    }

    /// Hands each descriptor of the request to `see`.
    fn each<'a>(&'a self, asked: &Asked<'a>, told: Told<'a>, see: impl FnMut(&Entries<'a>)) {
        let limit = &*self.limit;
        each((&limit.describing[..], limit.stage, limit.host), asked, told, see);
    }
}

/// Hands each descriptor of a request to `see`: those of the limit's own list, or of its route and host.
fn each<'a>(
    (own, stage, host): (&'a [Describing], u32, VirtualHostLimits),
    asked: &Asked<'a>,
    told: Told<'a>,
    mut see: impl FnMut(&Entries<'a>),
) {
    let cluster = told.route.and_then(|route| route.cluster.as_deref());
    let mut all = |list: &'a [Describing], own: bool| {
        for by in list.iter().filter(|by| own || by.stage == stage) {
            if let Some(entries) = describe(by, asked, cluster) {
                see(&entries);
            }
        }
    };
    if !own.is_empty() {
        return all(own, true);
    }
    let of_route = told.route.map_or(&[][..], |route| &route.describing);
    all(of_route, false);
    let includes = match host {
        VirtualHostLimits::Override => of_route.is_empty() || told.route.is_some_and(|route| route.includes_host),
        VirtualHostLimits::Include => true,
        VirtualHostLimits::Ignore => false,
    };
    if let Some(host) = told.host.filter(|_| includes) {
        all(&host.describing, false);
    }
}
