package mainstem;

import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Runs one query of Nexmark over topics that end, several times in this JVM, and prints for each run a line of JSON: seconds by the
 * clock and of CPU, from the statement to the end of the job.
 *
 * <p>Arguments: bootstrap server, beginning of the topics' names, file of the query, state backend, directory for checkpoints, runs.
 */
public final class NexmarkJob {
    private static final Map<String, String> COLUMNS = Map.of(
            "person",
            "id BIGINT, name STRING, email_address STRING, credit_card STRING, city STRING, state STRING, "
                    + "date_time TIMESTAMP(3), extra STRING",
            "auction",
            "id BIGINT, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP(3), "
                    + "expires TIMESTAMP(3), seller BIGINT, category BIGINT, extra STRING",
            "bid",
            "auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time TIMESTAMP(3), "
                    + "extra STRING, p_time AS PROCTIME()");

    private NexmarkJob() {}

    public static void main(String[] arguments) throws Exception {
        String query = Files.readString(Path.of(arguments[2]));
        int runs = Integer.parseInt(arguments[5]);
        for (int run = 0; run < runs; run++) {
            TableEnvironment tables = environment(arguments[3], arguments[4]);
            for (String kind : COLUMNS.keySet()) {
                tables.executeSql(source(kind, arguments[0], arguments[1]));
            }
            long start = System.nanoTime();
            long cpu = cpu();
            tables.executeSql("CREATE TABLE answer WITH ('connector' = 'blackhole') AS " + query).await();
            double seconds = (System.nanoTime() - start) / 1e9;
            System.out.printf(
                    "{\"wall_s\": %.3f, \"cpu_s\": %.3f, \"rss_max_kb\": %d}%n", seconds, (cpu() - cpu) / 1e9, rssMax());
            System.out.flush();
        }
        System.exit(0);
    }

    private static TableEnvironment environment(String backend, String checkpoints) {
        Configuration settings = new Configuration();
        settings.setString("parallelism.default", "2");
        settings.setString("taskmanager.numberOfTaskSlots", "2");
        settings.setString("state.backend.type", backend);
        settings.setString("execution.checkpointing.incremental", "true");
        settings.setString("execution.checkpointing.interval", "1 s");
        settings.setString("execution.checkpointing.mode", "EXACTLY_ONCE");
        settings.setString("execution.checkpointing.storage", "filesystem");
        settings.setString("execution.checkpointing.dir", "file://" + checkpoints);
        settings.setString("pipeline.object-reuse", "true");
        // As in Nexmark's own guide.
        settings.setString("table.exec.mini-batch.enabled", "true");
        settings.setString("table.exec.mini-batch.allow-latency", "2 s");
        settings.setString("table.exec.mini-batch.size", "50000");
        settings.setString("table.optimizer.distinct-agg.split.enabled", "true");
        settings.setString("taskmanager.memory.managed.size", "1 gb");
        settings.setString("taskmanager.memory.network.min", "256 mb");
        settings.setString("taskmanager.memory.network.max", "256 mb");
        return TableEnvironment.create(
                EnvironmentSettings.newInstance().inStreamingMode().withConfiguration(settings).build());
    }

    private static String source(String kind, String bootstrap, String name) {
        return "CREATE TEMPORARY TABLE " + kind + " (" + COLUMNS.get(kind)
                + ", WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND) WITH ('connector' = 'kafka', 'topic' = '"
                + name + "-" + kind + "', 'properties.bootstrap.servers' = '" + bootstrap
                + "', 'properties.group.id' = 'bench', 'scan.startup.mode' = 'earliest-offset', "
                + "'scan.bounded.mode' = 'latest-offset', 'format' = 'json', "
                + "'json.timestamp-format.standard' = 'ISO-8601')";
    }

    private static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
                .getProcessCpuTime();
    }

    private static long rssMax() throws Exception {
        return Files.readAllLines(Path.of("/proc/self/status")).stream()
                .filter(line -> line.startsWith("VmHWM:"))
                .mapToLong(line -> Long.parseLong(line.replaceAll("[^0-9]", "")))
                .findFirst()
                .orElse(0);
    }
}
