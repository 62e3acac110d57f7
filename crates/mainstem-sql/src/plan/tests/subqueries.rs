//! Plans of subqueries in their full meaning, and of set operations with ALL.

use expect_test::expect;

use super::check_plan;

#[test]
fn not_in_is_three_joins() {
    check_plan(
        "SELECT delay FROM flights WHERE carrier NOT IN (SELECT carrier FROM airlines)",
        expect![[r#"
        (delay integer)
        Project delay
          Filter ((carrier IS NOT NULL) OR NOT mark)
            Project carrier, delay, (is_there IS NOT NULL) AS mark
              Join Left on true = key_0
                Project carrier, delay
                  Filter (is_there IS NULL)
                    Join Left on carrier = key_0
                      Input flights (carrier, delay) [append only]
                      Distinct
                        Project carrier AS key_0, true AS is_there
                          Input airlines (carrier)
                Distinct
                  Project true AS key_0, true AS is_there
                    Input airlines (carrier)
    "#]],
    );
    check_plan(
        "SELECT delay FROM flights f WHERE NOT (delay > 3 OR carrier IN (SELECT carrier FROM airlines a WHERE a.rank < f.delay))",
        expect![[r#"
            (delay integer)
            Project delay
              Filter ((carrier IS NOT NULL) OR NOT mark)
                Union
                  Project carrier, delay, true AS mark
                    Join Semi on true = true AND (rank < delay) [by delay and rank]
                      Join Anti on carrier = carrier AND (rank < delay) [by delay and rank]
                        Filter (delay <= 3) [append only]
                          Input flights (carrier, delay) [append only]
                        Input airlines (carrier, rank)
                      Input airlines (rank)
                  Project carrier, delay, false AS mark
                    Join Anti on true = true AND (rank < delay) [by delay and rank]
                      Join Anti on carrier = carrier AND (rank < delay) [by delay and rank]
                        Filter (delay <= 3) [append only]
                          Input flights (carrier, delay) [append only]
                        Input airlines (carrier, rank)
                      Input airlines (rank)
        "#]],
    );
}

#[test]
fn in_and_exists_have_values() {
    check_plan(
        "SELECT delay, carrier IN (SELECT carrier FROM airlines) AS known FROM flights",
        expect![[r#"
        (delay integer, known boolean)
        Project delay, ((CASE WHEN (__always_true IS NULL) THEN 0 ELSE count(Int64(1)) END > 0) OR (((count(Int64(1)) > 0) OR ((carrier IS NULL) AND (count(Int64(1)) > 0))) AND (CASE WHEN (__always_true IS NULL) THEN 0 ELSE count(Int64(1)) END <= 0) AND NULL)) AS known
          Join Left on carrier = carrier
            Join Left on true = true
              Join Left on true = true
                Project carrier, delay, __always_true, count(Int64(1))
                  Join Left on carrier = carrier
                    Input flights (carrier, delay) [append only]
                    Aggregate by (carrier, true): count(*)
                      Input airlines (carrier)
                Aggregate by (): count(*)
                  Constant 0 rows () [append only]
              Aggregate by (): count(*)
                Input airlines ()
            Aggregate by (carrier, true): count(*)
              Input airlines (carrier)
    "#]],
    );
    check_plan(
        "SELECT delay, EXISTS (SELECT 1 FROM airlines a WHERE a.carrier = f.carrier) AS known FROM flights f",
        expect![[r#"
            (delay integer, known boolean)
            Project delay, (CASE WHEN (__always_true IS NULL) THEN 0 ELSE count(Int64(1)) END > 0) AS known
              Join Left on carrier = carrier
                Input flights (carrier, delay) [append only]
                Aggregate by (carrier, true): count(*)
                  Input airlines (carrier)
        "#]],
    );
}

#[test]
fn a_scalar_subquery_may_fail() {
    check_plan(
        "SELECT (SELECT name FROM airlines) AS n FROM flights",
        expect![[r#"
        (n character varying)
        Project __only_item(array_agg(airlines.name) ORDER BY [airlines.name ASC NULLS LAST]) AS n
          Join Left on true = true
            Input flights () [append only]
            Aggregate by (): array_agg(name ORDER BY name ASC NULLS LAST)
              Input airlines (name)
    "#]],
    );
    check_plan(
        "SELECT (SELECT name FROM airlines a WHERE a.carrier = f.carrier) AS n FROM flights f",
        expect![[r#"
        (n character varying)
        Project __only_item(array_agg(a.name) ORDER BY [a.name ASC NULLS LAST]) AS n
          Join Left on carrier = carrier
            Input flights (carrier) [append only]
            Project carrier, array_agg(a.name) ORDER BY [a.name ASC NULLS LAST]
              Aggregate by (carrier, true): array_agg(name ORDER BY name ASC NULLS LAST)
                Project name, carrier
                  Input airlines (carrier, name)
    "#]],
    );
    check_plan(
        "SELECT (SELECT name FROM airlines a WHERE a.carrier = f.carrier ORDER BY rank DESC LIMIT 1) AS n FROM flights f",
        expect![[r#"
            (n character varying)
            Project first_value(a.name) ORDER BY [a.rank DESC NULLS FIRST, a.name ASC NULLS LAST] AS n
              Join Left on carrier = carrier
                Input flights (carrier) [append only]
                Project carrier, first_value(a.name) ORDER BY [a.rank DESC NULLS FIRST, a.name ASC NULLS LAST]
                  Aggregate by (carrier, true): first_value(name ORDER BY rank DESC NULLS FIRST, name ASC NULLS LAST)
                    Project name, rank, carrier
                      Input airlines (carrier, name, rank)
        "#]],
    );
}

#[test]
fn set_operations_with_all() {
    check_plan(
        "SELECT carrier FROM airlines INTERSECT ALL SELECT carrier FROM flights",
        expect![[r#"
            (carrier character varying)
            Project carrier
              Join Inner on carrier IS NOT DISTINCT FROM carrier AND row_number() PARTITION BY [airlines.carrier] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING IS NOT DISTINCT FROM row_number() PARTITION BY [flights.carrier] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
                Over (carrier) by (): row_number() ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING
                  Input airlines (carrier)
                Distinct
                  Over (carrier) by (): row_number() ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING
                    Input flights (carrier) [append only]
        "#]],
    );
    check_plan(
        "SELECT carrier FROM airlines EXCEPT ALL SELECT carrier FROM flights",
        expect![[r#"
            (carrier character varying)
            Project carrier
              Filter (is_there IS NULL)
                Join Left on carrier IS NOT DISTINCT FROM key_0 AND row_number() PARTITION BY [airlines.carrier] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING IS NOT DISTINCT FROM key_1
                  Over (carrier) by (): row_number() ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING
                    Input airlines (carrier)
                  Distinct
                    Project carrier AS key_0, row_number() PARTITION BY [flights.carrier] ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING AS key_1, true AS is_there
                      Over (carrier) by (): row_number() ROWS UNBOUNDED PRECEDING TO UNBOUNDED FOLLOWING
                        Input flights (carrier) [append only]
        "#]],
    );
}
