//! The client's side of an ADS stream as a state machine: a response in, requests out.
//!
//! It owns what the protocol remembers (versions, nonces, subscriptions, timers) and the [`Cache`]. It does no IO and reads
//! no clock, so every rule of the protocol is a table test. Requests are pulled rather than queued: whoever has room to send
//! asks for the next one, and gets the newest state of one type, so a burst of changes is one request.
//!
//! Rules (xDS protocol; gRFCs A27, A46, A57, A88): versions live across streams and nonces die with theirs; the node goes in
//! the first request of a stream; valid resources of a refused response are used; only a listener or cluster is deleted by
//! absence, and even then the last good value stays; a resource that does not come within 15 s does not exist, unless nothing at all
//! came on the stream: that tells of whoever is at its other end, and of no resource.
//!
//! Of listeners and clusters everything can be asked for, as a sidecar's node does. A name that is looked for then is there
//! or is not, as soon as the control plane has spoken.
//!
//! What the two variants of the protocol have in common is here; how each words a request and reads a response is a
//! [`Variant`], in [`sotw`] and [`delta`].

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::config::RouteTree;

use super::cache::{Cache, Cached, Changed, Trouble};
use crate::decode::{Context, Rejected};
use crate::node::Node;
use crate::resource::{ClusterSpec, Endpoints, Extension, Listener, ResourceKind};
use crate::wire;

mod delta;
mod kind;
mod needs;
mod read;
mod recall;
mod refusal;
mod rules;
mod sotw;
mod take;

use kind::{Reply, Timer, TypeState};
pub(crate) use needs::Needs;
use read::{Item, Items, Unread};
pub(crate) use read::{Read, Reading};
pub(crate) use recall::Recall;
use refusal::refusal;
pub(crate) use rules::Rules;
pub(crate) use take::Taken;
use take::{Heard, Taking};

/// What a client does differently in each variant of the protocol.
pub(crate) trait Variant: wire::Variant {
    /// What is remembered of one type, beyond what both remember.
    type Memory: Default + fmt::Debug + Send;

    /// Whether every response is answered, and not only the newest.
    const ANSWERS_EACH: bool;

    fn kind(response: &Self::Response) -> Option<ResourceKind>;

    fn nonce(response: &Self::Response) -> &str;

    /// Words a request that says `reply` and whatever changed, and notes whether that leaves something to be said.
    fn request(
        kind: ResourceKind,
        state: &mut TypeState<Self::Memory>,
        cache: &Cache,
        reply: Option<Reply>,
        node: Option<Arc<Node>>,
    ) -> Self::Request;

    /// Takes the resources out of a response, as they came.
    fn resources(response: &mut Self::Response) -> Vec<Unread>;

    /// Takes in the resources of a response and the rest of it, and says what came of it.
    fn take<R: Cached>(
        rest: Self::Response,
        items: Vec<Item<R>>,
        memory: &mut Self::Memory,
        taking: Taking<'_, R>,
    ) -> Taken;
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct AdsState<V: Variant> {
    node: Arc<Node>,
    context: Context,
    rules: Rules,
    cache: Cache,
    types: [TypeState<V::Memory>; ResourceKind::COUNT],
    connected: bool,
    node_sent: bool,
    /// Something came on the stream that is open.
    heard: bool,
    /// When the stream will have been without a word for too long, counted from the first request that asks for what is not known. One that
    /// is resumed may be silent for as long as nothing changes.
    mute_at: Option<Instant>,
    /// It was.
    is_mute: bool,
    /// What did not come on it in time is waited for once more.
    waits_again: bool,
    /// Since when nothing is read because too many answers wait to be sent.
    deaf_since: Option<Instant>,
}

/// What a response did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Set if it was of a known, subscribed type.
    pub(crate) kind: Option<ResourceKind>,
    /// What came of it then.
    pub(crate) taken: Taken,
}

impl<V: Variant> AdsState<V> {
    pub(crate) fn new(node: Arc<Node>, context: Context) -> Self {
        Self {
            node,
            context,
            rules: Rules::default(),
            cache: Cache::default(),
            types: Default::default(),
            connected: false,
            node_sent: false,
            heard: false,
            mute_at: None,
            is_mute: false,
            waits_again: false,
            deaf_since: None,
        }
    }

    /// Treats data errors and silence as this control plane's features say.
    pub(crate) fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// Forgets everything but who asks: what is known of resources, and what the control plane was told. There must be no
    /// stream, or it must end now.
    pub(crate) fn reset(&mut self) {
        self.cache.clear();
        self.types = Default::default();
        self.stream_closed();
    }

    /// Forgets versions, so that the next stream asks for everything as if for the first time. There must be no stream, or
    /// it must end now.
    pub(crate) fn forget_versions(&mut self) {
        self.stream_closed();
        for state in &mut self.types {
            state.memory = V::Memory::default();
        }
    }

    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Takes over the last good values of another control plane, or of the copy on disk, where this one has told none:
    /// what was good once is served on (gRFC A88), whoever told it, and as long as that was to live. Says which those are.
    pub(crate) fn inherit(&mut self, from: &Self, belongs: impl Fn(&str) -> bool) -> Vec<Changed> {
        let inherited = self.cache.inherit(&from.cache, belongs);
        for (kind, name) in &inherited {
            let from = &from.types[kind.index()].lives;
            if let Some(ends) = from.get(name) {
                self.types[kind.index()].lives.insert(Arc::clone(name), *ends);
            }
        }
        inherited
    }

    /// The resources that have a time to live, and when they end.
    pub(crate) fn lives(&self) -> impl Iterator<Item = (Changed, Instant)> {
        let kinds = ResourceKind::ALL.into_iter();
        kinds.flat_map(|kind| {
            let lives = self.types[kind.index()].lives.iter();
            lives.map(move |(name, ends)| ((kind, Arc::clone(name)), *ends))
        })
    }

    /// What changed in the cache since this was last asked.
    pub(crate) fn take_changed(&mut self) -> Vec<Changed> {
        self.cache.take_changed()
    }

    /// Makes the subscriptions exactly these. What is no longer wanted is forgotten.
    pub(crate) fn subscribe(&mut self, needs: &Needs) {
        for kind in ResourceKind::ALL {
            let (state, wanted) = (&mut self.types[kind.index()], &needs[kind.index()]);
            let cache = &mut self.cache;
            let everything = needs.wants_everything(kind);
            if state.everything != everything {
                state.everything = everything;
                state.changed = true;
                cache.open(kind, everything);
            }
            let (before, waits) = (state.names.len(), &mut state.waits);
            state.names.retain(|name, timer| {
                let keep = wanted.contains(name);
                if !keep {
                    waits.is_over(timer);
                    cache.remove(kind, name);
                }
                keep
            });
            // Names that are said are news to the control plane; those it sends anyway are not.
            state.changed |= !everything && state.names.len() != before;
            for name in wanted {
                if !state.names.contains_key(name) {
                    state.names.insert(Arc::clone(name), Timer::Idle);
                    state.has_idle = true;
                    cache.insert(kind, name);
                    state.changed |= !everything;
                }
            }
            state.lives.retain(|name, _| everything || wanted.contains(name));
        }
    }

    /// A stream was opened: everything is asked for again.
    pub(crate) fn stream_opened(&mut self) {
        self.connected = true;
    }

    /// The stream ended: its nonces and timers end with it.
    pub(crate) fn stream_closed(&mut self) {
        self.connected = false;
        self.node_sent = false;
        (self.heard, self.waits_again) = (false, false);
        (self.mute_at, self.is_mute) = (None, false);
        self.deaf_since = None;
        self.types.iter_mut().for_each(TypeState::stream_closed);
    }

    /// Whether there is something to send now.
    pub(crate) fn has_request(&self, now: Instant) -> bool {
        self.connected && self.types.iter().any(|state| state.is_due(now))
    }

    /// The next request, for somebody who can send it at once.
    pub(crate) fn next_request(&mut self, now: Instant) -> Option<V::Request> {
        if !self.connected {
            return None;
        }
        let kind = ResourceKind::ALL
            .into_iter()
            .find(|kind| self.types[kind.index()].is_due(now))?;
        let reply = self.types[kind.index()].next_reply(now, !V::ANSWERS_EACH);
        if self.can_receive()
            && let Some(since) = self.deaf_since.take()
        {
            let deaf = now.saturating_duration_since(since);
            self.types.iter_mut().for_each(|state| state.put_off(deaf));
        }
        let state = &mut self.types[kind.index()];
        let node = (!self.node_sent).then(|| Arc::clone(&self.node));
        let request = V::request(kind, state, &self.cache, reply, node);
        let until = now + self.rules.patience();
        state.ask(until);
        let awaits = state.first_to_give_up().is_some() || self.cache.awaits_everything();
        if awaits && !self.heard && !self.is_mute {
            self.mute_at.get_or_insert(until);
        }
        self.node_sent = true;
        Some(request)
    }

    /// Whether a response may be read: the answers to those before it are not too many.
    pub(crate) fn can_receive(&self) -> bool {
        self.types.iter().all(TypeState::has_room)
    }

    /// The first half of taking a response in: what is to be read of it. That is done without this state, which may be
    /// large work; then it is [`received`](Self::receive).
    pub(crate) fn listen(&self, response: V::Response) -> Reading<V> {
        let kind = V::kind(&response).filter(|kind| self.types[kind.index()].asked);
        Reading::new(response, kind, self.context.clone())
    }

    /// The other half: takes in a response that was read. Responses come in the order in which they were sent.
    pub(crate) fn receive(&mut self, read: Read<V>, now: Instant) -> Received {
        let Read { rest, items } = read;
        (self.heard, self.mute_at) = (true, None);
        // A type that is not known, or was not asked for, is neither accepted nor refused.
        let Some(kind) = items.kind().filter(|kind| self.types[kind.index()].asked) else {
            return Received::default();
        };
        let nonce = V::nonce(&rest).to_owned();
        let taken = match items {
            Items::Unread => Taken::default(),
            Items::Listeners(items) => self.take::<Listener>(rest, items, now),
            Items::Routes(items) => self.take::<RouteTree>(rest, items, now),
            Items::Clusters(items) => self.take::<ClusterSpec>(rest, items, now),
            Items::Endpoints(items) => self.take::<Endpoints>(rest, items, now),
            Items::Extensions(items) => self.take::<Extension>(rest, items, now),
        };
        let reply = self.reply(kind, nonce, &taken);
        self.types[kind.index()].answer(reply, V::ANSWERS_EACH);
        if !self.can_receive() {
            self.deaf_since.get_or_insert(now);
        }
        Received {
            kind: Some(kind),
            taken,
        }
    }

    /// The answer to what was taken. Where the newest answer stands for all before it, it says what those would have said that
    /// were not sent: a response of routes or endpoints holds some of them, and what was refused of an earlier one is so still.
    fn reply(&self, kind: ResourceKind, nonce: String, taken: &Taken) -> Reply {
        let mut rejected: Vec<&Rejected> = taken.rejected.iter().collect();
        if !V::ANSWERS_EACH {
            let is_new = |name: &&Arc<str>| taken.rejected.iter().all(|rejected| *rejected.resource() != ***name);
            for name in self.types[kind.index()].unsaid().filter(is_new) {
                let trouble = self.cache.row(kind, name).and_then(|row| row.trouble);
                if let Some(Trouble::Refused(why)) = trouble {
                    rejected.push(why);
                }
            }
        }
        let names = match V::ANSWERS_EACH {
            true => Vec::new(),
            false => rejected.iter().map(|rejected| rejected.resource().into()).collect(),
        };
        Reply {
            nonce,
            refused: (!rejected.is_empty()).then(|| refusal(&self.node.id, &rejected)),
            names,
        }
    }

    /// Both halves.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn hear(&mut self, response: V::Response, now: Instant) -> Received {
        let read = self.listen(response).read();
        self.receive(read, now)
    }

    fn take<R: Cached>(&mut self, rest: V::Response, items: Vec<Item<R>>, now: Instant) -> Taken {
        let state = &mut self.types[R::KIND.index()];
        let heard = Heard {
            names: &mut state.names,
            waits: &mut state.waits,
            lives: &mut state.lives,
            now,
        };
        let taking = Taking::<R>::new(self.rules, heard, R::table_mut(&mut self.cache));
        V::take(rest, items, &mut state.memory, taking)
    }

    /// The moment at which [`on_timer`](Self::on_timer) or [`next_request`](Self::next_request) has something to do.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        // What has a time to live ends without a control plane too: that is what it is for.
        let lives = self.types.iter().filter_map(TypeState::first_to_end);
        if !self.connected {
            return lives.min();
        }
        let timers = self.types.iter().filter_map(TypeState::first_to_give_up);
        let timers = timers.filter(|_| self.deaf_since.is_none());
        // One that is over waits for room to be sent, and not for the time.
        let held = self.types.iter().filter_map(TypeState::held_until);
        let held = held.filter(|until| now < *until);
        timers.chain(held).chain(lives).chain(self.mute_at).min()
    }

    /// Whether by now nothing at all was heard on the stream for as long as a resource is waited for. It is said once on a stream.
    pub(crate) fn is_found_mute(&mut self, now: Instant) -> bool {
        let found = self.mute_at.take_if(|at| *at <= now).is_some();
        self.is_mute |= found;
        found
    }

    /// Gives what did not come as much time again, once on a stream: somebody else is asked meanwhile. Whether that was so.
    pub(crate) fn wait_again(&mut self, now: Instant) -> bool {
        if std::mem::replace(&mut self.waits_again, true) {
            return false;
        }
        let until = now + self.rules.patience();
        self.types.iter_mut().for_each(|state| state.wait_again(now, until));
        true
    }

    /// Gives up on what did not come in time, and ends what had its time; whether there was any.
    pub(crate) fn on_timer(&mut self, now: Instant) -> bool {
        let mut any = false;
        for kind in ResourceKind::ALL {
            let state = &mut self.types[kind.index()];
            let gave_up = match self.deaf_since {
                None => state.gave_up(now),
                // It may be there, unread.
                Some(_) => Vec::new(),
            };
            for name in gave_up {
                let silence = self.rules.silence(kind, &name, !self.heard);
                self.cache.trouble(kind, &name, silence);
                any = true;
            }
            for name in state.ended(now) {
                let why = format!("{kind} {name:?}: its time to live ended, and the control plane did not renew it");
                self.cache.end(kind, &name, &why.into());
                any = true;
            }
        }
        any
    }
}
