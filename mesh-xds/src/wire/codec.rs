//! prost's codec, which reads nothing that it would have to blow up: see [`weigh`](super::weigh).

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::weigh::{Shape, weigh};

/// What is said is an `E`, and what is heard a `D` of that shape. A message and what becomes of it take at most `limit` bytes together.
#[derive(Debug)]
pub(super) struct Weighed<E, D> {
    shape: &'static Shape,
    limit: usize,
    messages: PhantomData<fn(E) -> D>,
}

impl<E, D> Weighed<E, D> {
    pub(super) fn new(shape: &'static Shape, limit: usize) -> Self {
        Self {
            shape,
            limit,
            messages: PhantomData,
        }
    }
}

impl<E, D> Codec for Weighed<E, D>
where
    E: Message + 'static,
    D: Message + Default + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = ProstEncoder<E>;
    type Decoder = WeighedDecoder<D>;

    fn encoder(&mut self) -> ProstEncoder<E> {
        ProstCodec::<E, D>::default().encoder()
    }

    fn decoder(&mut self) -> WeighedDecoder<D> {
        WeighedDecoder {
            inner: ProstCodec::<E, D>::default().decoder(),
            shape: self.shape,
            limit: self.limit,
        }
    }
}

/// The reading half.
#[derive(Debug)]
pub(super) struct WeighedDecoder<D> {
    inner: ProstDecoder<D>,
    shape: &'static Shape,
    limit: usize,
}

impl<D: Message + Default> Decoder for WeighedDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        // tonic hands out whole messages in one piece.
        let message = source.chunk();
        let limit = self.limit.saturating_sub(message.len());
        weigh(message, self.shape, limit).map_err(|error| Status::resource_exhausted(format!("a message {error}")))?;
        self.inner.decode(source)
    }
}
