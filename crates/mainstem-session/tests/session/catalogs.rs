//! The system's tables, by the queries of psql 15 and of the JDBC driver.

use crate::database::{Client, Database};

async fn database() -> Client {
    let mut client = Database::new().connect();
    client.run("CREATE TABLE t (id INT PRIMARY KEY, s VARCHAR NOT NULL, n NUMERIC(12,3))").await;
    client.run("CREATE MATERIALIZED VIEW m AS SELECT s, count(*) AS c FROM t GROUP BY s").await;
    client.run("CREATE VIEW w AS SELECT s FROM m").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_lists_relations() {
    let mut client = database().await;
    let list = "SELECT n.nspname as \"Schema\", c.relname as \"Name\", CASE c.relkind WHEN 'r' THEN 'table' \
        WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' END as \"Type\", \
        pg_catalog.pg_get_userbyid(c.relowner) as \"Owner\" FROM pg_catalog.pg_class c \
        LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam \
        WHERE c.relkind IN ('r','p','v','m','S','f','') AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast' \
        AND n.nspname <> 'information_schema' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2;";
    let expected = "public|m|materialized view|root\npublic|t|table|root\npublic|w|view|root";
    assert_eq!(client.run(list).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_a_table() {
    let mut client = database().await;
    let find = "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n \
        ON n.oid = c.relnamespace WHERE c.relname OPERATOR(pg_catalog.~) '^(t)$' COLLATE pg_catalog.default \
        AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3;";
    assert_eq!(client.run(find).await, "16384|public|t");
    let relation = "SELECT c.relchecks, c.relkind, c.relhasindex, c.relhasrules, c.relhastriggers, c.relrowsecurity, \
        c.relforcerowsecurity, false AS relhasoids, c.relispartition, '', c.reltablespace, CASE WHEN c.reloftype = 0 \
        THEN '' ELSE c.reloftype::pg_catalog.regtype::pg_catalog.text END, c.relpersistence, c.relreplident, am.amname \
        FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_class tc ON (c.reltoastrelid = tc.oid) \
        LEFT JOIN pg_catalog.pg_am am ON (c.relam = am.oid) WHERE c.oid = '16384';";
    assert_eq!(client.run(relation).await, "0|r|t|f|f|f|f|f|f||0||p|d|heap");
    let columns = "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), \
        (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = \
        a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull, (SELECT c.collname FROM \
        pg_catalog.pg_collation c, pg_catalog.pg_type t WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND \
        a.attcollation <> t.typcollation) AS attcollation, a.attidentity, a.attgenerated FROM pg_catalog.pg_attribute a \
        WHERE a.attrelid = '16384' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;";
    let expected = "id|integer|null|t|null||\ns|character varying|null|t|null||\nn|numeric(12,3)|null|f|null||";
    assert_eq!(client.run(columns).await, expected);
    let indexes = "SELECT c2.relname, i.indisprimary, i.indisunique, i.indisclustered, i.indisvalid, \
        pg_catalog.pg_get_indexdef(i.indexrelid, 0, true), pg_catalog.pg_get_constraintdef(con.oid, true), contype, \
        condeferrable, condeferred, i.indisreplident, c2.reltablespace FROM pg_catalog.pg_class c, \
        pg_catalog.pg_class c2, pg_catalog.pg_index i LEFT JOIN pg_catalog.pg_constraint con ON (conrelid = i.indrelid \
        AND conindid = i.indexrelid AND contype IN ('p','u','x')) WHERE c.oid = '16384' AND c.oid = i.indrelid AND \
        i.indexrelid = c2.oid ORDER BY i.indisprimary DESC, c2.relname;";
    let index = "t_pkey|t|t|f|t|CREATE UNIQUE INDEX t_pkey ON public.t USING btree (id)|PRIMARY KEY (id)|p|f|f|f|0";
    assert_eq!(client.run(indexes).await, index);
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_describes_a_source_as_a_foreign_table() {
    let database = Database::new();
    let mut client = database.connect();
    database.create_topic("events").await;
    client.run("CREATE SOURCE s (a INT, b VARCHAR) WITH (topic='events') FORMAT PLAIN ENCODE JSON").await;
    let kind = "SELECT c.oid, c.relkind FROM pg_catalog.pg_class c WHERE c.relname = 's'";
    let found = client.run(kind).await;
    let (oid, kind) = found.split_once('|').expect("two columns");
    assert_eq!(kind, "f");
    let columns = format!(
        "SELECT a.attname, CASE WHEN attfdwoptions IS NULL THEN '' ELSE '(' || pg_catalog.array_to_string(ARRAY(SELECT \
         pg_catalog.quote_ident(option_name) || ' ' || pg_catalog.quote_literal(option_value) FROM \
         pg_catalog.pg_options_to_table(attfdwoptions)), ', ') || ')' END AS attfdwoptions FROM pg_catalog.pg_attribute a \
         WHERE a.attrelid = '{oid}' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;"
    );
    assert_eq!(client.run(&columns).await, "a|\nb|");
    let server = format!(
        "SELECT s.srvname, pg_catalog.array_to_string(ARRAY(SELECT pg_catalog.quote_ident(option_name) || ' ' || \
         pg_catalog.quote_literal(option_value) FROM pg_catalog.pg_options_to_table(ftoptions)), ', ') FROM \
         pg_catalog.pg_foreign_table f, pg_catalog.pg_foreign_server s WHERE f.ftrelid = '{oid}' AND s.oid = f.ftserver;"
    );
    assert_eq!(client.run(&server).await, "mainstem|");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_asks_for_options_that_do_not_exist() {
    let mut client = database().await;
    let options = "SELECT c.relchecks, pg_catalog.array_to_string(c.reloptions || array(select 'toast.' || x from \
        pg_catalog.unnest(tc.reloptions) x), ', ') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_class tc ON \
        (c.reltoastrelid = tc.oid) WHERE c.oid = '16384'";
    assert_eq!(client.run(options).await, "0|");
}

/// What psql asks for besides, and gets no rows for.
#[tokio::test(flavor = "multi_thread")]
async fn psql_finds_no_policies_statistics_publications_and_parents() {
    let mut client = database().await;
    for query in [
        "SELECT pol.polname, pol.polpermissive, CASE WHEN pol.polroles = '{0}' THEN NULL ELSE \
         pg_catalog.array_to_string(array(select rolname from pg_catalog.pg_roles where oid = any (pol.polroles) order \
         by 1),',') END, pg_catalog.pg_get_expr(pol.polqual, pol.polrelid), pg_catalog.pg_get_expr(pol.polwithcheck, \
         pol.polrelid), CASE pol.polcmd WHEN 'r' THEN 'SELECT' END AS cmd FROM pg_catalog.pg_policy pol WHERE \
         pol.polrelid = '16384' ORDER BY 1;",
        "SELECT oid, stxrelid::pg_catalog.regclass, stxnamespace::pg_catalog.regnamespace::pg_catalog.text AS nsp, \
         stxname, pg_catalog.pg_get_statisticsobjdef_columns(oid) AS columns, 'd' = any(stxkind) AS ndist_enabled, \
         'f' = any(stxkind) AS deps_enabled, 'm' = any(stxkind) AS mcv_enabled, stxstattarget FROM \
         pg_catalog.pg_statistic_ext WHERE stxrelid = '16384' ORDER BY nsp, stxname;",
        "SELECT pubname , NULL , NULL FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_namespace pn ON \
         p.oid = pn.pnpubid JOIN pg_catalog.pg_class pc ON pc.relnamespace = pn.pnnspid WHERE pc.oid ='16384' and \
         pg_catalog.pg_relation_is_publishable('16384') UNION SELECT pubname , pg_get_expr(pr.prqual, c.oid) , (CASE \
         WHEN pr.prattrs IS NOT NULL THEN (SELECT string_agg(attname, ', ') FROM pg_catalog.generate_series(0, \
         pg_catalog.array_upper(pr.prattrs::pg_catalog.int2[], 1)) s, pg_catalog.pg_attribute WHERE attrelid = \
         pr.prrelid AND attnum = prattrs[s]) ELSE NULL END) FROM pg_catalog.pg_publication p JOIN \
         pg_catalog.pg_publication_rel pr ON p.oid = pr.prpubid JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid WHERE \
         pr.prrelid = '16384' UNION SELECT pubname , NULL , NULL FROM pg_catalog.pg_publication p WHERE p.puballtables \
         AND pg_catalog.pg_relation_is_publishable('16384') ORDER BY 1;",
        "SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c, pg_catalog.pg_inherits i WHERE c.oid = \
         i.inhparent AND i.inhrelid = '16384' AND c.relkind != 'p' AND c.relkind != 'I' ORDER BY inhseqno;",
        "SELECT c.oid::pg_catalog.regclass, c.relkind, inhdetachpending, pg_catalog.pg_get_expr(c.relpartbound, c.oid) \
         FROM pg_catalog.pg_class c, pg_catalog.pg_inherits i WHERE c.oid = i.inhrelid AND i.inhparent = '16384' ORDER \
         BY pg_catalog.pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT', c.oid::pg_catalog.regclass::pg_catalog.text;",
    ] {
        assert_eq!(client.run(query).await, "", "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jdbc_driver_finds_columns_and_keys() {
    let mut client = database().await;
    let columns = "SELECT * FROM (SELECT current_database() AS current_database, n.nspname,c.relname,a.attname,a.atttypid,\
        a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull,a.atttypmod,a.attlen,t.typtypmod,row_number() \
        OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as attidentity,\
        nullif(a.attgenerated, '') as attgenerated,pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc,\
        dsc.description,t.typbasetype,t.typtype FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON \
        (c.relnamespace = n.oid) JOIN pg_catalog.pg_attribute a ON (a.attrelid=c.oid) JOIN pg_catalog.pg_type t ON \
        (a.atttypid = t.oid) LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid=def.adrelid AND a.attnum = def.adnum) \
        LEFT JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid) LEFT JOIN \
        pg_catalog.pg_class dc ON (dc.oid=dsc.classoid AND dc.relname='pg_class') LEFT JOIN pg_catalog.pg_namespace dn \
        ON (dc.relnamespace=dn.oid AND dn.nspname='pg_catalog') WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 \
        AND NOT a.attisdropped AND n.nspname LIKE 'public' AND c.relname LIKE 't') c WHERE true AND attname LIKE '%' \
        ORDER BY nspname,c.relname,attnum";
    let found = client.run(columns).await;
    assert_eq!(found.lines().count(), 3, "{found}");
    assert!(found.starts_with("dev|public|t|id|23|t|-1|4|-1|1|null|null|null|null|0|b"), "{found}");
    let keys = "SELECT result.TABLE_CAT, result.TABLE_SCHEM, result.TABLE_NAME, result.COLUMN_NAME, result.KEY_SEQ, \
        result.PK_NAME FROM (SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, ct.relname AS TABLE_NAME, a.attname AS \
        COLUMN_NAME, (information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, ci.relname AS PK_NAME, \
        information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM FROM pg_catalog.pg_class ct JOIN \
        pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid) \
        JOIN pg_catalog.pg_index i ON ( a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid) \
        WHERE true AND ct.relname = 't' AND i.indisprimary ) result where result.A_ATTNUM = (result.KEYS).x ORDER BY \
        result.table_name, result.pk_name, result.key_seq";
    assert_eq!(client.run(keys).await, "null|public|t|id|1|t_pkey");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_schemas_answer() {
    let mut client = database().await;
    let tables = "SELECT table_name, table_type FROM information_schema.tables ORDER BY 1";
    assert_eq!(client.run(tables).await, "m|MATERIALIZED VIEW\nt|BASE TABLE\nw|VIEW");
    let columns = "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 't'";
    assert_eq!(client.run(columns).await, "id|integer|NO\ns|character varying|NO\nn|numeric|YES");
    client.run("INSERT INTO t VALUES (1, 'a', 1)").await;
    assert_eq!(client.run("FLUSH; SELECT name, rows FROM mainstem.views").await, "m|1");
    assert_eq!(client.run("SELECT name, partitions FROM mainstem.topics").await, "t|1");
    assert_eq!(client.run("SELECT 't'::regclass::oid, current_user, current_schema()").await, "16384|root|public");
    assert_eq!(client.run("SELECT version()").await, "PostgreSQL 15.0 (Mainstem test)");
    let roles = "SELECT r.rolname, r.rolsuper, ARRAY(SELECT b.rolname FROM pg_catalog.pg_auth_members m JOIN \
        pg_catalog.pg_roles b ON (m.roleid = b.oid) WHERE m.member = r.oid) as memberof FROM pg_catalog.pg_roles r \
        WHERE r.rolname !~ '^pg_' ORDER BY 1;";
    assert_eq!(client.run(roles).await, "root|t|{}");
    let databases = "SELECT d.datname as \"Name\", pg_catalog.array_to_string(d.datacl, E'\\n') AS \"Access privileges\" \
        FROM pg_catalog.pg_database d ORDER BY 1;";
    assert_eq!(client.run(databases).await, "dev|null");
}
