//! Functions that PostgreSQL's tools call. Each works on the text of its arguments, row by row: what they look at is small.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int16Array, Int32Array, ListArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Int16Type};
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;
use mainstem_catalog::{Catalog, RelationKind};

use super::pg_catalog::{self, constraint_oid, format_type, primary_key};
use crate::session::Session;

/// The name of a relation by its oid: what a cast of an oid to `regclass` shows.
pub(super) const REGCLASS_TEXT: &str = "mainstem_regclass_text";
/// The name of a type by its oid.
pub(super) const REGTYPE_TEXT: &str = "mainstem_regtype_text";
/// The name of a schema by its oid.
pub(super) const REGNAMESPACE_TEXT: &str = "mainstem_regnamespace_text";
/// `information_schema._pg_expandarray` as a list, to be unnested.
pub(super) const EXPAND_ARRAY: &str = "_pg_expandarray";
/// The subscripts of an `int2vector`, from 0, as a list, to be unnested.
pub(super) const SUBSCRIPTS: &str = "mainstem_subscripts";
/// The default of a column by its relation's oid and its number.
pub(super) const DEFAULT_TEXT: &str = "mainstem_default_text";

type Body = Arc<dyn Fn(&[Option<&str>]) -> Option<String> + Send + Sync>;

/// Null whatever the arguments.
const NULLS: &[&str] = &[
    "col_description",
    "obj_description",
    "shobj_description",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_functiondef",
    "pg_get_partkeydef",
    "pg_get_serial_sequence",
    "pg_get_ruledef",
    "pg_get_statisticsobjdef_columns",
    "pg_get_triggerdef",
    "inet_client_addr",
    "inet_server_addr",
    "pg_tablespace_location",
];
/// True whatever the arguments.
const TRUES: &[&str] = &[
    "has_any_column_privilege",
    "has_column_privilege",
    "has_database_privilege",
    "has_function_privilege",
    "has_schema_privilege",
    "has_sequence_privilege",
    "has_table_privilege",
    "has_tablespace_privilege",
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_function_is_visible",
    "pg_has_role",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_opfamily_is_visible",
    "pg_statistics_obj_is_visible",
    "pg_table_is_visible",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "pg_type_is_visible",
];
const FALSES: &[&str] =
    &["pg_is_in_recovery", "pg_is_other_temp_schema", "pg_relation_is_publishable", "row_security_active"];
const ZEROS: &[&str] =
    &["pg_my_temp_schema", "pg_relation_size", "pg_table_size", "pg_total_relation_size", "pg_database_size"];
const OTHERS: &[&str] = &[
    "current_catalog",
    "current_database",
    "current_role",
    "current_schema",
    "current_setting",
    "current_user",
    "format_type",
    "generate_subscripts",
    "getdatabaseencoding",
    "pg_char_to_encoding",
    "pg_backend_pid",
    "pg_client_encoding",
    "pg_encoding_to_char",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_indexdef",
    "pg_get_userbyid",
    "pg_get_viewdef",
    "pg_size_pretty",
    "quote_ident",
    "quote_literal",
    "session_user",
    "to_regclass",
    "to_regtype",
    "user",
    "version",
    "current_schemas",
    EXPAND_ARRAY,
    DEFAULT_TEXT,
];

/// Whether a function is of this module.
pub(super) fn is_known(name: &str) -> bool {
    [NULLS, TRUES, FALSES, ZEROS, OTHERS].iter().any(|names| names.contains(&name))
}

/// Makes all of them known to the context.
pub(crate) fn register(context: &SessionContext, session: &Session, catalog: &Catalog) {
    let add = |name: &str, returns: DataType, body: Body| {
        context.register_udf(ScalarUDF::from(TextFunction::new(name, returns, body)));
    };
    let constant = |name: &str, returns: DataType, value: Option<&str>| {
        let value = value.map(str::to_owned);
        add(name, returns, Arc::new(move |_| value.clone()));
    };
    NULLS.iter().for_each(|name| constant(name, DataType::Utf8, None));
    TRUES.iter().for_each(|name| constant(name, DataType::Boolean, Some("true")));
    FALSES.iter().for_each(|name| constant(name, DataType::Boolean, Some("false")));
    ZEROS.iter().for_each(|name| constant(name, DataType::Int64, Some("0")));
    for name in ["current_user", "session_user", "user", "current_role", "pg_get_userbyid"] {
        constant(name, DataType::Utf8, Some(&session.user));
    }
    for name in ["current_database", "current_catalog"] {
        constant(name, DataType::Utf8, Some(&session.database));
    }
    constant("current_schema", DataType::Utf8, Some("public"));
    constant("pg_char_to_encoding", DataType::Int32, Some("6"));
    for name in ["getdatabaseencoding", "pg_client_encoding", "pg_encoding_to_char"] {
        constant(name, DataType::Utf8, Some("UTF8"));
    }
    constant("pg_backend_pid", DataType::Int32, Some("1"));
    let version = format!("PostgreSQL 15.0 (Mainstem {})", session.shared.version);
    constant("version", DataType::Utf8, Some(&version));
    let settings: HashMap<String, String> =
        session.settings.all().into_iter().map(|(name, value, _)| (name.to_owned(), value)).collect();
    add(
        "current_setting",
        DataType::Utf8,
        Arc::new(move |args| settings.get(&args.first()?.as_ref()?.to_lowercase()).cloned()),
    );
    add(
        "format_type",
        DataType::Utf8,
        Arc::new(|args| {
            let oid = args.first()?.as_ref()?.parse().ok()?;
            Some(format_type(oid, args.get(1).copied().flatten().and_then(|text| text.parse().ok())))
        }),
    );
    add("quote_ident", DataType::Utf8, Arc::new(|args| Some(quoted(args.first()?.as_ref()?))));
    add("quote_literal", DataType::Utf8, Arc::new(|args| Some(crate::values::literal_text(args.first()?.as_ref()?))));
    add("pg_size_pretty", DataType::Utf8, Arc::new(|args| Some(format!("{} bytes", args.first()?.as_ref()?))));
    names_of_oids(&add, catalog);
    add("pg_get_expr", DataType::Utf8, Arc::new(|args| args.first()?.map(str::to_owned)));
    let defaults: HashMap<(String, String), String> = pg_catalog::texts_of_defaults(catalog)
        .into_iter()
        .map(|(relation, number, text)| ((relation.to_string(), number.to_string()), text))
        .collect();
    add(
        DEFAULT_TEXT,
        DataType::Utf8,
        Arc::new(move |args| {
            let [relation, number] = [args.first()?.as_ref()?, args.get(1)?.as_ref()?];
            defaults.get(&((*relation).to_owned(), (*number).to_owned())).cloned()
        }),
    );
    context.register_udf(ScalarUDF::from(ExpandArray::new()));
    context.register_udf(ScalarUDF::from(Subscripts::new()));
}

fn names_of_oids(add: &dyn Fn(&str, DataType, Body), catalog: &Catalog) {
    let (mut relations, mut indexes, mut constraints, mut views) =
        (HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new());
    for relation in catalog.named_relations() {
        relations.insert(relation.id.0.to_string(), quoted(&relation.name));
        if let RelationKind::View(view) | RelationKind::MaterializedView(view) = &relation.kind {
            views.insert(relation.id.0.to_string(), view.query.clone());
        }
        if let Some(key) = primary_key(relation) {
            let columns: Vec<String> = key.iter().map(|i| quoted(&relation.columns[*i].name)).collect();
            let columns = columns.join(", ");
            constraints.insert(constraint_oid(relation).to_string(), format!("PRIMARY KEY ({columns})"));
        }
    }
    for (oid, index) in pg_catalog::index_definitions(catalog) {
        indexes.insert(oid.to_string(), (index.definition, index.columns));
        relations.insert(oid.to_string(), quoted(&index.name));
    }
    let oids: HashMap<String, String> = relations.iter().map(|(oid, name)| (name.clone(), oid.clone())).collect();
    let lookup =
        |map: HashMap<String, String>| -> Body { Arc::new(move |args| map.get(*args.first()?.as_ref()?).cloned()) };
    add("pg_get_viewdef", DataType::Utf8, lookup(views));
    // With a number, that column alone.
    add(
        "pg_get_indexdef",
        DataType::Utf8,
        Arc::new(move |args| {
            let (definition, columns) = indexes.get(*args.first()?.as_ref()?)?;
            match args.get(1).copied().flatten().and_then(|number| number.parse::<usize>().ok()) {
                None | Some(0) => Some(definition.clone()),
                Some(number) => columns.get(number - 1).cloned(),
            }
        }),
    );
    add("pg_get_constraintdef", DataType::Utf8, lookup(constraints));
    add(
        "to_regclass",
        DataType::UInt32,
        Arc::new(move |args| {
            let name = args.first()?.as_ref()?.trim_start_matches("public.");
            let system = name.strip_prefix("pg_catalog.").unwrap_or(name);
            oids.get(name).cloned().or_else(|| pg_catalog::system_oid(system).map(|oid| oid.to_string()))
        }),
    );
    add(
        "to_regtype",
        DataType::UInt32,
        Arc::new(|args| pg_catalog::type_oid(args.first()?.as_ref()?).map(|oid| oid.to_string())),
    );
    add(
        REGCLASS_TEXT,
        DataType::Utf8,
        Arc::new(move |args| {
            let oid = args.first()?.as_ref()?;
            Some(relations.get(*oid).cloned().unwrap_or_else(|| (*oid).to_owned()))
        }),
    );
    add(
        REGTYPE_TEXT,
        DataType::Utf8,
        Arc::new(|args| {
            let text = args.first()?.as_ref()?;
            Some(
                text.parse().map_or_else(
                    |_| (*text).to_owned(),
                    |oid| if oid == 0 { "-".into() } else { format_type(oid, None) },
                ),
            )
        }),
    );
    add(
        REGNAMESPACE_TEXT,
        DataType::Utf8,
        Arc::new(|args| {
            let oid = args.first()?.as_ref()?;
            let name = match oid.parse::<u32>() {
                Ok(pg_catalog::PG_CATALOG) => "pg_catalog",
                Ok(pg_catalog::PUBLIC) => "public",
                Ok(pg_catalog::INFORMATION_SCHEMA) => "information_schema",
                Ok(pg_catalog::MAINSTEM) => "mainstem",
                _ => oid,
            };
            Some(name.to_owned())
        }),
    );
}

/// An identifier as SQL text.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

fn any_arguments() -> Signature {
    Signature::one_of(vec![TypeSignature::Nullary, TypeSignature::VariadicAny], Volatility::Stable)
}

/// A function over the text of its arguments.
struct TextFunction {
    name: String,
    signature: Signature,
    returns: DataType,
    body: Body,
}

impl TextFunction {
    fn new(name: &str, returns: DataType, body: Body) -> TextFunction {
        TextFunction { name: name.to_owned(), signature: any_arguments(), returns, body }
    }
}

impl fmt::Debug for TextFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl PartialEq for TextFunction {
    fn eq(&self, other: &TextFunction) -> bool {
        self.name == other.name
    }
}

impl Eq for TextFunction {}

impl Hash for TextFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for TextFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let columns = args.args.iter().map(|arg| {
            let array = arg.to_array(rows)?;
            Ok(cast(&array, &DataType::Utf8).unwrap_or_else(|_| Arc::new(StringArray::new_null(rows))))
        });
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let texts: Vec<&StringArray> = columns.iter().map(|column| column.as_string::<i32>()).collect();
        let result: StringArray = (0..rows)
            .map(|row| {
                let values: Vec<Option<&str>> =
                    texts.iter().map(|column| column.is_valid(row).then(|| column.value(row))).collect();
                (self.body)(&values)
            })
            .collect();
        Ok(ColumnarValue::Array(cast(&result, &self.returns)?))
    }
}

/// See [`SUBSCRIPTS`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Subscripts {
    signature: Signature,
}

impl Subscripts {
    fn new() -> Subscripts {
        Subscripts { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Subscripts {
    fn name(&self) -> &str {
        SUBSCRIPTS
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let wanted = DataType::List(Arc::new(Field::new_list_field(DataType::Int16, true)));
        let lists = cast(&args.args[0].to_array(args.number_rows)?, &wanted)?;
        let lists = lists.as_list::<i32>();
        let (mut subscripts, mut lengths) = (Vec::new(), Vec::new());
        for list in lists.iter() {
            let length = list.map_or(0, |list| list.len());
            subscripts.extend((0..).take(length));
            lengths.push(length);
        }
        let field = Arc::new(Field::new_list_field(DataType::Int32, true));
        let items = Arc::new(Int32Array::from(subscripts));
        let lists = ListArray::new(field, OffsetBuffer::from_lengths(lengths), items, None);
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

/// Items of an array with their places, from 1: a list of `(x, n)`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExpandArray {
    signature: Signature,
}

impl ExpandArray {
    fn new() -> ExpandArray {
        ExpandArray { signature: Signature::any(1, Volatility::Immutable) }
    }

    fn fields() -> Fields {
        vec![Field::new("x", DataType::Int16, true), Field::new("n", DataType::Int32, true)].into()
    }
}

impl ScalarUDFImpl for ExpandArray {
    fn name(&self) -> &str {
        EXPAND_ARRAY
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Struct(Self::fields()), true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let wanted = DataType::List(Arc::new(Field::new_list_field(DataType::Int16, true)));
        let lists = cast(&args.args[0].to_array(args.number_rows)?, &wanted)?;
        let lists = lists.as_list::<i32>();
        let (mut items, mut places, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for list in lists.iter() {
            let list = list.unwrap_or_else(|| Arc::new(Int16Array::from(Vec::<i16>::new())));
            items.extend(list.as_primitive::<Int16Type>().iter());
            places.extend((1..).take(list.len()));
            lengths.push(list.len());
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(Int16Array::from(items)), Arc::new(Int32Array::from(places))];
        let structs = StructArray::new(Self::fields(), columns, None);
        let field = Arc::new(Field::new_list_field(DataType::Struct(Self::fields()), true));
        let lists = ListArray::new(field, OffsetBuffer::from_lengths(lengths), Arc::new(structs), None);
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}
