//! Joins and subqueries.

use expect_test::expect;

use super::check_plan;

#[test]
fn joins() {
    check_plan(
        "SELECT f.delay, a.name FROM flights f JOIN airlines a ON f.carrier = a.carrier",
        expect![[r#"
        (delay integer, name character varying)
        Project delay, name
          Join Inner on carrier = carrier
            Input flights (carrier, delay) [append only]
            Input airlines (carrier, name)
    "#]],
    );
    check_plan(
        "SELECT f.delay, a.name FROM flights f LEFT JOIN airlines a ON f.carrier = a.carrier AND a.rank < f.delay",
        expect![[r#"
            (delay integer, name character varying)
            Project delay, name
              Join Left on carrier = carrier AND (rank < delay) [by delay and rank]
                Input flights (carrier, delay) [append only]
                Input airlines (carrier, name, rank)
        "#]],
    );
    check_plan(
        "SELECT a.name, b.n FROM by_carrier b RIGHT JOIN airlines a ON a.carrier = b.carrier",
        expect![[r#"
            (name character varying, n bigint)
            Project name, n
              Join Left on carrier = carrier
                Input airlines (carrier, name)
                Input by_carrier (carrier, n)
        "#]],
    );
    check_plan(
        "SELECT a.name, b.n, f.delay FROM flights f, airlines a, by_carrier b
         WHERE f.carrier = a.carrier AND b.carrier = a.carrier AND b.n > 2",
        expect![[r#"
            (name character varying, n bigint, delay integer)
            Project name, n, delay
              Join Inner on carrier = carrier
                Project delay, carrier, name
                  Join Inner on carrier = carrier
                    Input flights (carrier, delay) [append only]
                    Input airlines (carrier, name)
                Filter (n > 2)
                  Input by_carrier (carrier, n)
        "#]],
    );
    check_plan(
        "SELECT * FROM airlines JOIN by_carrier USING (carrier)",
        expect![[r#"
        (carrier character varying, name character varying, rank integer, n bigint)
        Project carrier, name, rank, n
          Join Inner on carrier = carrier
            Input airlines (carrier, name, rank)
            Input by_carrier (carrier, n)
    "#]],
    );
    check_plan(
        "SELECT x.name, y.name AS other FROM airlines x JOIN airlines y ON x.rank = y.rank + 1",
        expect![[r#"
        (name character varying, other character varying)
        Project name, name AS other
          Join Inner on CAST(rank AS Int64) = (CAST(rank AS Int64) + 1)
            Input airlines (name, rank)
            Input airlines (name, rank)
    "#]],
    );
    check_plan(
        "SELECT delay FROM flights WHERE carrier IN (SELECT carrier FROM airlines WHERE rank = 1)",
        expect![[r#"
            (delay integer)
            Project delay
              Join Inner on carrier = key_0
                Input flights (carrier, delay) [append only]
                Distinct
                  Project carrier AS key_0
                    Filter (rank = 1)
                      Input airlines (carrier, rank)
        "#]],
    );
    check_plan(
        "SELECT delay FROM flights f WHERE NOT EXISTS (SELECT 1 FROM airlines a WHERE a.carrier = f.carrier)",
        expect![[r#"
            (delay integer)
            Project delay
              Filter (is_there IS NULL)
                Join Left on carrier = key_0
                  Input flights (carrier, delay) [append only]
                  Distinct
                    Project carrier AS key_0, true AS is_there
                      Input airlines (carrier)
        "#]],
    );
    check_plan(
        "SELECT carrier FROM airlines WHERE rank > (SELECT avg(rank) FROM airlines)",
        expect![[r#"
        (carrier character varying)
        Project carrier
          Join Inner on true = true AND (CAST(rank AS Float64) > avg(airlines.rank))
            Input airlines (carrier, rank)
            Aggregate by (): avg(CAST(rank AS Float64))
              Input airlines (rank)
    "#]],
    );
    check_plan(
        "SELECT name FROM airlines a WHERE rank = (SELECT max(delay) FROM flights f WHERE f.carrier = a.carrier)",
        expect![[r#"
            (name character varying)
            Project name
              Join Inner on carrier = carrier AND rank = max(f.delay)
                Input airlines (carrier, name, rank)
                Project max(f.delay), carrier
                  Aggregate by (carrier, true): max(delay)
                    Input flights (carrier, delay) [append only]
        "#]],
    );
}

#[test]
fn joins_of_the_other_kinds() {
    for (sql, expected) in [
        (
            "SELECT a.name, b.n FROM airlines a FULL JOIN by_carrier b ON a.carrier = b.carrier",
            expect![[r#"
            (name character varying, n bigint)
            Project name, n
              Join Full on carrier = carrier
                Input airlines (carrier, name)
                Input by_carrier (carrier, n)
        "#]],
        ),
        (
            "SELECT a.name, b.n FROM airlines a CROSS JOIN by_carrier b",
            expect![[r#"
            (name character varying, n bigint)
            Join Inner on true = true
              Input airlines (name)
              Input by_carrier (n)
        "#]],
        ),
        (
            "SELECT a.name, b.n FROM airlines a RIGHT JOIN by_carrier b ON a.rank < b.n",
            expect![[r#"
            (name character varying, n bigint)
            Project name, n
              Join Left on true = true AND (CAST(rank AS Int64) < n)
                Input by_carrier (n)
                Input airlines (name, rank)
        "#]],
        ),
        (
            "SELECT name FROM airlines WHERE NOT EXISTS (SELECT 1 FROM by_carrier b WHERE b.n > 5)",
            expect![[r#"
            (name character varying)
            Project name
              Filter (is_there IS NULL)
                Join Left on true = key_0
                  Input airlines (name)
                  Distinct
                    Project true AS key_0, true AS is_there
                      Filter (n > 5)
                        Input by_carrier (n)
        "#]],
        ),
        (
            "SELECT name FROM airlines a WHERE EXISTS (SELECT 1 FROM by_carrier b WHERE b.carrier = a.carrier AND b.n > a.rank)",
            expect![[r#"
                (name character varying)
                Project name
                  Join Semi on carrier = carrier AND (n > CAST(rank AS Int64))
                    Input airlines (carrier, name, rank)
                    Input by_carrier (carrier, n)
            "#]],
        ),
        (
            "SELECT name FROM airlines a WHERE rank = 1 OR EXISTS (SELECT 1 FROM by_carrier b WHERE b.carrier = a.carrier)",
            expect![[r#"
                (name character varying)
                Project name
                  Filter ((rank = 1) OR mark)
                    Project name, rank, mark
                      Project carrier, name, rank, (is_there IS NOT NULL) AS mark
                        Join Left on carrier = key_0
                          Input airlines (carrier, name, rank)
                          Distinct
                            Project carrier AS key_0, true AS is_there
                              Input by_carrier (carrier)
            "#]],
        ),
        (
            "SELECT name FROM airlines a WHERE rank = 1 OR EXISTS (SELECT 1 FROM by_carrier b WHERE b.n > a.rank)",
            expect![[r#"
                (name character varying)
                Project name
                  Filter ((rank = 1) OR mark)
                    Union
                      Project name, rank, true AS mark
                        Join Semi on true = true AND (n > CAST(rank AS Int64))
                          Input airlines (name, rank)
                          Input by_carrier (n)
                      Project name, rank, false AS mark
                        Join Anti on true = true AND (n > CAST(rank AS Int64))
                          Input airlines (name, rank)
                          Input by_carrier (n)
            "#]],
        ),
    ] {
        check_plan(sql, expected);
    }
}

#[test]
fn a_scalar_subquery_of_one_row_is_a_join() {
    check_plan(
        "SELECT carrier, (SELECT max(rank) FROM airlines) AS m FROM flights",
        expect![[r#"
        (carrier character varying, m integer)
        Join Left on true = true
          Input flights (carrier) [append only]
          Aggregate by (): max(rank)
            Input airlines (rank)
    "#]],
    );
    check_plan(
        "SELECT to_timestamp(delay) AS t, date_trunc('day', ts) AS d FROM flights",
        expect![[r#"
        (t timestamp with time zone, d timestamp with time zone)
        Project CAST(t AS Timestamp(µs, "UTC")) AS t, d [append only]
          Project to_timestamp(delay) AS t, date_trunc('day', ts) AS d [append only]
            Input flights (delay, ts) [append only]
    "#]],
    );
}
