//! Plans of functions OVER windows, DISTINCT ON, aggregates by order and grouping sets.

use expect_test::expect;

use super::check_plan;

#[test]
fn functions_over_windows() {
    check_plan(
        "SELECT carrier, row_number() OVER (ORDER BY delay) FROM flights",
        expect![[r#"
        (carrier character varying, row_number bigint)
        Project carrier, row_number() ORDER BY [flights.delay ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW AS row_number
          Over () by (delay ASC NULLS LAST): row_number() RANGE UNBOUNDED PRECEDING TO CURRENT ROW
            Input flights (carrier, delay) [append only]
    "#]],
    );
    check_plan(
        "SELECT carrier, sum(delay) OVER w AS s, lag(delay, 2, 0) OVER w AS l, rank() OVER (ORDER BY delay DESC) AS r FROM flights WINDOW w AS (PARTITION BY carrier ORDER BY ts ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
        expect![[r#"
            (carrier character varying, s bigint, l integer, r bigint)
            Project carrier, sum(flights.delay) PARTITION BY [flights.carrier] ORDER BY [flights.ts ASC NULLS LAST] ROWS BETWEEN 3 PRECEDING AND CURRENT ROW AS s, lag(flights.delay,Int64(2),Int64(0)) PARTITION BY [flights.carrier] ORDER BY [flights.ts ASC NULLS LAST] ROWS BETWEEN 3 PRECEDING AND CURRENT ROW AS l, rank() ORDER BY [flights.delay DESC NULLS FIRST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW AS r
              Over () by (delay DESC NULLS FIRST): rank() RANGE UNBOUNDED PRECEDING TO CURRENT ROW
                Project carrier, delay, sum(flights.delay) PARTITION BY [flights.carrier] ORDER BY [flights.ts ASC NULLS LAST] ROWS BETWEEN 3 PRECEDING AND CURRENT ROW, lag(flights.delay,Int64(2),Int64(0)) PARTITION BY [flights.carrier] ORDER BY [flights.ts ASC NULLS LAST] ROWS BETWEEN 3 PRECEDING AND CURRENT ROW
                  Over (carrier) by (ts ASC NULLS LAST): sum(CAST(delay AS Int64)) ROWS 3 PRECEDING TO CURRENT ROW, lag(delay, 2, 0) ROWS 3 PRECEDING TO CURRENT ROW
                    Input flights (carrier, delay, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT max(delay) FILTER (WHERE delay > 0) OVER (PARTITION BY carrier) AS m FROM flights",
        expect![[r#"
        (m integer)
        Project max(flights.delay) FILTER (WHERE flights.delay > Int64(0)) PARTITION BY [flights.carrier] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS m
          Over (carrier) by (): max(delay) FILTER (delay > 0) ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING [computes touched partitions again]
            Input flights (carrier, delay) [append only]
    "#]],
    );
}

#[test]
fn the_first_rows_of_each_group_are_numbered_alone() {
    check_plan(
        "SELECT carrier, delay FROM (SELECT *, row_number() OVER (PARTITION BY carrier ORDER BY delay DESC) AS n FROM flights) AS r WHERE n <= 3",
        expect![[r#"
            (carrier character varying, delay integer)
            Project carrier, delay
              Filter (row_number() PARTITION BY [flights.carrier] ORDER BY [flights.delay DESC NULLS FIRST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW <= 3)
                Over (carrier) by (delay DESC NULLS FIRST): row_number() RANGE UNBOUNDED PRECEDING TO CURRENT ROW [the first 3 rows of each]
                  Input flights (carrier, delay) [append only]
        "#]],
    );
    check_plan(
        "SELECT carrier, n FROM (SELECT *, row_number() OVER (PARTITION BY carrier ORDER BY delay DESC) AS n FROM flights) AS r WHERE 2 > n AND delay > 5",
        expect![[r#"
            (carrier character varying, n bigint)
            Project carrier, row_number() PARTITION BY [flights.carrier] ORDER BY [flights.delay DESC NULLS FIRST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW AS n
              Filter ((row_number() PARTITION BY [flights.carrier] ORDER BY [flights.delay DESC NULLS FIRST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW < 2) AND (delay > 5))
                Over (carrier) by (delay DESC NULLS FIRST): row_number() RANGE UNBOUNDED PRECEDING TO CURRENT ROW [the first 1 rows of each]
                  Input flights (carrier, delay) [append only]
        "#]],
    );
    check_plan(
        "SELECT carrier, n FROM (SELECT *, rank() OVER (PARTITION BY carrier ORDER BY delay DESC) AS n FROM flights) AS r WHERE n <= 3",
        expect![[r#"
            (carrier character varying, n bigint)
            Filter (rank() PARTITION BY [flights.carrier] ORDER BY [flights.delay DESC NULLS FIRST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW <= 3)
              Project carrier, rank() PARTITION BY [flights.carrier] ORDER BY [flights.delay DESC NULLS FIRST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
                Over (carrier) by (delay DESC NULLS FIRST): rank() RANGE UNBOUNDED PRECEDING TO CURRENT ROW
                  Input flights (carrier, delay) [append only]
        "#]],
    );
    check_plan(
        "SELECT DISTINCT ON (carrier) carrier, delay FROM flights ORDER BY carrier, delay DESC",
        expect![[r#"
            (carrier character varying, delay integer)
            Project carrier, delay
              Filter (row_number() PARTITION BY [flights.carrier] ORDER BY [flights.carrier ASC NULLS LAST, flights.delay DESC NULLS FIRST] ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW = 1)
                Over (carrier) by (carrier ASC NULLS LAST, delay DESC NULLS FIRST): row_number() ROWS UNBOUNDED PRECEDING TO CURRENT ROW [the first 1 rows of each]
                  Input flights (carrier, delay) [append only]
        "#]],
    );
}

#[test]
fn aggregates_by_order() {
    check_plan(
        "SELECT carrier, array_agg(delay ORDER BY ts), string_agg(origin, ', '), first_value(delay ORDER BY ts DESC), nth_value(delay, -2 ORDER BY ts) FROM flights GROUP BY carrier",
        expect![[r#"
            (carrier character varying, array_agg integer[], string_agg character varying, first_value integer, nth_value integer)
            Project carrier, array_agg(flights.delay) ORDER BY [flights.ts ASC NULLS LAST] AS array_agg, CAST(string_agg(flights.origin,Utf8(", ")) AS Utf8) AS string_agg, first_value(flights.delay) ORDER BY [flights.ts DESC NULLS FIRST] AS first_value, nth_value(flights.delay,Int64(-2)) ORDER BY [flights.ts ASC NULLS LAST] AS nth_value
              Aggregate by (carrier): array_agg(delay ORDER BY ts ASC NULLS LAST, delay ASC NULLS LAST), string_agg(origin, ", " ORDER BY origin ASC NULLS LAST), first_value(delay ORDER BY ts DESC NULLS FIRST, delay ASC NULLS LAST), nth_value(delay, -2 ORDER BY ts ASC NULLS LAST, delay ASC NULLS LAST)
                Input flights (carrier, origin, delay, ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT stddev(delay), var_pop(air_time), corr(delay, air_time) FROM flights",
        expect![[r#"
        (stddev double precision, var_pop double precision, corr double precision)
        Aggregate by (): stddev(CAST(delay AS Float64)), var_pop(air_time), corr(CAST(delay AS Float64), air_time)
          Input flights (delay, air_time) [append only]
    "#]],
    );
}

#[test]
fn grouping_sets() {
    check_plan(
        "SELECT origin, carrier, count(*), grouping(origin) AS g FROM flights GROUP BY ROLLUP (origin, carrier)",
        expect![[r#"
            (origin character varying, carrier character varying, count bigint, g integer)
            Project origin, carrier, count(Int64(1)) AS count, CAST(((__grouping_id & 2) >> 1) AS Int32) AS g
              Union
                Project NULL AS origin, NULL AS carrier, 3 AS __grouping_id, count(Int64(1))
                  Aggregate by (): count(*)
                    Input flights (carrier, origin) [append only]
                Project origin, NULL AS carrier, 1 AS __grouping_id, count(Int64(1))
                  Aggregate by (origin): count(*)
                    Input flights (carrier, origin) [append only]
                Project origin, carrier, 0 AS __grouping_id, count(Int64(1))
                  Aggregate by (origin, carrier): count(*)
                    Input flights (carrier, origin) [append only]
        "#]],
    );
    check_plan(
        "SELECT origin, count(*) FROM flights GROUP BY GROUPING SETS ((origin), ())",
        expect![[r#"
        (origin character varying, count bigint)
        Project origin, count(Int64(1)) AS count
          Union
            Project origin, 0 AS __grouping_id, count(Int64(1))
              Aggregate by (origin): count(*)
                Input flights (origin) [append only]
            Project NULL AS origin, 1 AS __grouping_id, count(Int64(1))
              Aggregate by (): count(*)
                Input flights (origin) [append only]
    "#]],
    );
}
