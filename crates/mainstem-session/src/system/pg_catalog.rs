//! `pg_catalog`, as psql 15 and the JDBC driver read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::SchemaProvider;
use mainstem_catalog::{Catalog, Column, Relation, RelationKind, SqlType};

use super::builder::{Cell, Tables, row};
use super::functions::quoted;
use crate::session::Session;
use crate::values::{oid_of, pg_type};

/// Fixed oids.
pub(super) const OWNER: u32 = 10;
pub(super) const PG_CATALOG: u32 = 11;
pub(super) const PUBLIC: u32 = 2200;
pub(super) const INFORMATION_SCHEMA: u32 = 13000;
pub(super) const MAINSTEM: u32 = 13001;
const DATABASE: u32 = 5;
const HEAP: u32 = 2;
const BTREE: u32 = 403;
/// `pg_constraint` itself.
const CONSTRAINTS: u32 = 2606;
/// The one foreign server: the log that sources read.
const SERVER: u32 = 16000;

/// Oid of the index and of the constraint of a table's primary key: high above the ids of relations.
pub(super) fn index_oid(relation: &Relation) -> u32 {
    0x4000_0000 | relation.id.0
}

pub(super) fn constraint_oid(relation: &Relation) -> u32 {
    0x5000_0000 | relation.id.0
}

/// Indexes of the declared primary key's columns.
pub(super) fn primary_key(relation: &Relation) -> Option<&[usize]> {
    match &relation.kind {
        RelationKind::Table(table) if table.primary_key.iter().all(|i| !relation.columns[*i].hidden) => {
            Some(&table.primary_key)
        }
        _ => None,
    }
}

/// A source is a foreign table: its rows are read from elsewhere, and psql lists it apart from tables.
pub(super) fn relkind(relation: &Relation) -> &'static str {
    match relation.kind {
        RelationKind::Source(_) => "f",
        RelationKind::Table(_) => "r",
        RelationKind::View(_) => "v",
        RelationKind::MaterializedView(_) => "m",
    }
}

/// Types: oid, name, length, category, array's oid.
pub(super) const TYPES: &[(u32, &str, i64, &str, u32)] = &[
    (16, "bool", 1, "B", 1000),
    (17, "bytea", -1, "U", 1001),
    (18, "char", 1, "Z", 1002),
    (19, "name", 64, "S", 1003),
    (20, "int8", 8, "N", 1016),
    (21, "int2", 2, "N", 1005),
    (23, "int4", 4, "N", 1007),
    (25, "text", -1, "S", 1009),
    (26, "oid", 4, "N", 1028),
    (114, "json", -1, "U", 199),
    (700, "float4", 4, "N", 1021),
    (701, "float8", 8, "N", 1022),
    (705, "unknown", -2, "X", 0),
    (1042, "bpchar", -1, "S", 1014),
    (1043, "varchar", -1, "S", 1015),
    (1082, "date", 4, "D", 1182),
    (1083, "time", 8, "D", 1183),
    (1114, "timestamp", 8, "D", 1115),
    (1184, "timestamptz", 8, "D", 1185),
    (1186, "interval", 16, "T", 1187),
    (1700, "numeric", -1, "N", 1231),
    (2205, "regclass", 4, "N", 2210),
    (2206, "regtype", 4, "N", 2211),
    (2249, "record", -1, "P", 2287),
    (2950, "uuid", 16, "U", 2951),
    (3802, "jsonb", -1, "U", 3807),
];

/// Tables that are always empty: what they hold elsewhere does not exist here.
pub(super) const EMPTY: &[(&str, &str)] = &[
    ("pg_auth_members", "roleid:o member:o grantor:o admin_option:b"),
    ("pg_cast", "oid:o castsource:o casttarget:o castfunc:o castcontext:t castmethod:t"),
    (
        "pg_collation",
        "oid:o collname:t collnamespace:o collowner:o collprovider:t collisdeterministic:b collencoding:i4 collcollate:t collctype:t colliculocale:t collversion:t",
    ),
    ("pg_conversion", "oid:o conname:t connamespace:o conowner:o conforencoding:i4 contoencoding:i4 condefault:b"),
    ("pg_depend", "classid:o objid:o objsubid:i4 refclassid:o refobjid:o refobjsubid:i4 deptype:t"),
    ("pg_description", "objoid:o classoid:o objsubid:i4 description:t"),
    ("pg_enum", "oid:o enumtypid:o enumsortorder:f4 enumlabel:t"),
    ("pg_event_trigger", "oid:o evtname:t evtevent:t evtowner:o evtfoid:o evtenabled:t"),
    ("pg_extension", "oid:o extname:t extowner:o extnamespace:o extrelocatable:b extversion:t"),
    ("pg_foreign_data_wrapper", "oid:o fdwname:t fdwowner:o fdwhandler:o fdwvalidator:o"),
    ("pg_inherits", "inhrelid:o inhparent:o inhseqno:i4 inhdetachpending:b"),
    ("pg_language", "tableoid:o oid:o lanname:t lanowner:o lanispl:b lanpltrusted:b lanplcallfoid:o"),
    ("pg_opclass", "tableoid:o oid:o opcmethod:o opcname:t opcnamespace:o opcdefault:b opckeytype:o opcintype:o"),
    ("pg_operator", "oid:o oprname:t oprnamespace:o oprowner:o oprkind:t oprleft:o oprright:o oprresult:o oprcode:o"),
    ("pg_opfamily", "tableoid:o oid:o opfmethod:o opfname:t opfnamespace:o opfowner:o"),
    ("pg_partitioned_table", "partrelid:o partstrat:t partnatts:i2"),
    ("pg_policy", "oid:o polname:t polrelid:o polcmd:t polpermissive:b polroles:t polqual:t polwithcheck:t"),
    (
        "pg_proc",
        "oid:o proname:t pronamespace:o proowner:o prolang:o prokind:t proretset:b provolatile:t pronargs:i2 prorettype:o proargtypes:t prosrc:t proisstrict:b proargnames:ta proargmodes:ta proallargtypes:a",
    ),
    (
        "pg_publication",
        "oid:o pubname:t pubowner:o puballtables:b pubinsert:b pubupdate:b pubdelete:b pubtruncate:b pubviaroot:b",
    ),
    ("pg_publication_namespace", "oid:o pnpubid:o pnnspid:o"),
    ("pg_publication_rel", "oid:o prpubid:o prrelid:o prqual:t prattrs:a"),
    ("pg_range", "rngtypid:o rngsubtype:o"),
    ("pg_rewrite", "tableoid:o oid:o rulename:t ev_class:o ev_type:t ev_enabled:t is_instead:b"),
    ("pg_seclabel", "objoid:o classoid:o objsubid:i4 provider:t label:t"),
    ("pg_sequence", "seqrelid:o seqtypid:o seqstart:i8 seqincrement:i8 seqmax:i8 seqmin:i8 seqcache:i8 seqcycle:b"),
    ("pg_shdescription", "objoid:o classoid:o description:t"),
    ("pg_statistic_ext", "oid:o stxrelid:o stxname:t stxnamespace:o stxowner:o stxstattarget:i4 stxkind:ta"),
    ("pg_stat_activity", "datid:o datname:t pid:i4 usename:t application_name:t state:t query:t"),
    ("pg_locks", "locktype:t database:o relation:o pid:i4 mode:t granted:b"),
    (
        "pg_trigger",
        "tableoid:o oid:o tgrelid:o tgname:t tgfoid:o tgtype:i2 tgenabled:t tgisinternal:b tgconstraint:o tgparentid:o",
    ),
    ("pg_subscription", "oid:o subdbid:o subname:t subowner:o subenabled:b subpublications:ta"),
    ("pg_ts_config", "oid:o cfgname:t cfgnamespace:o cfgowner:o cfgparser:o"),
    ("pg_ts_dict", "oid:o dictname:t dictnamespace:o dictowner:o dicttemplate:o dictinitoption:t"),
    ("pg_ts_parser", "oid:o prsname:t prsnamespace:o"),
    ("pg_ts_template", "oid:o tmplname:t tmplnamespace:o"),
    ("pg_user_mapping", "oid:o umuser:o umserver:o"),
    ("pg_user_mappings", "umid:o srvid:o srvname:t umuser:o usename:t umoptions:ta"),
];

const FILLED: [&str; 20] = [
    "pg_am",
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_database",
    "pg_foreign_server",
    "pg_foreign_table",
    KEYWORDS,
    "pg_index",
    "pg_indexes",
    "pg_namespace",
    "pg_roles",
    "pg_settings",
    "pg_tables",
    "pg_tablespace",
    "pg_type",
    "pg_user",
    "pg_views",
    "pg_matviews",
];

/// A function that gives rows in PostgreSQL, here a table.
pub(super) const KEYWORDS: &str = "pg_get_keywords";

/// What a table of this schema is called by number.
pub(super) fn system_oid(name: &str) -> Option<u32> {
    Some(match name {
        "pg_class" => 1259,
        "pg_type" => 1247,
        "pg_proc" => 1255,
        "pg_attribute" => 1249,
        "pg_namespace" => 2615,
        "pg_database" => 1262,
        "pg_constraint" => CONSTRAINTS,
        // For what refers to them only.
        name => {
            let names = FILLED.iter().copied().chain(EMPTY.iter().map(|(name, _)| *name));
            12_000 + u32::try_from(names.into_iter().position(|known| known == name)?).ok()?
        }
    })
}

pub(super) fn is_table(name: &str) -> bool {
    FILLED.contains(&name) || is_always_empty(name)
}

pub(super) fn is_always_empty(name: &str) -> bool {
    EMPTY.iter().any(|(known, _)| *known == name)
}

pub(super) fn schema(session: &Session, catalog: &Catalog) -> Arc<dyn SchemaProvider> {
    let tables = Tables::default();
    EMPTY.iter().for_each(|(name, columns)| tables.add(name, columns, vec![]));
    let (relations, columns) = (classes(catalog), attributes(catalog));
    tables.add(
        "pg_class",
        "oid:o relname:t relnamespace:o reltype:o reloftype:o relowner:o relam:o relfilenode:o reltablespace:o \
         relpages:i4 reltuples:f4 relallvisible:i4 reltoastrelid:o relhasindex:b relisshared:b relpersistence:t \
         relkind:t relnatts:i2 relchecks:i2 relhasrules:b relhastriggers:b relhassubclass:b relrowsecurity:b \
         relforcerowsecurity:b relispopulated:b relreplident:t relispartition:b relrewrite:o relacl:ta reloptions:ta \
         relpartbound:t",
        relations,
    );
    tables.add(
        "pg_attribute",
        "attrelid:o attname:t atttypid:o attstattarget:i4 attlen:i2 attnum:i2 attndims:i4 atttypmod:i4 attbyval:b \
         attstorage:t attcompression:t attalign:t attnotnull:b atthasdef:b atthasmissing:b attidentity:t \
         attgenerated:t attisdropped:b attislocal:b attinhcount:i4 attcollation:o attacl:ta attoptions:ta \
         attfdwoptions:ta",
        columns,
    );
    tables.add("pg_attrdef", "oid:o adrelid:o adnum:i2 adbin:t", defaults(catalog));
    keys(&tables, catalog);
    foreign(&tables, catalog);
    types(&tables);
    server(&tables, session);
    definitions(&tables, session, catalog);
    tables.finish()
}

fn classes(catalog: &Catalog) -> Vec<Vec<Cell>> {
    let class = |oid: u32, name: &str, kind: &str, columns: usize, has_index: bool, am: u32| {
        let mut row = row![oid, name, PUBLIC, 0u32, 0u32, OWNER, am, oid, 0u32, 0i64, -1i64, 0i64, 0u32, has_index];
        row.extend(row![false, "p", kind, columns as i64, 0i64, false, false, false, false, false, true]);
        row.extend(row![if has_index { "d" } else { "n" }, false, 0u32, Cell::Null, Cell::Null, Cell::Null]);
        row
    };
    let mut rows = Vec::new();
    for relation in catalog.named_relations() {
        let key = primary_key(relation);
        let am = if matches!(relkind(relation), "v" | "f") { 0 } else { HEAP };
        let shown = relation.columns.iter().filter(|column| !column.hidden).count();
        let has_index = key.is_some() || catalog.indexes().any(|index| index.of == relation.id);
        rows.push(class(relation.id.0, &relation.name, relkind(relation), shown, has_index, am));
        if let Some(key) = key {
            rows.push(class(index_oid(relation), &format!("{}_pkey", relation.name), "i", key.len(), false, BTREE));
        }
    }
    for index in catalog.indexes() {
        rows.push(class(index.id.0, &index.name, "i", index.columns.len(), false, BTREE));
    }
    rows
}

/// Each default as its text, which `pg_get_expr` gives back.
fn defaults(catalog: &Catalog) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for (relation, number, text) in texts_of_defaults(catalog) {
        rows.push(row![0x6000_0000 | rows.len() as u32, relation, number as i64, text]);
    }
    rows
}

/// Relation, number of the column from 1, text.
pub(super) fn texts_of_defaults(catalog: &Catalog) -> Vec<(u32, usize, String)> {
    let of_relation = |relation: &Arc<Relation>| {
        let columns = relation.columns.iter().enumerate();
        let id = relation.id.0;
        columns.filter_map(|(n, column)| Some((id, n + 1, column.default.clone()?))).collect::<Vec<_>>()
    };
    catalog.named_relations().flat_map(of_relation).collect()
}

fn attribute(relation: u32, number: usize, column: &Column, not_null: bool) -> Vec<Cell> {
    let (name, sql_type) = (column.name.as_str(), &column.sql_type);
    let has_default = column.default.is_some();
    let told = pg_type(sql_type);
    let dimensions = i64::from(matches!(sql_type, SqlType::List(_)));
    let mut row = row![relation, name, told.oid, -1i64, i64::from(told.length), number as i64 + 1, dimensions];
    row.extend(row![i64::from(told.modifier), told.length > 0 && told.length <= 8, "p", "", "i", not_null]);
    row.extend(row![has_default, false, "", "", false, true, 0i64, 0u32, Cell::Null, Cell::Null, Cell::Null]);
    row
}

fn attributes(catalog: &Catalog) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for relation in catalog.named_relations() {
        for (number, column) in relation.columns.iter().enumerate().filter(|(_, column)| !column.hidden) {
            let not_null = !column.nullable && matches!(relation.kind, RelationKind::Table(_));
            rows.push(attribute(relation.id.0, number, column, not_null));
        }
        for (number, index) in primary_key(relation).unwrap_or_default().iter().enumerate() {
            let column = Column { default: None, ..relation.columns[*index].clone() };
            rows.push(attribute(index_oid(relation), number, &column, false));
        }
    }
    for index in catalog.indexes() {
        let Some(relation) = catalog.relation(index.of) else { continue };
        for (number, column) in index.columns.iter().enumerate() {
            let column = Column { default: None, ..relation.columns[*column].clone() };
            rows.push(attribute(index.id.0, number, &column, false));
        }
    }
    rows
}

fn keys(tables: &Tables, catalog: &Catalog) {
    let (mut indexes, mut constraints) = (Vec::new(), Vec::new());
    for relation in catalog.named_relations() {
        let Some(key) = primary_key(relation) else { continue };
        let numbers = Cell::Int2s(key.iter().map(|i| i16::try_from(i + 1).unwrap_or(i16::MAX)).collect());
        let (id, index, count) = (relation.id.0, index_oid(relation), key.len() as i64);
        let mut row = row![index, id, count, count, true, false, true, false, true, false, true, false, true, true];
        let zeros = Cell::Int2s(vec![0; key.len()]);
        row.extend(row![false, numbers.clone(), zeros.clone(), zeros.clone(), zeros, Cell::Null, Cell::Null]);
        indexes.push(row);
        let name = format!("{}_pkey", relation.name);
        let mut row =
            row![CONSTRAINTS, constraint_oid(relation), name, PUBLIC, "p", false, false, true, id, 0u32, index, 0u32];
        row.extend(row![0u32, " ", " ", " ", true, 0i64, true, numbers, Cell::Null, Cell::Null]);
        constraints.push(row);
    }
    for index in catalog.indexes() {
        let numbers = index.columns.iter().map(|i| i16::try_from(i + 1).unwrap_or(i16::MAX)).collect();
        let (id, count) = (index.of.0, index.columns.len() as i64);
        let mut row =
            row![index.id.0, id, count, count, false, false, false, false, true, false, true, false, true, true];
        let zeros = Cell::Int2s(vec![0; index.columns.len()]);
        let numbers = Cell::Int2s(numbers);
        row.extend(row![false, numbers, zeros.clone(), zeros.clone(), zeros, Cell::Null, Cell::Null]);
        indexes.push(row);
    }
    tables.add(
        "pg_index",
        "indexrelid:o indrelid:o indnatts:i2 indnkeyatts:i2 indisunique:b indnullsnotdistinct:b indisprimary:b \
         indisexclusion:b indimmediate:b indisclustered:b indisvalid:b indcheckxmin:b indisready:b indislive:b \
         indisreplident:b indkey:a indcollation:a indclass:a indoption:a indexprs:t indpred:t",
        indexes,
    );
    tables.add(
        "pg_constraint",
        "tableoid:o oid:o conname:t connamespace:o contype:t condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o \
         conindid:o conparentid:o confrelid:o confupdtype:t confdeltype:t confmatchtype:t conislocal:b coninhcount:i4 \
         connoinherit:b conkey:a confkey:a conbin:t",
        constraints,
    );
}

/// psql's `\d` of a foreign table wants exactly one server for it.
fn foreign(tables: &Tables, catalog: &Catalog) {
    let server = row![SERVER, "mainstem", OWNER, 0u32, Cell::Null, Cell::Null, Cell::Null];
    tables.add(
        "pg_foreign_server",
        "oid:o srvname:t srvowner:o srvfdw:o srvtype:t srvversion:t srvoptions:ta",
        vec![server],
    );
    let sources = catalog.named_relations().filter(|relation| matches!(relation.kind, RelationKind::Source(_)));
    let rows = sources.map(|source| row![source.id.0, SERVER, Cell::Null]);
    tables.add("pg_foreign_table", "ftrelid:o ftserver:o ftoptions:ta", rows.collect());
}

fn types(tables: &Tables) {
    let mut rows = Vec::new();
    let one = |oid: u32, name: &str, length: i64, category: &str, element: u32, array: u32| {
        let kind = if category == "P" { "p" } else { "b" };
        let by_value = (1..=8).contains(&length);
        let mut row = row![oid, name, PG_CATALOG, OWNER, length, by_value, kind, category, false, true, ",", 0u32];
        row.extend(row![
            element,
            array,
            if element == 0 { "" } else { "array_in" },
            "",
            "i",
            "p",
            false,
            0u32,
            -1i64,
            0i64,
            0u32,
            Cell::Null
        ]);
        row
    };
    for (oid, name, length, category, array) in TYPES {
        rows.push(one(*oid, name, *length, category, 0, *array));
        if *array != 0 {
            rows.push(one(*array, &format!("_{name}"), -1, "A", *oid, 0));
        }
    }
    tables.add(
        "pg_type",
        "oid:o typname:t typnamespace:o typowner:o typlen:i2 typbyval:b typtype:t typcategory:t typispreferred:b \
         typisdefined:b typdelim:t typrelid:o typelem:o typarray:o typinput:t typoutput:t typalign:t typstorage:t \
         typnotnull:b typbasetype:o typtypmod:i4 typndims:i4 typcollation:o typdefault:t",
        rows,
    );
}

fn server(tables: &Tables, session: &Session) {
    let namespaces = [
        (PG_CATALOG, "pg_catalog"),
        (PUBLIC, "public"),
        (INFORMATION_SCHEMA, "information_schema"),
        (MAINSTEM, "mainstem"),
    ];
    let rows = namespaces.map(|(oid, name)| row![oid, name, OWNER, Cell::Null]);
    tables.add("pg_namespace", "oid:o nspname:t nspowner:o nspacl:ta", rows.to_vec());
    let mut database =
        row![DATABASE, session.database.as_str(), OWNER, 6i64, "c", false, true, -1i64, 0u32, 0u32, 0u32];
    database.extend(row!["C", "C.UTF-8", Cell::Null, Cell::Null, Cell::Null]);
    tables.add(
        "pg_database",
        "oid:o datname:t datdba:o encoding:i4 datlocprovider:t datistemplate:b datallowconn:b datconnlimit:i4 \
         datfrozenxid:o datminmxid:o dattablespace:o datcollate:t datctype:t daticulocale:t datcollversion:t datacl:ta",
        vec![database],
    );
    let user = session.user.as_str();
    let mut role = row![OWNER, user, true, true, true, true, true, true, true, -1i64, "********"];
    role.extend(row![Cell::Null, Cell::Null]);
    tables.add(
        "pg_roles",
        "oid:o rolname:t rolsuper:b rolinherit:b rolcreaterole:b rolcreatedb:b rolcanlogin:b rolreplication:b \
         rolbypassrls:b rolconnlimit:i4 rolpassword:t rolvaliduntil:t rolconfig:ta",
        vec![role],
    );
    tables.add(
        "pg_user",
        "usename:t usesysid:o usecreatedb:b usesuper:b userepl:b usebypassrls:b passwd:t valuntil:t useconfig:ta",
        vec![row![user, OWNER, true, true, true, true, "********", Cell::Null, Cell::Null]],
    );
    tables.add(
        "pg_am",
        "oid:o amname:t amhandler:o amtype:t",
        vec![row![HEAP, "heap", 0u32, "t"], row![BTREE, "btree", 0u32, "i"]],
    );
    tables.add("pg_tablespace", "oid:o spcname:t spcowner:o", vec![row![1663u32, "pg_default", OWNER]]);
    let settings = session.settings.all().into_iter();
    let settings =
        settings.map(|(name, value, text)| row![name, value, Cell::Null, "Mainstem", text, "user", "session"]);
    let words =
        ["all", "analyse", "analyze", "array", "ilike", "limit", "offset", "returning", "subscribe", "watermark"];
    let words = words.map(|word| row![word, "R", "reserved"]);
    tables.add(KEYWORDS, "word:t catcode:t catdesc:t", words.to_vec());
    tables.add("pg_settings", "name:t setting:t unit:t category:t short_desc:t context:t source:t", settings.collect());
}

fn definitions(tables: &Tables, session: &Session, catalog: &Catalog) {
    let user = session.user.as_str();
    let (mut plain, mut views, mut materialized) = (vec![], vec![], vec![]);
    for relation in catalog.named_relations() {
        let name = relation.name.as_str();
        match &relation.kind {
            RelationKind::View(view) => views.push(row!["public", name, user, view.query.as_str()]),
            RelationKind::MaterializedView(view) => {
                materialized.push(row!["public", name, user, Cell::Null, false, true, view.query.as_str()]);
            }
            _ => {
                plain.push(row!["public", name, user, Cell::Null, primary_key(relation).is_some(), false, false, false])
            }
        }
    }
    let mut indexes = Vec::new();
    for index in index_definitions(catalog).into_values() {
        indexes.push(row!["public", index.relation, index.name, Cell::Null, index.definition]);
    }
    tables.add("pg_indexes", "schemaname:t tablename:t indexname:t tablespace:t indexdef:t", indexes);
    tables.add(
        "pg_tables",
        "schemaname:t tablename:t tableowner:t tablespace:t hasindexes:b hasrules:b hastriggers:b rowsecurity:b",
        plain,
    );
    tables.add("pg_views", "schemaname:t viewname:t viewowner:t definition:t", views);
    tables.add(
        "pg_matviews",
        "schemaname:t matviewname:t matviewowner:t tablespace:t hasindexes:b ispopulated:b definition:t",
        materialized,
    );
}

/// An index as `pg_indexes` and `pg_get_indexdef` tell of it.
pub(super) struct IndexText {
    relation: String,
    pub(super) name: String,
    /// Quoted.
    pub(super) columns: Vec<String>,
    /// The statement that would make it.
    pub(super) definition: String,
}

/// By oid, primary keys included.
pub(super) fn index_definitions(catalog: &Catalog) -> BTreeMap<u32, IndexText> {
    let mut all = BTreeMap::new();
    let define = |unique: &str, name: &str, relation: &Relation, columns: &[usize]| {
        let columns: Vec<String> = columns.iter().map(|i| quoted(&relation.columns[*i].name)).collect();
        let (index, of, names) = (quoted(name), quoted(&relation.name), columns.join(", "));
        let definition = format!("CREATE {unique}INDEX {index} ON public.{of} USING btree ({names})");
        IndexText { relation: relation.name.clone(), name: name.to_owned(), columns, definition }
    };
    for relation in catalog.relations() {
        if let Some(key) = primary_key(relation) {
            let name = format!("{}_pkey", relation.name);
            all.insert(index_oid(relation), define("UNIQUE ", &name, relation, key));
        }
    }
    for index in catalog.indexes() {
        let Some(relation) = catalog.relation(index.of) else { continue };
        all.insert(index.id.0, define("", &index.name, relation, &index.columns));
    }
    all
}

/// The name of a type by its oid, with its modifier: `format_type`.
pub(super) fn format_type(oid: u32, modifier: Option<i64>) -> String {
    let element = TYPES.iter().find(|(_, _, _, _, array)| *array == oid && oid != 0);
    if let Some((element, ..)) = element {
        return format!("{}[]", format_type(*element, modifier));
    }
    let name = match oid {
        16 => "boolean",
        20 => "bigint",
        21 => "smallint",
        23 => "integer",
        700 => "real",
        701 => "double precision",
        1042 => "character",
        1043 => "character varying",
        1083 => "time without time zone",
        1114 => "timestamp without time zone",
        1184 => "timestamp with time zone",
        1700 => match modifier.filter(|modifier| *modifier >= 4) {
            Some(modifier) => return format!("numeric({},{})", (modifier - 4) >> 16, (modifier - 4) & 0xffff),
            None => "numeric",
        },
        oid => match TYPES.iter().find(|(known, ..)| *known == oid) {
            Some((_, name, ..)) => name,
            None => "???",
        },
    };
    name.to_owned()
}

/// The oid of a type by its name, PostgreSQL's or SQL's.
pub(super) fn type_oid(name: &str) -> Option<u32> {
    let by_name = TYPES.iter().find(|(oid, known, ..)| *known == name || format_type(*oid, None) == name);
    by_name.map(|(oid, ..)| *oid).or_else(|| (name == "text").then(|| oid_of(&SqlType::Text)))
}
