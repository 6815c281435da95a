//! A streaming request that can be sent again while all that was sent of it is kept.
//!
//! Nothing is read ahead for it: a frame is kept when it is sent, by its handle, in the order of sending. Once more was sent
//! than is kept, or an answer was committed to, there is nothing to keep, and the reader takes the body for itself: from then
//! on a stream costs what it costs without this (gRFC A6: committed when the buffer is full or headers came; Envoy likewise).
//!
//! One try reads at a time. A new one takes over under the lock, so that the task of the last, which is only just being
//! aborted, cannot take a frame away from it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use mesh_core::report::standard::Messages;

use crate::telemetry::Sending;
use crate::time::Activity;

/// A request's body with what was sent of it.
#[derive(Debug)]
pub(crate) struct Replay<B> {
    state: Mutex<State<B>>,
    /// What the try that reads has read: bytes, and messages as of gRPC.
    sent: [AtomicU64; 2],
}

#[derive(Debug)]
struct State<B> {
    /// `None` once a reader took it for itself.
    body: Option<B>,
    kept: Vec<Kept>,
    bytes: u64,
    limit: u64,
    /// Who may read: the try that opened its stream last.
    reader: u32,
    /// What was sent is not all here any more, or is not wanted any more.
    committed: bool,
    /// The caller's body failed or ended, and must not be asked again.
    over: Option<Over>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Ended,
    Failed,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Kept {
    fn of(frame: &Frame<Bytes>) -> Option<(Self, u64)> {
        if let Some(data) = frame.data_ref() {
            return Some((Self::Data(data.clone()), data.len() as u64));
        }
        let trailers = frame.trailers_ref()?;
        let bytes = trailers.iter().map(|(name, value)| name.as_str().len() + value.len());
        Some((Self::Trailers(trailers.clone()), bytes.sum::<usize>() as u64))
    }

    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

impl<B> Replay<B> {
    /// Of a body from which `first` was read already, keeping at most `limit` bytes. What was read is kept in any case: it
    /// was not sent yet.
    pub(crate) fn new(first: impl ExactSizeIterator<Item = Frame<Bytes>>, body: B, limit: u64) -> Self {
        let (mut kept, mut bytes) = (Vec::with_capacity(first.len()), 0);
        for (frame, size) in first.filter_map(|frame| Kept::of(&frame)) {
            kept.push(frame);
            bytes += size;
        }
        let state = State {
            body: Some(body),
            kept,
            bytes,
            limit,
            reader: 0,
            committed: false,
            over: None,
        };
        Self {
            state: Mutex::new(state),
            sent: Default::default(),
        }
    }

    /// Whether another try can send the same.
    pub(crate) fn can_be_sent_again(&self) -> bool {
        let state = self.lock();
        // Nothing was sent while nobody ever read.
        let whole = state.reader == 0 || state.bytes <= state.limit;
        whole && !state.committed && state.over != Some(Over::Failed)
    }

    /// No other try will be made.
    pub(crate) fn commit(&self) {
        self.lock().committed = true;
    }

    /// Reads it from the beginning, in place of whoever did so before. What is read is taken to be sent: `activity` is told.
    pub(crate) fn reader(self: &Arc<Self>, activity: Option<Arc<Activity>>) -> Reader<B> {
        let mut state = self.lock();
        state.reader += 1;
        // It is all sent anew.
        self.sent.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        Reader {
            number: state.reader,
            at: 0,
            source: Source::Shared(Arc::clone(self)),
            activity,
            replay: Arc::clone(self),
            messages: Messages::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body as one try sends it.
#[derive(Debug)]
pub(crate) struct Reader<B> {
    number: u32,
    at: usize,
    source: Source<B>,
    activity: Option<Arc<Activity>>,
    /// Where what is read is counted.
    replay: Arc<Replay<B>>,
    messages: Messages,
}

impl<B: Send> Sending for Replay<B> {
    fn sent(&self) -> (u64, u64) {
        let [bytes, messages] = &self.sent;
        (bytes.load(Ordering::Relaxed), messages.load(Ordering::Relaxed))
    }
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self;
        let taken = match &mut this.source {
            Source::Own(body) => return Pin::new(body).poll_frame(cx),
            Source::Lost => return Poll::Pending,
            Source::Shared(replay) => {
                let mut state = replay.lock();
                if state.reader != this.number {
                    None
                } else if let Some(kept) = state.kept.get(this.at) {
                    this.at += 1;
                    return Poll::Ready(Some(Ok(kept.frame())));
                } else if state.committed && state.over.is_none() {
                    state.kept = Vec::new();
                    state.body.take()
                } else {
                    return state.poll_frame(&mut this.at, cx);
                }
            }
        };
        match taken {
            Some(mut body) => {
                let polled = Pin::new(&mut body).poll_frame(cx);
                this.source = Source::Own(body);
                polled
            }
            None => {
                this.source = Source::Lost;
                Poll::Pending
            }
        }
    }

    /// Tells of what was read. Some who read ask no more once the body says that it is at its end; trailers are the end.
    fn tell(&self, read: Option<&Result<Frame<Bytes>, B::Error>>) {
        let Some(activity) = &self.activity else { return };
        activity.touch();
        let ends = match read {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ends {
            activity.end();
        }
    }
}

#[derive(Debug)]
enum Source<B> {
    Shared(Arc<Replay<B>>),
    Own(B),
    /// Another try has it.
    Lost,
}

impl<B> Body for Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    /// The next frame; what is kept first. Pending for ever once another try reads.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = ready!(self.poll_next(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            let ended = self.messages.take(data);
            let [bytes, messages] = &self.replay.sent;
            bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
            messages.fetch_add(ended, Ordering::Relaxed);
        }
        self.tell(polled.as_ref());
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Shared(replay) => replay.lock().is_end_stream(self.at),
            Source::Lost => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Shared(replay) => replay.lock().size_hint(self.at),
            Source::Lost => SizeHint::new(),
        }
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn is_end_stream(&self, at: usize) -> bool {
        let ended = self.over == Some(Over::Ended) || self.body.as_ref().is_some_and(Body::is_end_stream);
        at >= self.kept.len() && ended
    }

    fn size_hint(&self, at: usize) -> SizeHint {
        let ahead = self.kept.iter().skip(at).map(|kept| match kept {
            Kept::Data(data) => data.len() as u64,
            Kept::Trailers(_) => 0,
        });
        let ahead: u64 = ahead.sum();
        let rest = match self.over {
            Some(_) => SizeHint::with_exact(0),
            None => self.body.as_ref().map_or_else(SizeHint::new, Body::size_hint),
        };
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }

    fn poll_frame(&mut self, at: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = self.body.as_mut().filter(|_| self.over.is_none()) else {
            return Poll::Ready(None);
        };
        let polled = ready!(Pin::new(body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some((kept, size)) = Kept::of(frame) {
                    self.bytes += size;
                    if self.bytes <= self.limit {
                        self.kept.push(kept);
                        *at += 1;
                    } else {
                        self.committed = true;
                    }
                }
            }
            Some(Err(_)) => self.over = Some(Over::Failed),
            None => self.over = Some(Over::Ended),
        }
        Poll::Ready(polled)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Waker;

    use super::*;

    /// Frames that are ready.
    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    fn replay(frames: &[&'static str], limit: u64) -> Arc<Replay<Frames>> {
        let frames = frames.iter().map(|text| Bytes::from_static(text.as_bytes()));
        Arc::new(Replay::new([].into_iter(), Frames(frames.collect()), limit))
    }

    fn read(reader: &mut Reader<Frames>, most: usize) -> String {
        let mut text = String::new();
        for _ in 0..most {
            match Pin::new(&mut *reader).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(frame))) => text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap(),
                Poll::Ready(_) => text += "!",
                Poll::Pending => text += "?",
            }
        }
        text
    }

    #[test]
    fn what_was_sent_is_sent_again_and_then_the_rest() {
        let replay = replay(&["a", "b", "c"], 10);
        let mut first = replay.reader(None);
        assert_eq!(read(&mut first, 2), "ab");
        assert!(replay.can_be_sent_again());
        let mut second = replay.reader(None);
        assert_eq!(read(&mut second, 1), "a");
        // The first is being aborted and polls once more: it gets nothing, and takes nothing away.
        assert_eq!(read(&mut first, 1), "?");
        assert_eq!(read(&mut second, 3), "bc!");
        assert_eq!(read(&mut replay.reader(None), 4), "abc!");
    }

    #[test]
    fn more_than_the_limit_commits() {
        let replay = replay(&["abc", "de", "f"], 4);
        let mut first = replay.reader(None);
        assert_eq!(read(&mut first, 1), "abc");
        assert!(replay.can_be_sent_again());
        assert_eq!(read(&mut first, 1), "de");
        assert!(!replay.can_be_sent_again());
        assert_eq!(read(&mut first, 2), "f!");
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing_but_what_was_not_sent() {
        let first = [Frame::data(Bytes::from_static(b"x"))].into_iter();
        let replay = Arc::new(Replay::new(first, Frames(VecDeque::new()), 0));
        assert!(replay.can_be_sent_again());
        assert_eq!(read(&mut replay.reader(None), 2), "x!");
        assert!(!replay.can_be_sent_again());
    }

    #[test]
    fn a_committed_body_belongs_to_its_reader() {
        let replay = replay(&["a", "b"], 10);
        let mut reader = replay.reader(None);
        assert_eq!(read(&mut reader, 1), "a");
        replay.commit();
        assert_eq!(read(&mut reader, 2), "b!");
        assert!(matches!(reader.source, Source::Own(_)));
    }
}
