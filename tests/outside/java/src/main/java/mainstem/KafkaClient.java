package mainstem;

import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Apache Kafka's own client behind the contract of ../clients.py. */
public final class KafkaClient {
    private final Map<String, String> options;

    private KafkaClient(Map<String, String> options) {
        this.options = options;
    }

    public static void main(String[] words) throws Exception {
        Map<String, String> options = new HashMap<>(Map.of(
                "first", "0", "session-timeout-ms", "6000", "commit-every", "100", "log", "/dev/stdout"));
        for (int i = 1; i < words.length; i += 2) {
            options.put(words[i].substring(2), words[i + 1]);
        }
        KafkaClient client = new KafkaClient(options);
        switch (words[0]) {
            case "produce" -> client.produce();
            case "consume" -> {
                if (options.containsKey("group")) {
                    client.consumeInGroup();
                } else {
                    client.consume();
                }
            }
            default -> throw new IllegalArgumentException("unknown command " + words[0]);
        }
    }

    private int number(String option) {
        return Integer.parseInt(options.get(option));
    }

    /** Writes with the producer's defaults, which are acks=all and idempotence. */
    private void produce() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", options.get("bootstrap"));
        settings.put("compression.type", options.get("codec"));
        settings.put("linger.ms", "20");
        AtomicInteger acknowledged = new AtomicInteger();
        AtomicReference<Exception> failure = new AtomicReference<>();
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            int end = number("first") + number("count");
            for (int n = number("first"); n < end; n++) {
                int partition = n % number("partitions");
                String value = String.format("{\"client\": \"java\", \"run\": \"%s\", \"n\": %d, \"partition\": %d}",
                        options.get("run-id"), n, partition);
                producer.send(new ProducerRecord<>(options.get("topic"), partition, "k" + n, value), (metadata, error) -> {
                    if (error == null) {
                        acknowledged.incrementAndGet();
                    } else {
                        failure.compareAndSet(null, error);
                    }
                });
            }
            producer.flush();
        }
        if (failure.get() != null) {
            System.err.println(failure.get());
            System.exit(1);
        }
        System.out.println("acknowledged " + acknowledged.get());
    }

    private Properties consumerSettings() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", options.get("bootstrap"));
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        return settings;
    }

    private void consume() throws IOException {
        String topic = options.get("topic");
        try (OutputStream log = openLog();
                var consumer = new KafkaConsumer<>(consumerSettings(), new StringDeserializer(), new StringDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                    .map(info -> new TopicPartition(topic, info.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            int left = number("count");
            while (left > 0) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    if (left > 0) {
                        write(log, record);
                        left--;
                    }
                }
            }
        }
    }

    private OutputStream openLog() throws IOException {
        return new BufferedOutputStream(new FileOutputStream(options.get("log"), true), 1 << 16);
    }

    private static void write(OutputStream log, ConsumerRecord<String, String> record) throws IOException {
        line(log, "R", record.partition(), record.offset(), record.key(), record.value());
    }

    private static void line(OutputStream log, Object... fields) throws IOException {
        String text = java.util.Arrays.stream(fields).map(String::valueOf).collect(Collectors.joining("\t", "", "\n"));
        log.write(text.getBytes(StandardCharsets.UTF_8));
    }

    private void consumeInGroup() throws Exception {
        Properties settings = consumerSettings();
        settings.put("group.id", options.get("group"));
        settings.put("session.timeout.ms", options.get("session-timeout-ms"));
        settings.put("heartbeat.interval.ms", "1000");
        settings.put("max.poll.records", "50");
        try (OutputStream log = openLog();
                var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            Thread main = Thread.currentThread();
            Runtime.getRuntime().addShutdownHook(new Thread(() -> {
                consumer.wakeup();
                try {
                    main.join(5000);
                } catch (InterruptedException ignored) {
                    Thread.currentThread().interrupt();
                }
            }));
            new Member(consumer, log).run();
        }
    }

    /** One of a group. What is read is in the file before it is committed, also when partitions are taken away. */
    private final class Member implements ConsumerRebalanceListener {
        private final KafkaConsumer<String, String> consumer;
        private final OutputStream log;
        private final Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
        private int uncommitted;

        Member(KafkaConsumer<String, String> consumer, OutputStream log) {
            this.consumer = consumer;
            this.log = log;
        }

        void run() throws IOException {
            consumer.subscribe(List.of(options.get("topic")), this);
            try {
                while (true) {
                    for (var record : consumer.poll(Duration.ofMillis(200))) {
                        write(log, record);
                        positions.put(new TopicPartition(record.topic(), record.partition()),
                                new OffsetAndMetadata(record.offset() + 1));
                        uncommitted++;
                    }
                    log.flush();
                    if (uncommitted >= number("commit-every")) {
                        commit();
                    }
                }
            } catch (WakeupException stopped) {
                log.flush();
            }
        }

        private void commit() {
            try {
                log.flush();
                consumer.commitSync(positions);
                for (var position : positions.entrySet()) {
                    line(log, "C", position.getKey().partition(), position.getValue().offset());
                }
                log.flush();
            } catch (IOException error) {
                throw new java.io.UncheckedIOException(error);
            }
            positions.clear();
            uncommitted = 0;
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            if (!positions.isEmpty()) {
                commit();
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            String list = partitions.stream().map(p -> String.valueOf(p.partition())).sorted().collect(Collectors.joining(","));
            try {
                line(log, "A", list);
                log.flush();
            } catch (IOException error) {
                throw new java.io.UncheckedIOException(error);
            }
        }
    }
}
