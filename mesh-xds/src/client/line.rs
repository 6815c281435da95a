//! One control plane in use, as the state knows it. What connects to it is its [`Task`](super::stream::Task).

use std::sync::Arc;

use mesh_core::config::{Reason, ReasonKind};
use tokio::sync::Notify;

use super::ads::{AdsState, Variant};
use super::fallback::Condition;
use super::report::{Connection, Phase};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Line<V: Variant> {
    pub(super) ads: AdsState<V>,
    /// Rung when its task has something to look at.
    pub(super) bell: Arc<Notify>,
    pub(super) connection: Connection,
    /// It has answered on the stream that is open.
    pub(super) answers: bool,
    /// Why nothing can be heard at the moment.
    pub(super) trouble: Option<Reason>,
    /// Whether there is a reason to have a stream.
    pub(super) is_wanted: bool,
    /// Whether its task is to leave what it has and begin anew.
    pub(super) is_to_leave: bool,
}

impl<V: Variant> Line<V> {
    pub(super) fn new(ads: AdsState<V>, server: String, authorities: Vec<String>) -> Self {
        Self {
            ads,
            bell: Arc::default(),
            connection: Connection {
                server,
                authorities,
                ..Connection::default()
            },
            answers: false,
            trouble: None,
            is_wanted: false,
            is_to_leave: false,
        }
    }

    pub(super) fn condition(&self) -> Condition {
        Condition {
            failing: self.connection.is_failing,
            answers: self.answers,
        }
    }

    /// Nothing can be heard of it, and whether that counts as its failure (gRFC A57).
    pub(super) fn fails(&mut self, fails: bool, why: &str) {
        self.connection.failures += u64::from(fails && !self.connection.is_failing);
        self.connection.is_failing = fails;
        self.connection.last_error = Some(why.into());
        self.trouble = Some(Reason::new(ReasonKind::Waiting, why));
    }

    /// Begins or ends being wanted. What is let go of is forgotten: others may have told other things by the time it is
    /// wanted again.
    pub(super) fn want(&mut self, is_wanted: bool) {
        if self.is_wanted && !is_wanted {
            self.ads.reset();
            self.connection.is_failing = false;
            self.trouble = None;
            self.leave();
        }
        if self.is_wanted != is_wanted {
            self.bell.notify_one();
        }
        self.is_wanted = is_wanted;
    }

    /// Makes its task end the stream that it has, if it has one.
    pub(super) fn leave(&mut self) {
        self.answers = false;
        self.is_to_leave |= self.connection.phase == Phase::Connected;
        self.bell.notify_one();
    }
}
