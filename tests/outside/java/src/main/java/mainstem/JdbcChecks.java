package mainstem;

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

/** The PostgreSQL JDBC driver against a server. Each check is a method, called by name: one line "ok" when it holds. */
public final class JdbcChecks {
    private final Connection connection;

    private JdbcChecks(Connection connection) {
        this.connection = connection;
    }

    public static void main(String[] words) throws Exception {
        Properties settings = new Properties();
        settings.put("user", "root");
        settings.put("ApplicationName", "outside");
        try (Connection connection = DriverManager.getConnection("jdbc:postgresql://" + words[0] + "/dev", settings)) {
            JdbcChecks checks = new JdbcChecks(connection);
            switch (words[1]) {
                case "tables" -> checks.tables();
                case "columns" -> checks.columns();
                case "primary_keys" -> checks.primaryKeys();
                case "metadata" -> checks.metadata();
                case "prepared" -> checks.prepared();
                case "batch" -> checks.batch();
                case "transaction" -> checks.transaction();
                default -> throw new IllegalArgumentException("unknown check " + words[1]);
            }
        }
        System.out.println("ok");
    }

    private void execute(String... statements) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            for (String text : statements) {
                statement.execute(text);
            }
        }
    }

    private static void equal(Object expected, Object actual) {
        if (!expected.equals(actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }

    private void tables() throws SQLException {
        execute("CREATE TABLE jdbc_tables (id int PRIMARY KEY)",
                "CREATE MATERIALIZED VIEW jdbc_tables_count AS SELECT count(*) AS n FROM jdbc_tables");
        DatabaseMetaData metadata = connection.getMetaData();
        List<String> found = new ArrayList<>();
        try (ResultSet rows = metadata.getTables(null, "public", "jdbc_tables%", null)) {
            while (rows.next()) {
                found.add(rows.getString("TABLE_NAME") + " " + rows.getString("TABLE_TYPE"));
            }
        }
        found.sort(null);
        // Without types the driver names indexes too, as on PostgreSQL.
        equal(List.of("jdbc_tables TABLE", "jdbc_tables_count MATERIALIZED VIEW", "jdbc_tables_pkey INDEX"), found);
        try (ResultSet rows = metadata.getTables(null, "public", "jdbc_tables%", new String[] {"TABLE"})) {
            equal(true, rows.next());
            equal("jdbc_tables", rows.getString("TABLE_NAME"));
            equal(false, rows.next());
        }
    }

    private void columns() throws SQLException {
        execute("CREATE TABLE jdbc_columns (id bigint PRIMARY KEY, name varchar, price numeric, at timestamp, ok boolean,"
                + " f double precision, small int)");
        List<String> found = new ArrayList<>();
        try (ResultSet rows = connection.getMetaData().getColumns(null, "public", "jdbc_columns", "%")) {
            while (rows.next()) {
                found.add(rows.getInt("ORDINAL_POSITION") + " " + rows.getString("COLUMN_NAME") + " "
                        + rows.getString("TYPE_NAME"));
            }
        }
        equal(List.of("1 id int8", "2 name varchar", "3 price numeric", "4 at timestamp", "5 ok bool", "6 f float8",
                "7 small int4"), found);
    }

    private void primaryKeys() throws SQLException {
        execute("CREATE TABLE jdbc_keys (a int, b varchar, c int, PRIMARY KEY (b, a))");
        List<String> found = new ArrayList<>();
        try (ResultSet rows = connection.getMetaData().getPrimaryKeys(null, "public", "jdbc_keys")) {
            while (rows.next()) {
                found.add(rows.getString("COLUMN_NAME") + " " + rows.getInt("KEY_SEQ"));
            }
        }
        found.sort(null);
        equal(List.of("a 2", "b 1"), found);
    }

    private static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> found = new ArrayList<>();
        try (rows) {
            while (rows.next()) {
                found.add(rows.getString(name));
            }
        }
        return found;
    }

    /** What a tool asks when it opens a database: every question is answered, with what is there. */
    private void metadata() throws SQLException {
        execute("CREATE TABLE jdbc_meta (a int, b varchar, c int, PRIMARY KEY (b, a))",
                "CREATE VIEW jdbc_meta_view AS SELECT a FROM jdbc_meta",
                "CREATE MATERIALIZED VIEW jdbc_meta_kept AS SELECT count(*) AS n FROM jdbc_meta");
        DatabaseMetaData metadata = connection.getMetaData();
        equal(true, column(metadata.getSchemas(), "TABLE_SCHEM").contains("public"));
        equal(List.of("public"), column(metadata.getSchemas(null, "publ%"), "TABLE_SCHEM"));
        equal(true, column(metadata.getCatalogs(), "TABLE_CAT").contains("dev"));
        equal(true, column(metadata.getTableTypes(), "TABLE_TYPE").contains("MATERIALIZED VIEW"));
        equal(List.of("jdbc_meta_view"),
                column(metadata.getTables(null, "public", "jdbc_meta%", new String[] {"VIEW"}), "TABLE_NAME"));
        List<String> indexed = new ArrayList<>();
        try (ResultSet rows = metadata.getIndexInfo(null, "public", "jdbc_meta", false, true)) {
            while (rows.next()) {
                indexed.add(rows.getString("INDEX_NAME") + " " + rows.getBoolean("NON_UNIQUE") + " "
                        + rows.getInt("ORDINAL_POSITION") + " " + rows.getString("COLUMN_NAME"));
            }
        }
        equal(List.of("jdbc_meta_pkey false 1 b", "jdbc_meta_pkey false 2 a"), indexed);
        List<String> best = column(metadata.getBestRowIdentifier(null, "public", "jdbc_meta", 0, true), "COLUMN_NAME");
        best.sort(null);
        equal(List.of("a", "b"), best);
        List<String> none = List.of();
        equal(none, column(metadata.getFunctions(null, "public", "%"), "FUNCTION_NAME"));
        equal(none, column(metadata.getProcedures(null, "public", "%"), "PROCEDURE_NAME"));
        metadata.getClientInfoProperties().close();
        equal("PostgreSQL", metadata.getDatabaseProductName());
        equal(true, metadata.getMaxConnections() >= 0);
        equal(false, metadata.getSQLKeywords().isEmpty());
        // The columns of a result know where they come from only by their names and types.
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT a, b AS x FROM jdbc_meta")) {
            equal("int4 varchar", rows.getMetaData().getColumnTypeName(1) + " " + rows.getMetaData().getColumnTypeName(2));
            equal("x", rows.getMetaData().getColumnLabel(2));
        }
    }

    /** Ten executions: the driver changes to a named statement and to binary results after the fifth. */
    private void prepared() throws SQLException {
        execute("CREATE TABLE jdbc_prepared (id bigint PRIMARY KEY, name varchar, price numeric, at timestamp, ok boolean,"
                + " f double precision)");
        LocalDateTime at = LocalDateTime.of(2013, 7, 1, 12, 30, 15, 123456000);
        try (PreparedStatement insert = connection.prepareStatement(
                "INSERT INTO jdbc_prepared VALUES (?, ?, ?, ?, ?, ?)")) {
            for (int i = 0; i < 10; i++) {
                insert.setLong(1, (1L << 53) + i);
                insert.setString(2, "näme " + i);
                insert.setBigDecimal(3, new BigDecimal("12.34").add(BigDecimal.valueOf(i)));
                insert.setTimestamp(4, Timestamp.valueOf(at.plusSeconds(i)));
                insert.setBoolean(5, i % 2 == 0);
                insert.setDouble(6, i / 4.0);
                equal(1, insert.executeUpdate());
            }
        }
        try (PreparedStatement select = connection.prepareStatement(
                "SELECT name, price, at, ok, f FROM jdbc_prepared WHERE id = ?")) {
            for (int i = 0; i < 10; i++) {
                select.setLong(1, (1L << 53) + i);
                try (ResultSet rows = select.executeQuery()) {
                    equal(true, rows.next());
                    equal("näme " + i, rows.getString(1));
                    equal(0, new BigDecimal("12.34").add(BigDecimal.valueOf(i)).compareTo(rows.getBigDecimal(2)));
                    equal(Timestamp.valueOf(at.plusSeconds(i)), rows.getTimestamp(3));
                    equal(i % 2 == 0, rows.getBoolean(4));
                    equal(i / 4.0, rows.getDouble(5));
                    equal(false, rows.next());
                }
            }
        }
        try (PreparedStatement missing = connection.prepareStatement("SELECT id FROM jdbc_prepared WHERE name = ?")) {
            missing.setNull(1, java.sql.Types.VARCHAR);
            try (ResultSet rows = missing.executeQuery()) {
                equal(false, rows.next());
            }
        }
    }

    private void batch() throws SQLException {
        execute("CREATE TABLE jdbc_batch (id int PRIMARY KEY, name varchar)");
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO jdbc_batch VALUES (?, ?)")) {
            for (int i = 0; i < 100; i++) {
                insert.setInt(1, i);
                insert.setString(2, "n" + i);
                insert.addBatch();
            }
            equal(100, insert.executeBatch().length);
        }
        connection.commit();
        connection.setAutoCommit(true);
        equal(100L, count("jdbc_batch"));
    }

    private void transaction() throws SQLException {
        execute("CREATE TABLE jdbc_transaction (id int PRIMARY KEY)");
        connection.setAutoCommit(false);
        execute("INSERT INTO jdbc_transaction VALUES (1), (2)");
        equal(2L, count("jdbc_transaction"));
        connection.rollback();
        equal(0L, count("jdbc_transaction"));
        connection.rollback();
        try {
            execute("SELECT * FROM there_is_no_such_table");
            throw new AssertionError("a SELECT from a table that does not exist succeeded");
        } catch (SQLException error) {
            equal("42P01", error.getSQLState());
        }
        connection.rollback();
        connection.setAutoCommit(true);
        execute("INSERT INTO jdbc_transaction VALUES (3)");
        equal(1L, count("jdbc_transaction"));
    }

    private long count(String table) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT count(*) FROM " + table)) {
            equal(true, rows.next());
            return rows.getLong(1);
        }
    }
}
