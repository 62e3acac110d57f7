//! Conditions on the time, early results, functions OVER event time that wait for the watermark.

use expect_test::expect;

use super::{check_error, check_plan};

#[test]
fn conditions_on_the_time_are_operators() {
    check_plan(
        "SELECT carrier FROM flights WHERE ts > now() - INTERVAL '1 hour' AND delay > 0",
        expect![[r#"
        (carrier character varying)
        Project carrier
          TemporalFilter ts > CAST((CAST(now AS Timestamp(ns, "UTC")) - IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 3600000000000 }) AS Timestamp(µs, "UTC")) [by ticks, drops what is past]
            Filter (delay > 0) [append only]
              Input flights (carrier, delay, ts) [append only]
    "#]],
    );
    check_plan(
        "SELECT carrier FROM flights WHERE ts BETWEEN now() - INTERVAL '1 month' AND now()",
        expect![[r#"
        (carrier character varying)
        Project carrier
          TemporalFilter ts <= CAST(CAST(now AS Timestamp(ns, "UTC")) AS Timestamp(µs, "UTC")) [by ticks, keeps what is to come]
            TemporalFilter ts >= CAST((CAST(now AS Timestamp(ns, "UTC")) - IntervalMonthDayNano { months: 1, days: 0, nanoseconds: 0 }) AS Timestamp(µs, "UTC")) [by ticks, keeps all rows]
              Input flights (carrier, ts) [append only]
    "#]],
    );
    check_plan(
        "SELECT carrier FROM flights WHERE current_date = ts::date",
        expect![[r#"
        (carrier character varying)
        Project carrier
          TemporalFilter CAST(ts AS Date32) <= CAST(now AS Date32) [by ticks, keeps what is to come]
            TemporalFilter CAST(ts AS Date32) >= CAST(now AS Date32) [by ticks, drops what is past]
              Input flights (carrier, ts) [append only]
    "#]],
    );
    check_plan(
        "SELECT f.carrier FROM flights f JOIN airlines a ON f.carrier = a.carrier AND CASE WHEN a.rank > 1 THEN f.ts END > now()",
        expect![[r#"
            (carrier character varying)
            Project carrier
              TemporalFilter CASE WHEN (rank > 1) THEN ts END > CAST(CAST(now AS Timestamp(ns, "UTC")) AS Timestamp(µs, "UTC")) [by ticks, drops what is past]
                Join Inner on carrier = carrier
                  Input flights (carrier, ts) [append only]
                  Input airlines (carrier, rank)
        "#]],
    );
    check_plan(
        "SELECT carrier FROM flights GROUP BY carrier HAVING max(ts) > now() - INTERVAL '1 day'",
        expect![[r#"
        (carrier character varying)
        Project carrier
          TemporalFilter max(flights.ts) > CAST((CAST(now AS Timestamp(ns, "UTC")) - IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 0 }) AS Timestamp(µs, "UTC")) [by ticks, drops what is past]
            Aggregate by (carrier): max(ts)
              Input flights (carrier, ts) [append only]
    "#]],
    );
}

#[test]
fn the_time_elsewhere_is_refused() {
    check_error(
        "SELECT carrier, current_timestamp AS t FROM flights",
        expect!["42P17: function now() is not allowed in a materialized view: its result depends on when it is called"],
    );
    check_error(
        "SELECT carrier FROM flights WHERE ts > now() OR delay > 0",
        expect![[
            r#"42P17: this condition on the time cannot be kept in a view: flights.ts > CAST(now() AS Timestamp(µs, "UTC")) OR flights.delay > Int32(0)"#
        ]],
    );
    check_error(
        "SELECT carrier FROM flights WHERE ts <> now()",
        expect![[
            r#"42P17: this condition on the time cannot be kept in a view: flights.ts != CAST(now() AS Timestamp(µs, "UTC"))"#
        ]],
    );
    check_error(
        "SELECT carrier FROM flights WHERE now() - ts < INTERVAL '1 day'",
        expect![[
            r#"42P17: this condition on the time cannot be kept in a view: CAST(CAST(now() AS Timestamp(µs, "UTC")) - flights.ts AS Interval(MonthDayNano)) < IntervalMonthDayNano("IntervalMonthDayNano { months: 0, days: 1, nanoseconds: 0 }")"#
        ]],
    );
    check_error(
        "SELECT f.carrier FROM flights f LEFT JOIN airlines a ON f.carrier = a.carrier AND f.ts > now()",
        expect!["42P17: function now() is not allowed in a materialized view: its result depends on when it is called"],
    );
    check_error(
        "SELECT count(*) FILTER (WHERE ts > now()) AS n FROM flights",
        expect!["42P17: function now() is not allowed in a materialized view: its result depends on when it is called"],
    );
    check_error(
        "SELECT window_end, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour') WHERE ts > now() GROUP BY window_end \
         EMIT ON WINDOW CLOSE",
        expect!["0A000: now() in a view with EMIT ON WINDOW CLOSE is not supported"],
    );
}

#[test]
fn early_results_and_functions_over_event_time() {
    check_plan(
        "SELECT window_end, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour') GROUP BY window_end \
         EMIT ON WINDOW CLOSE WITH EARLY EVERY '10s'",
        expect![[r#"
            (window_end timestamp with time zone, n bigint)
            EmitOnClose window_end [early every 10000 ms]
              Aggregate by (window_end): count(*) [forgets]
                Project window_end(tumble_start(ts, 3600000000, 0), 3600000000) AS window_end [append only]
                  Filter (ts IS NOT NULL) [append only]
                    DropLate [append only]
                      Input flights (ts) [append only]
        "#]],
    );
    check_plan(
        "SELECT carrier, sum(delay) OVER (PARTITION BY carrier ORDER BY ts RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND \
         CURRENT ROW) AS s FROM flights EMIT ON WINDOW CLOSE",
        expect![[r#"
            (carrier character varying, s bigint)
            Project carrier, sum(flights.delay) PARTITION BY [flights.carrier] ORDER BY [flights.ts ASC NULLS LAST] RANGE BETWEEN 1 hour PRECEDING AND CURRENT ROW AS s
              Over (carrier) by (ts ASC NULLS LAST): sum(CAST(delay AS Int64)) RANGE IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 3600000000000 } PRECEDING TO CURRENT ROW
                EmitOnClose ts after 1 us [append only]
                  DropLate [append only]
                    Input flights (carrier, delay, ts) [append only]
        "#]],
    );
    check_error(
        "SELECT lead(delay) OVER (ORDER BY ts) AS n FROM flights EMIT ON WINDOW CLOSE",
        expect!["0A000: EMIT ON WINDOW CLOSE with functions OVER a window that may look ahead is not supported"],
    );
    check_error(
        "SELECT rank() OVER (ORDER BY delay) AS n FROM flights EMIT ON WINDOW CLOSE",
        expect!["0A000: EMIT ON WINDOW CLOSE with functions OVER a window that may look ahead is not supported"],
    );
    check_error(
        "SELECT rank() OVER (ORDER BY ts) AS n FROM flights EMIT ON WINDOW CLOSE WITH EARLY EVERY '1 s'",
        expect!["0A000: EARLY EVERY with functions OVER a window is not supported"],
    );
    check_error(
        "SELECT window_end, count(*) AS n FROM tumble(flights, ts, INTERVAL '1 hour') f JOIN airlines a ON f.carrier = a.carrier \
         GROUP BY window_end EMIT ON WINDOW CLOSE WITH EARLY EVERY '1 s'",
        expect![[r#"0A000: EARLY EVERY over table "airlines" is not supported"#]],
    );
}
