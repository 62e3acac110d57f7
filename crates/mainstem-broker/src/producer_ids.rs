//! InitProducerId: ids for idempotent producers, from blocks that are reserved durably.

use mainstem_catalog::Event;
use mainstem_kafka_wire::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId, ResponseError};
use parking_lot::Mutex;

use crate::Broker;

/// Ids reserved at a time: as many may be lost in a crash.
const BLOCK: i64 = 1000;

/// Ids that are reserved and not given out.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    free: Mutex<std::ops::Range<i64>>,
}

impl Broker {
    pub(crate) async fn init_producer_id(&self, request: InitProducerIdRequest) -> InitProducerIdResponse {
        let refused = |error: ResponseError| {
            InitProducerIdResponse::default()
                .with_error_code(error.code())
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1)
        };
        if let Some(id) = &request.transactional_id {
            // Not retriable, and fatal to the producer, as it should be: a retriable one would loop.
            tracing::warn!(
                transactional_id = id.as_str(),
                "refused a transactional producer: transactions are not served"
            );
            return refused(ResponseError::TransactionalIdAuthorizationFailed);
        }
        let (id, epoch) = (request.producer_id.0, request.producer_epoch);
        let given = InitProducerIdResponse::default();
        if id >= 0 && (0..i16::MAX - 1).contains(&epoch) {
            if id >= self.catalog().producer_ids_until() {
                return refused(ResponseError::UnknownProducerId);
            }
            return given.with_producer_id(ProducerId(id)).with_producer_epoch(epoch + 1);
        }
        match self.next_producer_id().await {
            Some(id) => given.with_producer_id(ProducerId(id)).with_producer_epoch(0),
            None => refused(ResponseError::CoordinatorNotAvailable),
        }
    }

    /// An id that nobody had. `None` when no more can be reserved durably now.
    async fn next_producer_id(&self) -> Option<i64> {
        if let Some(id) = self.inner.producer_ids.free.lock().next() {
            return Some(id);
        }
        let reserve = |catalog: &mainstem_catalog::Catalog| {
            let until = catalog.producer_ids_until().checked_add(BLOCK).ok_or("all producer ids are used up")?;
            Ok::<_, &str>(vec![Event::ProducerIdsReserved { until }])
        };
        let reserved = self.change_catalog(reserve).await;
        let until = match reserved {
            Ok((catalog, _)) => catalog.producer_ids_until(),
            Err(error) => {
                tracing::warn!(%error, "cannot reserve producer ids");
                return None;
            }
        };
        // Two that reserve at once have a block each; the lower one's rest is given up.
        let mut free = self.inner.producer_ids.free.lock();
        let mut block = until - BLOCK..until;
        let id = block.next();
        if block.start > free.start {
            *free = block;
        }
        id
    }
}
