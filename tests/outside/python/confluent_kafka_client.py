"""confluent-kafka (librdkafka) behind the contract of ../clients.py."""

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from contract import Log, Stop, arguments, fail, records


def produce(options):
    producer = Producer({
        "bootstrap.servers": options.bootstrap,
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": options.codec,
        "linger.ms": 20,
    })
    acknowledged = 0
    failures = []

    def delivered(error, _message):
        nonlocal acknowledged
        if error is None:
            acknowledged += 1
        else:
            failures.append(str(error))

    for partition, key, value in records(options, "confluent-kafka"):
        while True:
            try:
                producer.produce(options.topic, value, key, partition, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(60)
    if failures:
        fail(f"{len(failures)} not delivered, the first: {failures[0]}")
    print(f"acknowledged {acknowledged}")


def consume(options):
    log = Log(options.log)
    consumer = Consumer({
        "bootstrap.servers": options.bootstrap,
        "group.id": "not-a-member",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    })
    metadata = consumer.list_topics(options.topic, timeout=30).topics[options.topic]
    consumer.assign([TopicPartition(options.topic, partition, 0) for partition in metadata.partitions])
    left = options.count
    while left > 0:
        for message in consumer.consume(min(left, 5000), timeout=1):
            if message.error():
                fail(message.error())
            log.record(message.partition(), message.offset(), message.key(), message.value())
            left -= 1
    log.flush()
    consumer.close()


def consume_in_group(options):
    stop = Stop()
    log = Log(options.log)
    consumer = Consumer({
        "bootstrap.servers": options.bootstrap,
        "group.id": options.group,
        "session.timeout.ms": options.session_timeout_ms,
        "heartbeat.interval.ms": 1000,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
    })
    positions = {}

    def commit():
        log.flush()
        offsets = [TopicPartition(options.topic, p, o) for p, o in positions.items()]
        if offsets:
            for done in consumer.commit(offsets=offsets, asynchronous=False):
                if done.error:
                    raise KafkaException(done.error)
                log.committed(done.partition, done.offset)
        positions.clear()

    def assigned(_consumer, partitions):
        log.assigned(p.partition for p in partitions)

    def revoked(_consumer, _partitions):
        commit()

    consumer.subscribe([options.topic], on_assign=assigned, on_revoke=revoked)
    uncommitted = 0
    while not stop:
        for message in consumer.consume(50, timeout=0.2):
            if message.error():
                fail(message.error())
            log.record(message.partition(), message.offset(), message.key(), message.value())
            positions[message.partition()] = message.offset() + 1
            uncommitted += 1
        log.flush()
        if uncommitted >= options.commit_every:
            commit()
            uncommitted = 0
    consumer.close()
    log.flush()


OPTIONS = arguments()
if OPTIONS.command == "produce":
    produce(OPTIONS)
elif OPTIONS.group:
    consume_in_group(OPTIONS)
else:
    consume(OPTIONS)
