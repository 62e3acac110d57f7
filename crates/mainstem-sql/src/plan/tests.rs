//! Plans of views as text, and what is refused.

mod joins;
mod over;
mod subqueries;
mod temporal;

use expect_test::{Expect, expect};
use mainstem_catalog::{
    CATALOG_TOPIC_ID, Catalog, Column, Encoding, Event, Relation, RelationKind, SourceDefinition, SqlType,
    TableDefinition, ViewDefinition, Watermark,
};

use super::*;
use crate::parse::parse;
use crate::statement::{ColumnDefinition, Statement, WatermarkClause};

const DDL: &str = "
    CREATE SOURCE flights (carrier varchar, origin varchar, delay int, air_time double precision, ts timestamptz,
        tags varchar[], info jsonb, WATERMARK FOR ts AS ts - INTERVAL '5 minutes')
        WITH (topic = 'flights') FORMAT PLAIN ENCODE JSON;
    CREATE SOURCE clicks (id bigint, at timestamp, page varchar) WITH (topic = 'c') FORMAT PLAIN ENCODE JSON;
    CREATE TABLE airlines (carrier varchar PRIMARY KEY, name varchar, rank int);
    CREATE TABLE notes (body varchar, price numeric(12, 2), WATERMARK FOR t AS t, t timestamp);
    CREATE VIEW late AS SELECT carrier AS c, delay FROM flights WHERE delay > 15;
    CREATE MATERIALIZED VIEW by_carrier AS SELECT carrier, count(*) AS n FROM flights GROUP BY carrier;
";

/// A catalog in which these statements were run.
pub(crate) fn catalog(ddl: &str) -> Catalog {
    let mut catalog = Catalog::default();
    for statement in parse(ddl).expect("DDL parses") {
        let relation = relation(&catalog, statement);
        catalog.apply(&Event::RelationCreated { relation: Box::new(relation) }).expect("new relation");
    }
    catalog
}

fn relation(catalog: &Catalog, statement: Statement) -> Relation {
    let column = |c: ColumnDefinition| Column {
        name: c.name,
        sql_type: c.sql_type,
        nullable: !c.not_null,
        hidden: false,
        default: c.default,
    };
    let mark = |columns: &[Column], clause: Option<WatermarkClause>| {
        clause.map(|clause| {
            let column = columns.iter().position(|column| column.name == clause.column).expect("checked");
            Watermark { lateness_us: clause.lateness_us, ..Watermark::new(column, clause.delay_us) }
        })
    };
    let (name, columns, kind, depends_on) = match statement {
        Statement::CreateSource(source) => {
            let columns: Vec<_> = source.columns.into_iter().map(column).collect();
            let watermark = mark(&columns, source.watermark);
            let definition = SourceDefinition {
                topic: CATALOG_TOPIC_ID,
                topic_name: source.topic,
                encoding: Encoding::PlainJson,
                includes: vec![],
                watermark,
            };
            (source.name, columns, RelationKind::Source(definition), vec![])
        }
        Statement::CreateTable(table) => {
            let mut columns: Vec<_> = table.columns.into_iter().map(column).collect();
            let watermark = mark(&columns, table.watermark);
            if table.primary_key.is_empty() {
                let name = "_row_id".to_owned();
                columns.push(Column { name, sql_type: SqlType::BigInt, nullable: false, hidden: true, default: None });
            }
            let definition = TableDefinition {
                topic: CATALOG_TOPIC_ID,
                topic_name: table.name.name.clone(),
                primary_key: table.primary_key,
                watermark,
            };
            (table.name, columns, RelationKind::Table(definition), vec![])
        }
        Statement::CreateView(view) => {
            let plan = plan_query(catalog, &view.query, &view.columns).expect("view plans");
            let definition = ViewDefinition {
                query: plan.canonical_query,
                emit_on_window_close: false,
                graph: None,
                settings: vec![],
                origin: vec![],
            };
            (view.name, plan.columns, RelationKind::View(definition), plan.depends_on)
        }
        Statement::CreateMaterializedView(view) => {
            let plan = plan_view(catalog, &view.query, &view.columns, view.emit()).expect("view plans");
            let definition = ViewDefinition {
                query: plan.canonical_query,
                emit_on_window_close: view.emit_on_window_close,
                graph: Some(plan.graph.to_json()),
                settings: vec![],
                origin: vec![],
            };
            (view.name, plan.columns, RelationKind::MaterializedView(definition), plan.depends_on)
        }
        other => panic!("{other:?}"),
    };
    let (id, schema, sql) = (catalog.next_relation_id(), "public".to_owned(), String::new());
    Relation { id, schema, name: name.name, columns, kind, depends_on, sql }
}

fn plan(sql: &str) -> Result<(Catalog, ViewPlan), SqlError> {
    let catalog = catalog(DDL);
    let (emit, query) = match parse(&format!("CREATE MATERIALIZED VIEW v AS {sql}"))?.pop() {
        Some(Statement::CreateMaterializedView(view)) => (view.emit(), view.query),
        other => panic!("{other:?}"),
    };
    let plan = plan_view(&catalog, &query, &[], emit)?;
    // What is stored is read back equal, and means the same under its canonical text.
    let read = Graph::from_json(&serde_json::from_str(&plan.graph.to_json().to_string()).expect("JSON"))?;
    assert_eq!(read, plan.graph);
    let again = parse_query_text(&plan.canonical_query);
    assert_eq!(nameless(plan_view(&catalog, &again, &[], emit)?.graph), nameless(plan.graph.clone()));
    let types: Vec<_> = plan.graph.output_schema()?.fields().iter().map(|field| field.data_type().clone()).collect();
    let wanted: Vec<_> = plan.columns.iter().map(|column| arrow_type(&column.sql_type)).collect();
    assert_eq!(types, wanted, "the graph gives the view's types");
    Ok((catalog, plan))
}

/// Inner names are for people; they differ with the spelling of names in the query.
fn nameless(mut graph: Graph) -> Graph {
    graph.nodes.iter_mut().flat_map(|node| &mut node.schema).for_each(|field| field.name.clear());
    graph
}

fn parse_query_text(sql: &str) -> Box<Query> {
    crate::parse::parse_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn check_plan(sql: &str, expected: Expect) {
    let (catalog, plan) = plan(sql).unwrap_or_else(|error| panic!("{sql}: {error} {error:?}"));
    let name = |id| catalog.relation(id).map_or_else(|| "?".to_owned(), |relation| relation.name.clone());
    let columns: Vec<_> = plan.columns.iter().map(|c| format!("{} {}", c.name, c.sql_type)).collect();
    let text = format!("({})\n{}\n", columns.join(", "), plan.graph.explain(&name).join("\n"));
    expected.assert_eq(&text);
}

fn check_error(sql: &str, expected: Expect) {
    match plan(sql) {
        Ok((_, plan)) => panic!("{sql} was planned: {plan:?}"),
        Err(error) => expected.assert_eq(&format!("{}: {}", error.sqlstate, error.message)),
    }
}

#[test]
fn filters_and_projections() {
    check_plan(
        "SELECT carrier, delay * 2 AS twice FROM flights WHERE delay > 10 AND origin LIKE 'J%'",
        expect![[r#"
        (carrier character varying, twice bigint)
        Project carrier, (CAST(delay AS Int64) * 2) AS twice [append only]
          Filter ((delay > 10) AND (origin LIKE 'J%')) [append only]
            Input flights (carrier, origin, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT * FROM flights",
        expect![[r#"
        (carrier character varying, origin character varying, delay integer, air_time double precision, ts timestamp with time zone, tags character varying[], info jsonb)
        Input flights (carrier, origin, delay, air_time, ts, tags, info) [append only]
    "#]],
    );
    check_plan(
        "SELECT upper(carrier) u, CASE WHEN delay > 0 THEN 'late' ELSE 'fine' END FROM flights",
        expect![[r#"
        (u character varying, case character varying)
        Project upper(carrier) AS u, CASE WHEN (delay > 0) THEN 'late' ELSE 'fine' END AS case [append only]
          Input flights (carrier, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT body, price * 2 FROM notes ORDER BY body",
        expect![[r#"
            (body character varying, ?column? numeric(33,2))
            Project body, (price * 2) AS ?column?
              Input notes (body, price)
        "#]],
    );
    check_plan(
        "SELECT 1 AS one, 'x' AS x",
        expect![[r#"
        (one bigint, x character varying)
        Project 1 AS one, 'x' AS x [append only]
          Constant 1 rows () [append only]
    "#]],
    );
    check_plan(
        "SELECT * FROM (VALUES (1, 'a'), (2, NULL)) AS v (n, s)",
        expect![[r#"
        (n bigint, s character varying)
        Constant 2 rows (n, s) [append only]
    "#]],
    );
    check_plan(
        "SELECT c, delay FROM late WHERE c = 'UA'",
        expect![[r#"
        (c character varying, delay integer)
        Filter ((delay > 15) AND (carrier = 'UA')) [append only]
          Input flights (carrier, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT n FROM by_carrier WHERE n > 3",
        expect![[r#"
        (n bigint)
        Filter (n > 3)
          Input by_carrier (n)
    "#]],
    );
    check_plan(
        "SELECT carrier, unnest(tags) AS tag FROM flights",
        expect![[r#"
        (carrier character varying, tag character varying)
        Unnest tags [append only]
          Input flights (carrier, tags) [append only]
    "#]],
    );
    check_plan(
        "SELECT at::date AS d, at::timestamptz AS z, id::numeric(20, 3) AS m FROM clicks",
        expect![[r#"
        (d date, z timestamp with time zone, m numeric(20,3))
        Project CAST(at AS Date32) AS d, CAST(at AS Timestamp(µs, "UTC")) AS z, CAST(id AS Decimal128(20, 3)) AS m [append only]
          Input clicks (id, at) [append only]
    "#]],
    );
}

#[test]
fn an_expression_that_is_grouped_by_twice_is_one_key() {
    check_plan(
        "SELECT delay AS a, delay AS b, count(*) AS n FROM flights GROUP BY 1, 2",
        expect![[r#"
        (a integer, b integer, n bigint)
        Project delay AS a, delay AS b, count(Int64(1)) AS n
          Aggregate by (delay): count(*)
            Input flights (delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT delay + 1 AS a, sum(air_time) AS s FROM flights GROUP BY delay + 1, a",
        expect![[r#"
        (a bigint, s double precision)
        Aggregate by ((CAST(delay AS Int64) + 1)): sum(air_time)
          Input flights (delay, air_time) [append only]
    "#]],
    );
}

#[test]
fn sessions_and_cumulated_windows() {
    check_plan(
        "SELECT carrier, window_start, window_end, count(*) FROM session(flights, ts, INTERVAL '1 hour', PARTITION BY carrier)
         GROUP BY carrier, window_start, window_end",
        expect![[r#"
            (carrier character varying, window_start timestamp with time zone, window_end timestamp with time zone, count bigint)
            Aggregate by (carrier, window_start, window_end): count(*)
              Project carrier, min(c.__session_time) PARTITION BY [c.__session_key0, c.__session] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS window_start, window_end(max(c.__session_time) PARTITION BY [c.__session_key0, c.__session] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING, 3600000000) AS window_end
                Over (__session_key0, __session) by (): min(__session_time) ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING, max(__session_time) ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING [computes touched partitions again]
                  Project carrier, __session_time, __session_key0, sum(b.__session_begin) PARTITION BY [b.__session_key0] ORDER BY [b.__session_time ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW AS __session
                    Over (__session_key0) by (__session_time ASC NULLS LAST): sum(__session_begin) RANGE UNBOUNDED PRECEDING TO CURRENT ROW
                      Project carrier, __session_time, __session_key0, CASE WHEN (__session_time <= window_end(lag(a.__session_time) PARTITION BY [a.__session_key0] ORDER BY [a.__session_time ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW, 3600000000)) THEN 0 ELSE 1 END AS __session_begin
                        Over (__session_key0) by (__session_time ASC NULLS LAST): lag(__session_time) RANGE UNBOUNDED PRECEDING TO CURRENT ROW
                          Project carrier, ts AS __session_time, carrier AS __session_key0 [append only]
                            Filter (ts IS NOT NULL) [append only]
                              Input flights (carrier, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT window_start, window_end, count(*) FROM cumulate(flights, ts, INTERVAL '10 minutes', INTERVAL '1 hour')
         GROUP BY window_start, window_end",
        expect![[r#"
            (window_start timestamp with time zone, window_end timestamp with time zone, count bigint)
            Aggregate by (window_start, window_end): count(*)
              Unnest window_end [append only]
                Project tumble_start(ts, 3600000000, 0) AS window_start, cumulate_ends(ts, 600000000, 3600000000, 0) AS window_end [append only]
                  Filter (ts IS NOT NULL) [append only]
                    Input flights (ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT * FROM session(clicks, at, INTERVAL '1 hour') AS s",
        expect![[r#"
        (id bigint, at timestamp without time zone, page character varying, window_start timestamp without time zone, window_end timestamp without time zone)
        Project id, at, page, min(c.__session_time) PARTITION BY [c.__session] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS window_start, window_end(max(c.__session_time) PARTITION BY [c.__session] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING, 3600000000) AS window_end
          Over (__session) by (): min(__session_time) ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING, max(__session_time) ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING [computes touched partitions again]
            Project id, at, page, __session_time, sum(b.__session_begin) ORDER BY [b.__session_time ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW AS __session
              Over () by (__session_time ASC NULLS LAST): sum(__session_begin) RANGE UNBOUNDED PRECEDING TO CURRENT ROW
                Project id, at, page, __session_time, CASE WHEN (__session_time <= window_end(lag(a.__session_time) ORDER BY [a.__session_time ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW, 3600000000)) THEN 0 ELSE 1 END AS __session_begin
                  Over () by (__session_time ASC NULLS LAST): lag(__session_time) RANGE UNBOUNDED PRECEDING TO CURRENT ROW
                    Project id, at, page, at AS __session_time [append only]
                      Filter (at IS NOT NULL) [append only]
                        Input clicks (id, at, page) [append only]
    "#]],
    );
}

#[test]
fn a_graph_of_version_1_is_read() {
    let (_, plan) = plan("SELECT carrier, sum(delay) AS s FROM flights GROUP BY carrier").expect("plans");
    let mut json = plan.graph.to_json();
    json["version"] = serde_json::json!(1);
    // As the first version wrote an aggregate: nothing of orders and nulls.
    let aggregate = &json["nodes"][1]["operator"]["aggregate"]["aggregates"][0];
    let names: Vec<&String> = aggregate.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["arguments", "distinct", "filter", "function", "result"]);
    let read = Graph::from_json(&json).expect("an older graph");
    assert_eq!((read.version, &read.nodes), (1, &plan.graph.nodes));
}

#[test]
fn series() {
    check_plan(
        "SELECT n, n * 2 AS twice FROM generate_series(1, 3) AS n",
        expect![[r#"
        (n bigint, twice bigint)
        Project __unnest_placeholder(make_array(Int64(1),Int64(2),Int64(3)),depth=1) AS n, (__unnest_placeholder(make_array(Int64(1),Int64(2),Int64(3)),depth=1) * 2) AS twice [append only]
          Unnest __unnest_placeholder(make_array(Int64(1),Int64(2),Int64(3))) [append only]
            Project [1, 2, 3] AS __unnest_placeholder(make_array(Int64(1),Int64(2),Int64(3))) [append only]
              Constant 1 rows () [append only]
    "#]],
    );
    check_plan(
        "SELECT generate_series AS n FROM generate_series(9, 1, -4)",
        expect![[r#"
        (n bigint)
        Unnest __unnest_placeholder(make_array(Int64(9),Int64(5),Int64(1))) [append only]
          Project [9, 5, 1] AS __unnest_placeholder(make_array(Int64(9),Int64(5),Int64(1))) [append only]
            Constant 1 rows () [append only]
    "#]],
    );
    check_plan(
        "SELECT s.i FROM generate_series(5, 1) AS s(i)",
        expect![[r#"
        (i bigint)
        Constant 0 rows (i) [append only]
    "#]],
    );
}

#[test]
fn aggregates() {
    check_plan(
        "SELECT carrier, count(*), count(delay) AS c, sum(delay), avg(delay), min(ts), max(air_time) FROM flights GROUP BY 1",
        expect![[r#"
            (carrier character varying, count bigint, c bigint, sum bigint, avg double precision, min timestamp with time zone, max double precision)
            Aggregate by (carrier): count(*), count(delay), sum(CAST(delay AS Int64)), avg(CAST(delay AS Float64)), min(ts), max(air_time)
              Input flights (carrier, delay, air_time, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT count(*) AS n FROM flights",
        expect![[r#"
        (n bigint)
        Aggregate by (): count(*)
          Input flights () [append only]
    "#]],
    );
    check_plan(
        "SELECT upper(origin) AS o, count(DISTINCT carrier) AS c, sum(DISTINCT delay) AS s FROM flights
         GROUP BY upper(origin) HAVING count(*) > 2",
        expect![[r#"
            (o character varying, c bigint, s bigint)
            Project upper(flights.origin) AS o, count(DISTINCT flights.carrier) AS c, sum(DISTINCT flights.delay) AS s
              Filter (count(Int64(1)) > 2)
                Aggregate by (upper(origin)): count(DISTINCT carrier), sum(DISTINCT CAST(delay AS Int64)), count(*)
                  Input flights (carrier, origin, delay) [append only]
        "#]],
    );
    check_plan(
        "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY delay) AS p95,
                percentile_cont(0.9) WITHIN GROUP (ORDER BY air_time DESC) AS q, median(delay) AS m,
                bool_and(delay > 0) AS a, bool_or(delay > 0) AS b FROM flights",
        expect![[r#"
            (p95 double precision, q double precision, m double precision, a boolean, b boolean)
            Aggregate by (): percentile_cont(CAST(delay AS Float64), 0.95), percentile_cont(air_time, 0.09999999999999998), median(CAST(delay AS Float64)), bool_and((delay > 0)), bool_or((delay > 0))
              Input flights (delay, air_time) [append only]
        "#]],
    );
    check_plan(
        "SELECT origin, count(*) FILTER (WHERE delay > 15) AS late FROM flights GROUP BY origin",
        expect![[r#"
        (origin character varying, late bigint)
        Aggregate by (origin): count(*) FILTER (delay > 15)
          Input flights (origin, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT sum(price) AS s, avg(price) AS a FROM notes",
        expect![[r#"
        (s numeric(22,2), a numeric(16,6))
        Aggregate by (): sum(price), avg(price)
          Input notes (price)
    "#]],
    );
    check_plan(
        "SELECT DISTINCT carrier, origin FROM flights",
        expect![[r#"
        (carrier character varying, origin character varying)
        Distinct [append only]
          Input flights (carrier, origin) [append only]
    "#]],
    );
}

#[test]
fn unions_and_limits() {
    check_plan(
        "SELECT carrier FROM flights UNION ALL SELECT name FROM airlines",
        expect![[r#"
        (carrier character varying)
        Union
          Input flights (carrier) [append only]
          Input airlines (name)
    "#]],
    );
    check_plan(
        "SELECT delay FROM flights UNION SELECT id FROM clicks",
        expect![[r#"
        (delay bigint)
        Distinct [append only]
          Union [append only]
            Project CAST(delay AS Int64) AS delay [append only]
              Input flights (delay) [append only]
            Input clicks (id) [append only]
    "#]],
    );
    check_plan(
        "SELECT carrier, delay FROM flights ORDER BY delay DESC LIMIT 10 OFFSET 2",
        expect![[r#"
        (carrier character varying, delay integer)
        TopN limit 10 offset 2 by delay DESC NULLS FIRST
          Input flights (carrier, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT carrier FROM flights ORDER BY delay DESC, carrier LIMIT 3",
        expect![[r#"
        (carrier character varying)
        Project carrier
          TopN limit 3 offset 0 by delay DESC NULLS FIRST, carrier ASC NULLS LAST
            Input flights (carrier, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT count(*) AS n FROM (SELECT delay FROM flights ORDER BY delay LIMIT 5) t",
        expect![[r#"
        (n bigint)
        Aggregate by (): count(*)
          Project 
            TopN limit 5 offset 0 by delay ASC NULLS LAST
              Input flights (delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT carrier FROM airlines LIMIT 1",
        expect![[r#"
            (carrier character varying)
            TopN limit 1 offset 0 by the whole row
              Input airlines (carrier)
        "#]],
    );
    check_plan(
        "SELECT carrier FROM airlines INTERSECT SELECT carrier FROM flights",
        expect![[r#"
        (carrier character varying)
        Project carrier
          Join Inner on carrier IS NOT DISTINCT FROM carrier
            Distinct
              Input airlines (carrier)
            Distinct [append only]
              Input flights (carrier) [append only]
    "#]],
    );
    check_plan(
        "WITH t AS (SELECT carrier, sum(delay) s FROM flights GROUP BY 1) SELECT * FROM t WHERE s > 1",
        expect![[r#"
            (carrier character varying, s bigint)
            Filter (sum(flights.delay) > 1)
              Aggregate by (carrier): sum(CAST(delay AS Int64))
                Input flights (carrier, delay) [append only]
        "#]],
    );
}

#[test]
fn windows() {
    check_plan(
        "SELECT origin, window_start, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour')
         GROUP BY origin, window_start",
        expect![[r#"
            (origin character varying, window_start timestamp with time zone, n bigint)
            Aggregate by (origin, window_start): count(*)
              Project origin, tumble_start(ts, 3600000000, 0) AS window_start [append only]
                Filter (ts IS NOT NULL) [append only]
                  Input flights (origin, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT window_start, window_end, max(id) AS m FROM hop(clicks, at, INTERVAL '10' MINUTE, INTERVAL '1' HOUR) h
         GROUP BY window_start, window_end",
        expect![[r#"
            (window_start timestamp without time zone, window_end timestamp without time zone, m bigint)
            Aggregate by (window_start, window_end): max(id)
              Project id, window_start, window_end(window_start, 3600000000) AS window_end [append only]
                Unnest window_start [append only]
                  Project id, hop_starts(at, 600000000, 3600000000, 0) AS window_start [append only]
                    Filter (at IS NOT NULL) [append only]
                      Input clicks (id, at) [append only]
        "#]],
    );
    check_plan(
        "WITH j AS (SELECT carrier, ts AS t FROM flights WHERE origin = 'JFK')
         SELECT window_end, count(*) AS n FROM TABLE(TUMBLE(TABLE j, DESCRIPTOR(t), INTERVAL '1' DAY, INTERVAL '1' HOUR))
         GROUP BY window_end",
        expect![[r#"
            (window_end timestamp with time zone, n bigint)
            Aggregate by (window_end): count(*)
              Project window_end(tumble_start(ts, 86400000000, 3600000000), 86400000000) AS window_end [append only]
                Filter ((origin = 'JFK') AND (ts IS NOT NULL)) [append only]
                  Input flights (origin, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT * FROM tumble(clicks, at, SIZE => INTERVAL '1 minute') c WHERE c.id > 1",
        expect![[r#"
        (id bigint, at timestamp without time zone, page character varying, window_start timestamp without time zone, window_end timestamp without time zone)
        Project id, at, page, tumble_start(at, 60000000, 0) AS window_start, window_end(tumble_start(at, 60000000, 0), 60000000) AS window_end [append only]
          Filter ((at IS NOT NULL) AND (id > 1)) [append only]
            Input clicks (id, at, page) [append only]
    "#]],
    );
}

#[test]
fn emit_on_window_close() {
    check_plan(
        "SELECT origin, window_end, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour')
         GROUP BY origin, window_end EMIT ON WINDOW CLOSE",
        expect![[r#"
            (origin character varying, window_end timestamp with time zone, n bigint)
            EmitOnClose window_end [append only]
              Aggregate by (origin, window_end): count(*) [forgets]
                Project origin, window_end(tumble_start(ts, 3600000000, 0), 3600000000) AS window_end [append only]
                  Filter (ts IS NOT NULL) [append only]
                    DropLate [append only]
                      Input flights (origin, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT window_start, avg(delay) AS a FROM hop(flights, ts, INTERVAL '5 minutes', INTERVAL '1 hour')
         WHERE delay > 0 GROUP BY window_start EMIT ON WINDOW CLOSE",
        expect![[r#"
            (window_start timestamp with time zone, a double precision)
            Project window_start, avg(flights.delay) AS a [append only]
              EmitOnClose window_end [append only]
                Aggregate by (window_start, window_end(window_start, 3600000000)): avg(CAST(delay AS Float64)) [forgets]
                  Unnest window_start [append only]
                    Project delay, hop_starts(ts, 300000000, 3600000000, 0) AS window_start [append only]
                      Filter ((ts IS NOT NULL) AND (delay > 0)) [append only]
                        DropLate [append only]
                          Input flights (delay, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT a.name, w.n FROM (SELECT carrier, window_end, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour')
         GROUP BY carrier, window_end) w JOIN airlines a ON a.carrier = w.carrier EMIT ON WINDOW CLOSE",
        expect![[r#"
            (name character varying, n bigint)
            Project name, n
              Join Inner on carrier = carrier
                Project carrier, count(Int64(1)) AS n [append only]
                  EmitOnClose window_end [append only]
                    Aggregate by (carrier, window_end): count(*) [forgets]
                      Project carrier, window_end(tumble_start(ts, 3600000000, 0), 3600000000) AS window_end [append only]
                        Filter (ts IS NOT NULL) [append only]
                          DropLate [append only]
                            Input flights (carrier, ts) [append only]
                Input airlines (carrier, name)
        "#]],
    );
    check_error(
        "SELECT a.window_end, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour') a JOIN flights b ON a.carrier = b.carrier
         GROUP BY a.window_end EMIT ON WINDOW CLOSE",
        expect![
            "42P17: EMIT ON WINDOW CLOSE over a join of two streams needs a condition that bounds the times of both sides"
        ],
    );
    check_error(
        "SELECT carrier, count(*) FROM flights GROUP BY carrier EMIT ON WINDOW CLOSE",
        expect![
            "42P17: EMIT ON WINDOW CLOSE needs a GROUP BY of window_end (or window_start) of tumble(), hop() or cumulate() over the watermark column of a source"
        ],
    );
    check_error(
        "SELECT window_end, count(*) FROM tumble(clicks, at, INTERVAL '1 hour') GROUP BY 1 EMIT ON WINDOW CLOSE",
        expect![
            "42P17: EMIT ON WINDOW CLOSE needs a GROUP BY of window_end (or window_start) of tumble(), hop() or cumulate() over the watermark column of a source"
        ],
    );
    check_error(
        "SELECT window_end, count(*) FROM tumble(notes, t, INTERVAL '1 hour') GROUP BY 1 EMIT ON WINDOW CLOSE",
        expect![[r#"0A000: EMIT ON WINDOW CLOSE over table "notes" is not supported"#]],
    );
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    check_error(
        "SELECT approx_distinct(delay) FROM flights",
        expect!["0A000: aggregate function approx_distinct() is not incremental yet"],
    );
    check_error(
        "SELECT string_agg(carrier, origin) FROM flights",
        expect!["22023: the delimiter of string_agg() must be a constant in a materialized view"],
    );
    check_error(
        "SELECT sum(random()) OVER (ORDER BY delay) FROM flights",
        expect!["42P17: function random() is not allowed in a materialized view: its result differs from call to call"],
    );
    check_error(
        "SELECT now() AS t FROM flights",
        expect!["42P17: function now() is not allowed in a materialized view: its result depends on when it is called"],
    );
    check_error(
        "SELECT random() AS r FROM flights",
        expect!["42P17: function random() is not allowed in a materialized view: its result differs from call to call"],
    );
    check_error(
        "SELECT current_date AS d FROM flights",
        expect![
            "42P17: function current_date() is not allowed in a materialized view: its result depends on when it is called"
        ],
    );
    check_error(
        "SELECT uuid() AS u FROM flights",
        expect!["42P17: function uuid() is not allowed in a materialized view: its result differs from call to call"],
    );
    check_error(
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
        expect!["0A000: WITH RECURSIVE is not incremental yet"],
    );
    check_error(
        "SELECT * FROM generate_series(1, 1000000000)",
        expect!["22023: generate_series() in a view gives 1000000000 rows, at most 10000 are possible"],
    );
    check_error("SELECT * FROM generate_series(1, 5, 0)", expect!["22023: step size cannot equal zero"]);
    check_error(
        "SELECT * FROM generate_series('2020-01-01'::timestamp, now(), interval '1 day')",
        expect!["0A000: generate_series() in a view takes whole numbers that are constants"],
    );
    let many = (1..14).map(|n| format!("repeat(origin, {n})")).collect::<Vec<_>>().join(", ");
    check_error(
        &format!("SELECT count(*) FROM flights GROUP BY CUBE ({many})"),
        expect!["54011: CUBE is limited to 12 elements"],
    );
    check_error("SELECT * FROM session(flights, ts)", expect!["42883: wrong arguments of session()"]);
    check_error(
        "SELECT * FROM cumulate(flights, ts, INTERVAL '7 minutes', INTERVAL '1 hour')",
        expect!["22023: the size of cumulate() must be a multiple of its step"],
    );
    check_error(
        "SELECT carrier FROM flights FOR SYSTEM_TIME AS OF now()",
        expect!["0A000: FOR SYSTEM_TIME AS OF NOW() is not supported"],
    );
    check_error("SELECT $1 AS p FROM flights", expect!["42P02: there is no parameter $1"]);
    check_error(
        "SELECT oid FROM pg_catalog.pg_class",
        expect!["0A000: a view cannot read the system table pg_catalog.pg_class"],
    );
}

#[test]
fn mistakes_have_postgres_states() {
    check_error("SELECT * FROM nothing", expect![[r#"42P01: relation "nothing" does not exist"#]]);
    check_error("SELECT nothing FROM flights", expect![[r#"42703: column "nothing" does not exist"#]]);
    check_error(
        "SELECT carrier FROM flights f JOIN airlines a ON f.carrier = a.carrier",
        expect![[r#"42702: column reference "carrier" is ambiguous"#]],
    );
    check_error(
        "SELECT carrier, count(*) FROM flights",
        expect![[
            r#"42803: column "flights.carrier" must appear in the GROUP BY clause or be used in an aggregate function"#
        ]],
    );
    check_error("SELECT nothing(delay) FROM flights", expect!["42883: Invalid function 'nothing'"]);
    check_error("SELECT sum(carrier) FROM flights", expect!["42883: Function 'sum' failed to match any signature"]);
    check_error(
        "SELECT max(delay), max(air_time) FROM flights",
        expect![[r#"42701: column "max" specified more than once"#]],
    );
    check_error(
        "SELECT * FROM tumble(flights, carrier, INTERVAL '1 hour')",
        expect!["42804: the time column of a window must be a timestamp or timestamptz"],
    );
    check_error(
        "SELECT * FROM tumble(flights, ts, INTERVAL '1 month')",
        expect!["22023: interval '1 month' has months or years, which have no fixed length"],
    );
    check_error(
        "SELECT * FROM tumble(flights, ts, INTERVAL '0 s')",
        expect!["22023: the size of tumble() must be positive"],
    );
    check_error("SELECT * FROM tumble(flights, ts)", expect!["42883: wrong arguments of tumble()"]);
    check_error(
        "SELECT * FROM hop(flights, ts, INTERVAL '1 us', INTERVAL '1 hour')",
        expect!["22023: hop() would put each row into more than 10000 windows"],
    );
    check_error(
        "SELECT percentile_cont(1.5) WITHIN GROUP (ORDER BY delay) FROM flights",
        expect!["22023: the fraction of percentile_cont() must be a constant between 0 and 1"],
    );
}

#[test]
fn text_that_is_nested_deeply_is_planned_or_refused_and_never_overflows() {
    let parentheses = format!("SELECT {}1{} AS x FROM flights", "(".repeat(1000), ")".repeat(1000));
    let chain: Vec<_> = (0..10_000).map(|i| format!("delay = {i} OR carrier = 'c{i}'")).collect();
    let chain = format!("SELECT delay FROM flights WHERE {}", chain.join(" OR "));
    let sum = format!("SELECT {} AS x FROM flights", vec!["delay"; 10_000].join(" + "));
    let functions = format!("SELECT {}delay{} AS x FROM flights", "abs(".repeat(200), ")".repeat(200));
    let not = format!("SELECT {} true AS x FROM flights", "NOT ".repeat(50_000));
    let queries = format!("SELECT x FROM {} flights {}", "(SELECT delay AS x FROM ".repeat(400), ") t".repeat(400));
    let cases =
        format!("SELECT {}1{} AS x FROM flights", "CASE WHEN delay = 1 THEN ".repeat(2000), " END".repeat(2000));
    let run = move || {
        let outcome = |sql: &str| match plan(sql) {
            Ok(_) => "planned".to_owned(),
            Err(error) => error.sqlstate.to_owned(),
        };
        [&parentheses, &chain, &sum, &functions, &not, &queries, &cases].map(|sql| outcome(sql))
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("a thread");
    let outcomes = thread.join().expect("no overflow and no panic");
    assert_eq!(outcomes, ["planned", "planned", "54001", "planned", "54001", "54001", "54001"]);
}

#[test]
fn a_plain_view_knows_its_columns_and_what_it_reads() {
    let catalog = catalog(DDL);
    let plan =
        plan_query(&catalog, &parse_query_text("SELECT *, now() AS n FROM late JOIN airlines ON c = carrier"), &[])
            .expect("plans");
    let names: Vec<_> = plan.columns.iter().map(|column| format!("{} {}", column.name, column.sql_type)).collect();
    expect![[r#"
        c character varying, delay integer, carrier character varying, name character varying, rank integer, n timestamp with time zone
        [Relation(RelationId(16384)), Relation(RelationId(16386)), Relation(RelationId(16388))]
        SELECT *, now() AS n FROM public.late JOIN public.airlines ON c = carrier"#]].assert_eq(&format!("{}\n{:?}\n{}", names.join(", "), plan.depends_on, plan.canonical_query));
}
