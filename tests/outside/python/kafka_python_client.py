"""kafka-python (no C) behind the contract of ../clients.py."""

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from contract import Log, Stop, arguments, fail, records


def produce(options):
    producer = KafkaProducer(
        bootstrap_servers=options.bootstrap,
        enable_idempotence=True,
        acks="all",
        compression_type=None if options.codec == "none" else options.codec,
        linger_ms=20,
        batch_size=131072,
    )
    futures = [
        producer.send(options.topic, key=key, value=value, partition=partition)
        for partition, key, value in records(options, "kafka-python")
    ]
    producer.flush(60)
    failed = [future.exception for future in futures if not future.succeeded()]
    if failed:
        fail(f"{len(failed)} not delivered, the first: {failed[0]!r}")
    print(f"acknowledged {len(futures)}")
    producer.close()


def consume(options):
    log = Log(options.log)
    consumer = KafkaConsumer(bootstrap_servers=options.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    partitions = [TopicPartition(options.topic, p) for p in sorted(consumer.partitions_for_topic(options.topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    left = options.count
    while left > 0:
        for messages in consumer.poll(timeout_ms=1000, max_records=min(left, 5000)).values():
            for message in messages:
                log.record(message.partition, message.offset, message.key, message.value)
                left -= 1
    log.flush()
    consumer.close()


class Assignments(ConsumerRebalanceListener):
    """Partitions are taken away within `poll` only, when all that was read is committed."""

    def __init__(self, log):
        self.log = log

    def on_partitions_revoked(self, revoked):
        pass

    def on_partitions_assigned(self, assigned):
        self.log.assigned(p.partition for p in assigned)


def consume_in_group(options):
    stop = Stop()
    log = Log(options.log)
    consumer = KafkaConsumer(
        bootstrap_servers=options.bootstrap,
        group_id=options.group,
        session_timeout_ms=options.session_timeout_ms,
        heartbeat_interval_ms=1000,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    consumer.subscribe([options.topic], listener=Assignments(log))
    while not stop:
        positions = {}
        for partition, messages in consumer.poll(timeout_ms=200, max_records=options.commit_every).items():
            for message in messages:
                log.record(message.partition, message.offset, message.key, message.value)
                positions[partition] = OffsetAndMetadata(message.offset + 1, "", -1)
        log.flush()
        if positions:
            consumer.commit(positions)
        for partition, position in positions.items():
            log.committed(partition.partition, position.offset)
    consumer.close(autocommit=False)


OPTIONS = arguments()
if OPTIONS.command == "produce":
    produce(OPTIONS)
elif OPTIONS.group:
    consume_in_group(OPTIONS)
else:
    consume(OPTIONS)
