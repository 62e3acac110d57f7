//! PostgreSQL's operators and functions of jsonb.
//!
//! A value is its text. What is asked for is cut out of it without building the rest; of equal keys the last one counts, as in
//! PostgreSQL. Text that is no JSON is an error.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, ListArray, ListBuilder, StringArray, StringBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::DFSchema;
use datafusion::common::{Result, exec_datafusion_err, plan_err};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use mainstem_catalog::SqlType;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::scalar_function;
use crate::arrow_types::{sql_type, typed_field};

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `->`
    Get,
    /// `->>`
    GetText,
    /// `#>`, and as a function with any number of texts.
    Path,
    /// `#>>`
    PathText,
    /// `@>`
    Contains,
    /// `?`
    Has,
    /// `?|`
    HasAny,
    /// `?&`
    HasAll,
    Typeof,
    ArrayLength,
    /// Items of an array, as a list.
    Items,
    ItemsText,
    /// Keys of an object, as a list.
    Keys,
    BuildObject,
    BuildArray,
    ToJson,
}

const ALL: [(Kind, &str, &[&str]); 16] = [
    (Kind::Get, "jsonb_object_field", &[]),
    (Kind::GetText, "jsonb_object_field_text", &[]),
    (Kind::Path, "jsonb_extract_path", &["json_extract_path"]),
    (Kind::PathText, "jsonb_extract_path_text", &["json_extract_path_text"]),
    (Kind::Contains, "jsonb_contains", &[]),
    (Kind::Has, "jsonb_exists", &[]),
    (Kind::HasAny, "jsonb_exists_any", &[]),
    (Kind::HasAll, "jsonb_exists_all", &[]),
    (Kind::Typeof, "jsonb_typeof", &["json_typeof"]),
    (Kind::ArrayLength, "jsonb_array_length", &["json_array_length"]),
    (Kind::Items, "__jsonb_items", &[]),
    (Kind::ItemsText, "__jsonb_items_text", &[]),
    (Kind::Keys, "__jsonb_keys", &[]),
    (Kind::BuildObject, "jsonb_build_object", &["json_build_object"]),
    (Kind::BuildArray, "jsonb_build_array", &["json_build_array"]),
    (Kind::ToJson, "to_jsonb", &["to_json"]),
];

pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    let function = |(kind, name, aliases): (Kind, &'static str, &[&str])| {
        let signature = match kind {
            Kind::Typeof | Kind::ArrayLength | Kind::Items | Kind::ItemsText | Kind::Keys | Kind::ToJson => {
                Signature::any(1, Volatility::Immutable)
            }
            Kind::BuildObject | Kind::BuildArray => Signature::one_of(
                vec![
                    datafusion::logical_expr::TypeSignature::Nullary,
                    datafusion::logical_expr::TypeSignature::VariadicAny,
                ],
                Volatility::Immutable,
            ),
            Kind::Path | Kind::PathText => Signature::variadic_any(Volatility::Immutable),
            _ => Signature::any(2, Volatility::Immutable),
        };
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        Arc::new(ScalarUDF::new_from_impl(JsonFunction { kind, name, aliases, signature }))
    };
    ALL.into_iter().map(function).collect()
}

/// The function behind one that PostgreSQL has as a set of rows: its rows as a list.
pub(crate) fn list_function(name: &str) -> Option<&'static str> {
    match name {
        "jsonb_array_elements" | "json_array_elements" => Some("__jsonb_items"),
        "jsonb_array_elements_text" | "json_array_elements_text" => Some("__jsonb_items_text"),
        "jsonb_object_keys" | "json_object_keys" => Some("__jsonb_keys"),
        _ => None,
    }
}

/// `->` and the others.
#[derive(Debug)]
pub(crate) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as B;
        let is_text = |expr: &datafusion::logical_expr::Expr| expr.get_type(schema).is_ok_and(|of| of.is_string());
        let (name, is_swapped) = match expr.op {
            B::Arrow => ("jsonb_object_field", false),
            B::LongArrow => ("jsonb_object_field_text", false),
            B::HashArrow => ("jsonb_extract_path", false),
            B::HashLongArrow => ("jsonb_extract_path_text", false),
            B::AtArrow if is_text(&expr.left) => ("jsonb_contains", false),
            B::ArrowAt if is_text(&expr.left) => ("jsonb_contains", true),
            B::Question => ("jsonb_exists", false),
            B::QuestionPipe => ("jsonb_exists_any", false),
            B::QuestionAnd => ("jsonb_exists_all", false),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let function = scalar_function(name).expect("one of ours");
        let arguments = if is_swapped { vec![expr.right, expr.left] } else { vec![expr.left, expr.right] };
        Ok(PlannerResult::Planned(function.call(arguments)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    kind: Kind,
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(crate::arrow_types::arrow_type(&self.result()))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let of_json = !matches!(self.kind, Kind::BuildObject | Kind::BuildArray | Kind::ToJson);
        let is_text = |field: &FieldRef| field.data_type().is_string() || field.data_type() == &DataType::Null;
        if of_json && args.arg_fields.first().is_some_and(|field| !is_text(field)) {
            return plan_err!("{}() takes jsonb", self.name);
        }
        if self.kind == Kind::BuildObject && args.arg_fields.len() % 2 != 0 {
            return plan_err!("argument list must have even number of elements");
        }
        Ok(Arc::new(typed_field(self.name, &self.result())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(match self.kind {
            Kind::BuildObject | Kind::BuildArray | Kind::ToJson => self.build(&arrays, &args.arg_fields, rows)?,
            _ => self.ask(&texts(&arrays[0])?, &arrays[1..])?,
        }))
    }
}

impl JsonFunction {
    fn result(&self) -> SqlType {
        match self.kind {
            Kind::Get | Kind::Path | Kind::BuildObject | Kind::BuildArray | Kind::ToJson => SqlType::Jsonb,
            Kind::GetText | Kind::PathText | Kind::Typeof => SqlType::Text,
            Kind::Contains | Kind::Has | Kind::HasAny | Kind::HasAll => SqlType::Boolean,
            Kind::ArrayLength => SqlType::Integer,
            Kind::Items => SqlType::List(Box::new(SqlType::Jsonb)),
            Kind::ItemsText | Kind::Keys => SqlType::List(Box::new(SqlType::Text)),
        }
    }

    fn ask(&self, json: &StringArray, arguments: &[ArrayRef]) -> Result<ArrayRef> {
        match self.kind {
            Kind::Get | Kind::GetText => {
                let steps = Steps::of(&arguments[0])?;
                self.cut(json, |row| Ok(steps.get(row).map(|step| vec![step])))
            }
            Kind::Path | Kind::PathText => {
                let paths = Paths::of(arguments)?;
                self.cut(json, |row| paths.get(row))
            }
            Kind::Contains => {
                let other = texts(&arguments[0])?;
                let contains = |row: usize| Ok(contains(&parse(json.value(row))?, &parse(other.value(row))?));
                booleans(json, &other, contains)
            }
            Kind::Has => {
                let keys = texts(&arguments[0])?;
                booleans(json, &keys, |row| has(json.value(row), keys.value(row)))
            }
            Kind::HasAny | Kind::HasAll => {
                let paths = Paths::of(&arguments[..1])?;
                let test = |row: usize| -> Result<Option<bool>> {
                    let Some(keys) = paths.get(row)?.filter(|_| json.is_valid(row)) else { return Ok(None) };
                    let mut found = keys.iter().map(|key| match key {
                        Step::Key(key) => has(json.value(row), key),
                        Step::Item(_) => Ok(false),
                    });
                    let is_any = self.kind == Kind::HasAny;
                    found.try_fold(!is_any, |all, one| Ok(if is_any { all | one? } else { all & one? })).map(Some)
                };
                Ok(Arc::new((0..json.len()).map(test).collect::<Result<BooleanArray>>()?))
            }
            Kind::Typeof => {
                let of = |row: usize| json.is_valid(row).then(|| type_of(json.value(row))).transpose();
                Ok(Arc::new((0..json.len()).map(of).collect::<Result<StringArray>>()?))
            }
            Kind::ArrayLength => {
                let of = |row: usize| json.is_valid(row).then(|| length(json.value(row))).transpose();
                Ok(Arc::new((0..json.len()).map(of).collect::<Result<Int32Array>>()?))
            }
            _ => self.list(json),
        }
    }

    /// The value at the end of each row's path.
    fn cut<'a>(&self, json: &StringArray, path: impl Fn(usize) -> Result<Option<Vec<Step<'a>>>>) -> Result<ArrayRef> {
        let as_text = matches!(self.kind, Kind::GetText | Kind::PathText);
        let mut out = StringBuilder::new();
        for row in 0..json.len() {
            let path = if json.is_valid(row) { path(row)? } else { None };
            let Some(path) = path else {
                out.append_null();
                continue;
            };
            let mut at = Some(json.value(row));
            for step in path {
                at = match at {
                    Some(json) => step.of(json)?,
                    None => None,
                };
            }
            match at {
                Some(found) if as_text => out.append_option(text_of(found)?),
                Some(found) => out.append_value(found),
                None => out.append_null(),
            }
        }
        Ok(Arc::new(out.finish()))
    }

    fn list(&self, json: &StringArray) -> Result<ArrayRef> {
        let DataType::List(item) = crate::arrow_types::arrow_type(&self.result()) else { unreachable!("a list") };
        let mut out = ListBuilder::new(StringBuilder::new()).with_field(item);
        for row in 0..json.len() {
            if json.is_null(row) {
                out.append(false);
                continue;
            }
            let json = json.value(row);
            match self.kind {
                Kind::Keys => {
                    let mut keys = Vec::new();
                    scan(json, "jsonb_object_keys", "an object", &mut |key, _| keys.push(key.into_owned()), None)?;
                    // A key that stands twice is one.
                    let mut seen = std::collections::HashSet::new();
                    keys.iter().filter(|key| seen.insert(*key)).for_each(|key| out.values().append_value(key));
                }
                kind => {
                    let mut items = Vec::new();
                    scan(json, "jsonb_array_elements", "an array", &mut |_, _| {}, Some(&mut |item| items.push(item)))?;
                    for item in items {
                        match kind {
                            Kind::Items => out.values().append_value(item),
                            _ => out.values().append_option(text_of(item)?),
                        }
                    }
                }
            }
            out.append(true);
        }
        Ok(Arc::new(out.finish()))
    }

    fn build(&self, arrays: &[ArrayRef], fields: &[FieldRef], rows: usize) -> Result<ArrayRef> {
        let mut out = StringBuilder::new();
        for row in 0..rows {
            let value = |place: usize| to_json(&arrays[place], &fields[place], row);
            let text = match self.kind {
                Kind::ToJson if arrays[0].is_null(row) => {
                    out.append_null();
                    continue;
                }
                Kind::ToJson => value(0)?,
                Kind::BuildArray => {
                    let items = (0..arrays.len()).map(value).collect::<Result<Vec<_>>>()?;
                    format!("[{}]", items.join(", "))
                }
                _ => {
                    let pair = |place: usize| {
                        if arrays[place].is_null(row) {
                            return Err(exec_datafusion_err!("argument {}: key must not be null", place + 1));
                        }
                        let key = texts(&arrays[place].slice(row, 1))?;
                        Ok(format!("{}: {}", Value::from(key.value(0)), value(place + 1)?))
                    };
                    let pairs = (0..arrays.len()).step_by(2).map(pair).collect::<Result<Vec<_>>>()?;
                    format!("{{{}}}", pairs.join(", "))
                }
            };
            out.append_value(text);
        }
        Ok(Arc::new(out.finish()))
    }
}

fn texts(array: &ArrayRef) -> Result<StringArray> {
    Ok(cast(array, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn booleans(json: &StringArray, other: &StringArray, test: impl Fn(usize) -> Result<bool>) -> Result<ArrayRef> {
    let test = |row: usize| (json.is_valid(row) && other.is_valid(row)).then(|| test(row)).transpose();
    Ok(Arc::new((0..json.len()).map(test).collect::<Result<BooleanArray>>()?))
}

fn invalid(error: &serde_json::Error) -> datafusion::common::DataFusionError {
    exec_datafusion_err!("invalid input syntax for type json: {error}")
}

fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(|error| invalid(&error))
}

/// Where to go from a value.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Key(&'a str),
    /// From the end if negative.
    Item(i64),
}

impl Step<'_> {
    fn of<'j>(self, json: &'j str) -> Result<Option<&'j str>> {
        let (mut found, mut items) = (None, Vec::new());
        match self {
            Step::Key(wanted) if is_object(json) => {
                let mut take = |key: Cow<'_, str>, value: &'j str| {
                    if key == wanted {
                        found = Some(value);
                    }
                };
                scan(json, "", "", &mut take, None)?;
            }
            Step::Item(place) if is_array(json) => {
                scan(json, "", "", &mut |_, _| {}, Some(&mut |item| items.push(item)))?;
                let place = if place < 0 { items.len() as i64 + place } else { place };
                found = usize::try_from(place).ok().and_then(|place| items.get(place).copied());
            }
            _ if is_object(json) || is_array(json) => {}
            _ => {
                serde_json::from_str::<IgnoredAny>(json).map_err(|error| invalid(&error))?;
            }
        }
        Ok(found)
    }
}

fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{')
}

fn is_array(json: &str) -> bool {
    json.trim_ascii_start().starts_with('[')
}

/// The right sides of `->`: texts or integers.
enum Steps {
    Keys(StringArray),
    Places(arrow::array::Int64Array),
}

impl Steps {
    fn of(array: &ArrayRef) -> Result<Steps> {
        if array.data_type().is_integer() {
            return Ok(Steps::Places(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone()));
        }
        texts(array).map(Steps::Keys)
    }

    fn get(&self, row: usize) -> Option<Step<'_>> {
        match self {
            Steps::Keys(keys) => keys.is_valid(row).then(|| Step::Key(keys.value(row))),
            Steps::Places(places) => places.is_valid(row).then(|| Step::Item(places.value(row))),
        }
    }
}

/// The right sides of `#>`: a list of texts, the text of one (`{a,b}`), or any number of texts.
enum Paths {
    Lists(ListArray),
    Texts(Vec<StringArray>),
    Written(Vec<Option<Vec<String>>>),
}

impl Paths {
    fn of(arguments: &[ArrayRef]) -> Result<Paths> {
        if let [list] = arguments
            && let DataType::List(_) = list.data_type()
        {
            let texts = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
            return Ok(Paths::Lists(cast(list, &texts)?.as_list::<i32>().clone()));
        }
        let arrays = arguments.iter().map(texts).collect::<Result<Vec<_>>>()?;
        let is_written = |array: &StringArray| {
            array.iter().all(|text| text.is_none_or(|text| text.starts_with('{') && text.ends_with('}')))
        };
        Ok(match arrays.as_slice() {
            [one] if is_written(one) => {
                let parts = |text: &str| {
                    let inner = &text[1..text.len() - 1];
                    let parts = inner.split(',').filter(|_| !inner.is_empty());
                    parts.map(|part| part.trim().trim_matches('"').to_owned()).collect()
                };
                Paths::Written(one.iter().map(|text| text.map(parts)).collect())
            }
            _ => Paths::Texts(arrays),
        })
    }

    fn get(&self, row: usize) -> Result<Option<Vec<Step<'_>>>> {
        Ok(match self {
            Paths::Lists(lists) => {
                let start = lists.value_offsets()[row] as usize;
                let values = lists.values().as_string::<i32>();
                let places = start..start + lists.value_length(row) as usize;
                let path = places.map(|place| values.is_valid(place).then(|| Step::Key(values.value(place))));
                if lists.is_valid(row) { path.collect() } else { None }
            }
            Paths::Texts(arrays) => {
                arrays.iter().map(|array| array.is_valid(row).then(|| Step::Key(array.value(row)))).collect()
            }
            Paths::Written(paths) => paths[row].as_ref().map(|path| path.iter().map(|part| Step::Key(part)).collect()),
        })
    }
}

/// Visits the members of an object, or the items of an array, each as its text. A `function` that wants the one and gets the
/// other fails.
fn scan<'j>(
    json: &'j str,
    function: &str,
    wanted: &str,
    member: &mut dyn FnMut(Cow<'j, str>, &'j str),
    item: Option<&mut dyn FnMut(&'j str)>,
) -> Result<()> {
    let fits = if item.is_some() { is_array(json) } else { is_object(json) };
    if !fits {
        return Err(exec_datafusion_err!("cannot call {function} on a value that is not {wanted}"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_any(Parts { member, item }).map_err(|error| invalid(&error))
}

struct Parts<'m, 'i, 'j> {
    member: &'m mut dyn FnMut(Cow<'j, str>, &'j str),
    item: Option<&'i mut dyn FnMut(&'j str)>,
}

impl<'j> Visitor<'j> for Parts<'_, '_, 'j> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'j>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Key<'j>>()? {
            (self.member)(key.0, map.next_value::<&'j RawValue>()?.get());
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'j>>(mut self, mut seq: A) -> Result<(), A::Error> {
        match &mut self.item {
            Some(take) => {
                while let Some(value) = seq.next_element::<&'j RawValue>()? {
                    take(value.get());
                }
            }
            None => while seq.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'j>(Cow<'j, str>);

impl<'j> serde::Deserialize<'j> for Key<'j> {
    fn deserialize<D: Deserializer<'j>>(deserializer: D) -> Result<Key<'j>, D::Error> {
        struct Text;
        impl<'j> Visitor<'j> for Text {
            type Value = Key<'j>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'j str) -> Result<Key<'j>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'j>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// As `->>` gives it: a string without its quotes, null as no value.
fn text_of(json: &str) -> Result<Option<String>> {
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).map(Some).map_err(|error| invalid(&error)),
        Some(b'n') => Ok(None),
        _ => Ok(Some(json.to_owned())),
    }
}

fn type_of(json: &str) -> Result<&'static str> {
    Ok(match parse(json)? {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    })
}

fn length(json: &str) -> Result<i32> {
    let mut count = 0;
    scan(json, "jsonb_array_length", "an array", &mut |_, _| {}, Some(&mut |_| count += 1))?;
    Ok(count)
}

/// A key of the object, a string of the array, or the string itself.
fn has(json: &str, key: &str) -> Result<bool> {
    Ok(match parse(json)? {
        Value::Object(of) => of.contains_key(key),
        Value::Array(of) => of.iter().any(|item| item.as_str() == Some(key)),
        Value::String(of) => of == key,
        _ => false,
    })
}

fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| inside(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            part.iter().all(|part| whole.iter().any(|whole| inside(whole, part)))
        }
        // An array contains a primitive value.
        (Value::Array(whole), part) if !part.is_object() => whole.iter().any(|whole| same(whole, part)),
        (whole, part) => same(whole, part),
    }
}

/// Like [`contains`], but below the top an array does not stand for its items.
fn inside(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Array(_), part) if !part.is_array() => false,
        _ => contains(whole, part),
    }
}

fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        _ => left == right,
    }
}

/// A value of SQL as JSON.
fn to_json(array: &ArrayRef, field: &Field, row: usize) -> Result<String> {
    if array.is_null(row) || array.data_type() == &DataType::Null {
        return Ok("null".to_owned());
    }
    let one = array.slice(row, 1);
    Ok(match array.data_type() {
        DataType::List(item) => {
            let values = one.as_list::<i32>().value(0);
            let items = (0..values.len()).map(|place| to_json(&values, item, place)).collect::<Result<Vec<_>>>()?;
            format!("[{}]", items.join(", "))
        }
        DataType::Struct(fields) => {
            let parts = one.as_struct();
            let pair = |(field, column): (&FieldRef, &ArrayRef)| {
                Ok(format!("{}: {}", Value::from(field.name().as_str()), to_json(column, field, 0)?))
            };
            let pairs = fields.iter().zip(parts.columns()).map(pair).collect::<Result<Vec<_>>>()?;
            format!("{{{}}}", pairs.join(", "))
        }
        DataType::Boolean => one.as_boolean().value(0).to_string(),
        of if sql_type(field) == SqlType::Jsonb => {
            debug_assert!(of.is_string());
            texts(&one)?.value(0).to_owned()
        }
        DataType::Float32 | DataType::Float64 => {
            let text = texts(&one)?.value(0).to_owned();
            let is_number = text.parse::<f64>().is_ok_and(f64::is_finite);
            if is_number { text.trim_end_matches(".0").to_owned() } else { Value::from(text).to_string() }
        }
        of if of.is_numeric() => texts(&one)?.value(0).to_owned(),
        DataType::Timestamp(..) => Value::from(texts(&one)?.value(0).replace('Z', "+00:00")).to_string(),
        _ => Value::from(texts(&one)?.value(0)).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_out_as_they_are() {
        let json = r#"{"a": 1, "b\n": {"c": [10, "x", null, {"d": 1.50}]}, "a": 2}"#;
        let get = |json, step: Step<'_>| step.of(json).expect("JSON");
        assert_eq!(get(json, Step::Key("a")), Some("2"), "the last one counts");
        let inner = get(json, Step::Key("b\n")).expect("there");
        let list = get(inner, Step::Key("c")).expect("there");
        assert_eq!(get(list, Step::Item(-1)), Some(r#"{"d": 1.50}"#));
        assert_eq!(text_of(get(list, Step::Item(1)).expect("there")).expect("JSON"), Some("x".to_owned()));
        assert_eq!(text_of(get(list, Step::Item(2)).expect("there")).expect("JSON"), None);
        assert_eq!(get(list, Step::Item(4)), None);
        assert_eq!(get(list, Step::Key("0")), None);
        assert!(Step::Key("a").of("{\"a\" 1}").is_err());
        assert!(Step::Key("a").of("no json").is_err());
        assert_eq!(get("12", Step::Key("a")), None);
    }

    #[test]
    fn containment_is_that_of_postgres() {
        let test = |whole: &str, part: &str| contains(&parse(whole).expect("JSON"), &parse(part).expect("JSON"));
        assert!(!test("[1, 2, [1, 3]]", "[1, 3, 3]"));
        assert!(test("[1, 2, [1, 3]]", "[[1, 3]]"));
        assert!(test(r#"{"foo": {"bar": "baz", "x": 1}}"#, r#"{"foo": {"bar": "baz"}}"#));
        assert!(!test(r#"{"foo": {"bar": "baz"}}"#, r#"{"bar": "baz"}"#));
        assert!(test(r#"["foo", "bar"]"#, r#""bar""#));
        assert!(!test(r#""bar""#, r#"["bar"]"#));
        assert!(test(r#"{"a": 1}"#, r#"{"a": 1.0}"#));
        assert!(!test(r#"{"a": [1]}"#, r#"{"a": 1}"#));
    }
}
