//! Messages of clients that have not come whole.
//!
//! gRPC makes room for a message when it has read how long that will be, and keeps what there is until the rest has come. Whoever begins a
//! large one on each of thousands of streams, and ends none, costs the control plane gigabytes for a few packets. So a message that has begun
//! has a time to end, and what all unfinished ones of one peer were announced to be has a sum, as has what everybody's were. Small ones,
//! which is what clients send, are not counted: there are no more of them than streams.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use super::peer::Line;
use super::room::Whose;

/// How long a message may take from its first byte to its last. As long as a response may wait to be taken.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest message that is not counted.
const MAX_SMALL_BYTES: usize = 16 * 1024;
/// The most bytes of unfinished messages of one identity, or of one address without: four of the largest.
const MAX_UNFINISHED_OF_ONE: usize = 64 * 1024 * 1024;
/// The most of all together.
const MAX_UNFINISHED: usize = 256 * 1024 * 1024;

/// The flag and the length before a message of gRPC.
const PREFIX: usize = 5;

/// See the module's documentation. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfinished(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<Option<Whose>, usize>,
}

impl Unfinished {
    /// The request, whose body holds to the bounds.
    pub(super) fn watch(&self, request: Request<Body>) -> Request<Body> {
        let whose = request
            .extensions()
            .get::<Line>()
            .and_then(|line| Whose::of(line.peer()));
        request.map(|body| {
            Body::new(Whole {
                body,
                room: Held {
                    of: self.clone(),
                    whose,
                    bytes: 0,
                },
                at: At::Prefix([0; PREFIX], 0),
                timer: None,
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one stream has of the room, until it is dropped.
struct Held {
    of: Unfinished,
    whose: Option<Whose>,
    bytes: usize,
}

impl Held {
    fn take(&mut self, bytes: usize) -> bool {
        let mut taken = self.of.lock();
        let of_one = taken.by.get(&self.whose).copied().unwrap_or_default();
        if taken.all + bytes > MAX_UNFINISHED || of_one + bytes > MAX_UNFINISHED_OF_ONE {
            return false;
        }
        taken.all += bytes;
        taken.by.insert(self.whose.clone(), of_one + bytes);
        self.bytes += bytes;
        true
    }

    fn give_back(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut taken = self.of.lock();
        taken.all -= self.bytes;
        if let Some(of_one) = taken.by.get_mut(&self.whose) {
            *of_one -= self.bytes;
            if *of_one == 0 {
                taken.by.remove(&self.whose);
            }
        }
        self.bytes = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Of what the next byte is.
enum At {
    /// Of a prefix, of which there are so many bytes.
    Prefix([u8; PREFIX], usize),
    /// Of a message, of which so many are to come.
    Message(usize),
}

/// See [`Unfinished::watch`].
struct Whole {
    body: Body,
    room: Held,
    at: At,
    /// While a message is unfinished.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Whole {
    /// Follows what came.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Prefix(prefix, have) => {
                    if *have == 0 {
                        self.timer = Some(Box::pin(sleep(MESSAGE_TIMEOUT)));
                    }
                    let (now, rest) = bytes.split_at(bytes.len().min(PREFIX - *have));
                    prefix[*have..*have + now.len()].copy_from_slice(now);
                    *have += now.len();
                    bytes = rest;
                    if *have < PREFIX {
                        return Ok(());
                    }
                    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    // What comes whole with its length waits for nothing.
                    if length > bytes.len() && length > MAX_SMALL_BYTES && !self.room.take(length) {
                        return Err(Status::resource_exhausted(
                            "too much is unfinished of requests; come again",
                        ));
                    }
                    self.at = At::Message(length);
                }
                At::Message(left) => {
                    let now = bytes.len().min(*left);
                    *left -= now;
                    bytes = &bytes[now..];
                }
            }
            if matches!(self.at, At::Message(0)) {
                self.at = At::Prefix([0; PREFIX], 0);
                self.timer = None;
                self.room.give_back();
            }
        }
        Ok(())
    }
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.follow(data)?;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Pending => {
                let timer = self.timer.as_mut();
                match timer.is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
                    true => Poll::Ready(Some(Err(Status::deadline_exceeded(
                        "a request did not come whole in time",
                    )))),
                    false => Poll::Pending,
                }
            }
            ended => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whole").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use mesh_core::identity::SpiffeId;
    use tokio::sync::mpsc;
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;
    use crate::server::Peer;

    /// A body whose frames somebody sends.
    struct Sent(mpsc::UnboundedReceiver<Bytes>);

    impl HttpBody for Sent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.poll_recv(cx).map(|next| next.map(|data| Ok(Frame::data(data))))
        }
    }

    /// A stream of this workload's.
    fn stream(all: &Unfinished, account: &str) -> (mpsc::UnboundedSender<Bytes>, Body) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut request = Request::new(Body::new(Sent(receiver)));
        request.extensions_mut().insert(Line::from(Peer {
            identity: Some(SpiffeId::parse(&format!("spiffe://d/{account}")).unwrap()),
            ..Peer::default()
        }));
        (sender, all.watch(request).into_body())
    }

    /// The beginning of a message of so many bytes.
    fn begun(length: usize) -> Bytes {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        bytes.into()
    }

    #[tokio::test]
    async fn cp_11_what_is_unfinished_has_a_sum_for_each_peer_and_for_all() {
        const LARGE: usize = 16 * 1024 * 1024;
        let all = Unfinished::default();
        let begin = async |account: &str| {
            let (sender, mut body) = stream(&all, account);
            sender.send(begun(LARGE)).unwrap();
            let taken = body.frame().await.unwrap().map_err(|status| status.code());
            (taken.map(drop), sender, body)
        };
        let mut open = Vec::new();
        for _ in 0..MAX_UNFINISHED_OF_ONE / LARGE {
            open.push(begin("evil").await);
        }
        assert!(open.iter().all(|(taken, ..)| taken.is_ok()));
        assert_eq!(begin("evil").await.0, Err(Code::ResourceExhausted));
        // Small ones are not counted, and others have room.
        let (sender, mut body) = stream(&all, "evil");
        sender.send(begun(MAX_SMALL_BYTES)).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(begin("good").await.0.is_ok());
        for account in ["a", "b", "c"] {
            for _ in 0..MAX_UNFINISHED_OF_ONE / LARGE {
                open.push(begin(account).await);
            }
        }
        assert_eq!(begin("d").await.0, Err(Code::ResourceExhausted));
        // What has come whole, or whose stream ended, makes room.
        let (_, sender, mut body) = open.pop().unwrap();
        sender.send(vec![0; LARGE].into()).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        assert!(begin("d").await.0.is_ok());
        drop((open, body));
        let taken = all.lock();
        assert_eq!((taken.all, taken.by.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn cp_11_a_message_that_has_begun_has_a_time_to_end() {
        let all = Unfinished::default();
        let (sender, mut body) = stream(&all, "a");
        // A whole one and the beginning of another, each in pieces; then nothing.
        for piece in [&b"\0\0"[..], b"\0\0\x03a", b"bc\0\0", b"\0\0\x05a"] {
            tokio::time::advance(MESSAGE_TIMEOUT / 2).await;
            sender.send(Bytes::from_static(piece)).unwrap();
            assert!(body.frame().await.unwrap().is_ok());
        }
        let began = Instant::now() - MESSAGE_TIMEOUT / 2;
        let late = body.frame().await.unwrap().unwrap_err();
        assert_eq!(
            (late.code(), began.elapsed()),
            (Code::DeadlineExceeded, MESSAGE_TIMEOUT)
        );
        // Nobody has to say anything while no message has begun.
        let (sender, mut body) = stream(&all, "a");
        sender.send(begun(0)).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        let quiet = tokio::time::timeout(MESSAGE_TIMEOUT * 10, body.frame()).await;
        assert!(quiet.is_err());
    }
}
