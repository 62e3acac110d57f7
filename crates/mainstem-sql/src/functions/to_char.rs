//! `to_char(timestamp | number, pattern)` in PostgreSQL's patterns (PostgreSQL 15, section 9.8). What is not known here is
//! refused by name; it never comes out as text.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, TimeUnit, TimestampMicrosecondType};
use chrono::{Datelike, NaiveDateTime, Timelike};
use datafusion::common::Result;

use crate::error::{SqlError, sqlstate};
use crate::text::datetime::naive;

/// Digits behind the point that a number may have here.
const SCALE: i8 = 10;

/// Whether values of the type can be formatted.
pub(super) fn takes(data_type: &DataType) -> bool {
    is_number(data_type)
        || matches!(data_type, DataType::Timestamp(..) | DataType::Date32 | DataType::Null | DataType::Utf8)
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

pub(super) fn to_char(values: &ArrayRef, patterns: &StringArray) -> Result<StringArray> {
    if is_number(values.data_type()) {
        let decimals = cast(values, &DataType::Decimal128(38, SCALE))?;
        let decimals = decimals.as_primitive::<Decimal128Type>();
        let one = |row: usize| {
            let is_given = decimals.is_valid(row) && patterns.is_valid(row);
            is_given.then(|| number_text(decimals.value(row), patterns.value(row))).transpose()
        };
        return Ok((0..values.len()).map(one).collect::<std::result::Result<_, _>>()?);
    }
    let times = cast(values, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let is_zoned = matches!(values.data_type(), DataType::Timestamp(_, Some(_)));
    let one = |row: usize| {
        let is_given = times.is_valid(row) && patterns.is_valid(row);
        let time = is_given.then(|| naive(times.value(row))).flatten();
        time.map(|time| time_text(time, is_zoned, patterns.value(row))).transpose()
    };
    Ok((0..values.len()).map(one).collect::<std::result::Result<_, _>>()?)
}

/// Longest first where one begins with another.
const TIME_PATTERNS: [&str; 43] = [
    "SSSSS", "SSSS", "Y,YYY", "YYYY", "IYYY", "YYY", "IYY", "YY", "IY", "Y", "HH24", "HH12", "HH", "MI", "SS", "MS",
    "US", "MONTH", "Month", "month", "MON", "Mon", "mon", "MM", "DAY", "Day", "day", "DY", "Dy", "dy", "DDD", "IDDD",
    "DD", "ID", "D", "IW", "WW", "W", "CC", "J", "Q", "RM", "I",
];
const MARKS: [&str; 16] =
    ["A.M.", "P.M.", "a.m.", "p.m.", "AM", "PM", "am", "pm", "TZH", "TZM", "TZ", "tz", "OF", "B.C.", "BC", "AD"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

fn time_text(time: NaiveDateTime, is_zoned: bool, pattern: &str) -> std::result::Result<String, SqlError> {
    let (mut out, mut rest) = (String::new(), pattern);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let quoted = &rest[1..];
            let end = quoted.find('"').unwrap_or(quoted.len());
            out.push_str(&quoted[..end]);
            rest = quoted.get(end + 1..).unwrap_or("");
            continue;
        }
        let (fill, behind) = match rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            Some(behind) => (false, behind),
            None => (true, rest),
        };
        let found = MARKS.into_iter().find(|mark| behind.starts_with(mark)).or_else(|| {
            let cased = ["MONTH", "MON", "DAY", "DY"];
            TIME_PATTERNS.into_iter().find(|known| {
                let start = behind.get(..known.len());
                let is_name = cased.contains(&known.to_uppercase().as_str());
                start.is_some_and(|start| if is_name { start == *known } else { start.eq_ignore_ascii_case(known) })
            })
        });
        let Some(found) = found else {
            if first.is_ascii_alphabetic() {
                let message = format!("to_char() does not know the pattern at \"{rest}\"");
                return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message)
                    .with_hint("Put text that is to be shown as it is into double quotes."));
            }
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        let start = out.len();
        write_field(time, is_zoned, found, fill, &mut out);
        rest = &behind[found.len()..];
        if let Some(behind) = rest.strip_prefix("TH").or_else(|| rest.strip_prefix("th")) {
            let suffix = ordinal(&out[start..]);
            out.push_str(&if rest.starts_with("TH") { suffix.to_uppercase() } else { suffix.to_owned() });
            rest = behind;
        }
    }
    Ok(out)
}

fn ordinal(number: &str) -> &'static str {
    if number.ends_with("11") || number.ends_with("12") || number.ends_with("13") {
        return "th";
    }
    match number.bytes().last() {
        Some(b'1') => "st",
        Some(b'2') => "nd",
        Some(b'3') => "rd",
        _ => "th",
    }
}

fn write_field(time: NaiveDateTime, is_zoned: bool, field: &str, fill: bool, out: &mut String) {
    let year = if time.year() > 0 { time.year() } else { 1 - time.year() };
    let mut number = |value: i64, width: usize| {
        let _ = if fill { write!(out, "{value:0width$}") } else { write!(out, "{value}") };
    };
    let hour12 = i64::from(if time.hour() % 12 == 0 { 12 } else { time.hour() % 12 });
    let micros = i64::from(time.nanosecond() / 1000);
    let iso = time.iso_week();
    let weekday = time.weekday();
    match field {
        "YYYY" => number(year.into(), 4),
        "YYY" => number(i64::from(year % 1000), 3),
        "YY" => number(i64::from(year % 100), 2),
        "Y" => number(i64::from(year % 10), 1),
        "Y,YYY" => {
            let _ = write!(out, "{},{:03}", year / 1000, year % 1000);
        }
        "IYYY" => number(iso.year().into(), 4),
        "IYY" => number(i64::from(iso.year() % 1000), 3),
        "IY" => number(i64::from(iso.year() % 100), 2),
        "I" => number(i64::from(iso.year() % 10), 1),
        "HH24" => number(time.hour().into(), 2),
        "HH12" | "HH" => number(hour12, 2),
        "MI" => number(time.minute().into(), 2),
        "SS" => number(time.second().into(), 2),
        "SSSSS" | "SSSS" => number(time.num_seconds_from_midnight().into(), 1),
        "MS" => number(micros / 1000, 3),
        "US" => number(micros, 6),
        "MM" => number(time.month().into(), 2),
        "DDD" => number(time.ordinal().into(), 3),
        "IDDD" => number(i64::from(iso.week0()) * 7 + i64::from(weekday.number_from_monday()), 3),
        "DD" => number(time.day().into(), 2),
        "D" => number(weekday.number_from_sunday().into(), 1),
        "ID" => number(weekday.number_from_monday().into(), 1),
        "IW" => number(iso.week().into(), 2),
        "WW" => number(i64::from(time.ordinal0() / 7 + 1), 2),
        "W" => number(i64::from(time.day0() / 7 + 1), 1),
        "CC" => number(i64::from((year + 99) / 100), 2),
        "J" => number(i64::from(time.num_days_from_ce()) + 1_721_425, 1),
        "Q" => number(i64::from(time.month0() / 3 + 1), 1),
        "RM" => {
            let name = ROMAN[time.month0() as usize];
            let _ = if fill { write!(out, "{name:<4}") } else { write!(out, "{name}") };
        }
        "A.M." | "P.M." => out.push_str(if time.hour() < 12 { "A.M." } else { "P.M." }),
        "a.m." | "p.m." => out.push_str(if time.hour() < 12 { "a.m." } else { "p.m." }),
        "AM" | "PM" => out.push_str(if time.hour() < 12 { "AM" } else { "PM" }),
        "am" | "pm" => out.push_str(if time.hour() < 12 { "am" } else { "pm" }),
        "TZ" => out.push_str(if is_zoned { "UTC" } else { "" }),
        "tz" => out.push_str(if is_zoned { "utc" } else { "" }),
        "TZH" | "OF" => out.push_str("+00"),
        "TZM" => out.push_str("00"),
        "BC" | "AD" => out.push_str(if time.year() > 0 { "AD" } else { "BC" }),
        "B.C." => out.push_str(if time.year() > 0 { "A.D." } else { "B.C." }),
        _ => write_name(time, field, fill, out),
    }
}

fn write_name(time: NaiveDateTime, field: &str, fill: bool, out: &mut String) {
    let is_month = field.starts_with(['M', 'm']);
    let full =
        if is_month { MONTHS[time.month0() as usize] } else { DAYS[time.weekday().num_days_from_sunday() as usize] };
    let is_short = matches!(field.len(), 2 | 3) && !field.eq_ignore_ascii_case("day");
    let name = if is_short { &full[..3] } else { full };
    let name = match (field.chars().next(), field.chars().nth(1)) {
        (Some(first), _) if first.is_lowercase() => name.to_lowercase(),
        (_, Some(second)) if second.is_uppercase() => name.to_uppercase(),
        _ => name.to_owned(),
    };
    // Full names are filled to nine characters.
    let _ = if fill && !is_short { write!(out, "{name:<9}") } else { write!(out, "{name}") };
}

/// A number's pattern, read.
#[derive(Default)]
struct Layout {
    /// Digits before the point, `true` for those that are always shown, with the separators between them.
    whole: Vec<Place>,
    fraction: Vec<Place>,
    has_point: bool,
    is_filled: bool,
    sign: Sign,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sign {
    /// A minus or a blank before the first digit.
    #[default]
    Before,
    /// `S` in front: always there.
    First,
    /// `S` or `MI` behind.
    Last(bool),
    /// `PR`: in angle brackets.
    Brackets,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    Digit { always: bool },
    Separator,
    Text(String),
}

fn layout_of(pattern: &str) -> std::result::Result<Layout, SqlError> {
    let mut layout = Layout { is_filled: true, ..Layout::default() };
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let upper: String = rest.chars().take(2).collect::<String>().to_uppercase();
        let mut length = c.len_utf8();
        let place = match (c, upper.as_str()) {
            (_, "FM") => {
                layout.is_filled = false;
                length = 2;
                None
            }
            (_, "MI") => {
                layout.sign = Sign::Last(false);
                length = 2;
                None
            }
            (_, "PR") => {
                layout.sign = Sign::Brackets;
                length = 2;
                None
            }
            ('S' | 's', _) => {
                let is_first = layout.whole.is_empty() && layout.fraction.is_empty();
                layout.sign = if is_first { Sign::First } else { Sign::Last(true) };
                None
            }
            ('9', _) => Some(Place::Digit { always: false }),
            ('0', _) => Some(Place::Digit { always: true }),
            (',' | 'G' | 'g', _) => Some(Place::Separator),
            ('.' | 'D' | 'd', _) if !layout.has_point => {
                layout.has_point = true;
                None
            }
            ('"', _) => {
                let text = rest[1..].split('"').next().unwrap_or("");
                length = (text.len() + 2).min(rest.len());
                Some(Place::Text(text.to_owned()))
            }
            (other, _) if !other.is_alphanumeric() && other != '.' => Some(Place::Text(other.to_string())),
            _ => {
                let message = format!("to_char() does not know the pattern at \"{rest}\"");
                return Err(SqlError::new(sqlstate::INVALID_PARAMETER, message));
            }
        };
        if let Some(place) = place {
            if layout.has_point { layout.fraction.push(place) } else { layout.whole.push(place) }
        }
        rest = &rest[length..];
    }
    Ok(layout)
}

fn number_text(value: i128, pattern: &str) -> std::result::Result<String, SqlError> {
    let layout = layout_of(pattern)?;
    let is_digit = |place: &&Place| matches!(place, Place::Digit { .. });
    let wanted = layout.fraction.iter().filter(is_digit).count().min(SCALE.unsigned_abs() as usize);
    let drop = 10u128.pow(u32::from(SCALE.unsigned_abs()) - wanted as u32);
    let rounded = (value.unsigned_abs() + drop / 2) / drop;
    let is_negative = value < 0 && rounded > 0;
    let one = 10u128.pow(wanted as u32);
    let (whole, fraction) = (rounded / one, rounded % one);
    let places = layout.whole.iter().filter(is_digit).count();
    let digits = if whole == 0 { String::new() } else { whole.to_string() };
    let overflows = digits.len() > places;
    let digits = if overflows { "#".repeat(places) } else { format!("{digits:>places$}") };
    let mut body = whole_part(&layout, &digits);
    if layout.has_point {
        body.push('.');
        let shown = if overflows { "#".repeat(wanted) } else { format!("{fraction:0wanted$}") };
        let mut shown = shown.chars().take(wanted).collect::<Vec<_>>().into_iter();
        let mut text = String::new();
        for place in &layout.fraction {
            match place {
                Place::Digit { .. } => text.push(shown.next().unwrap_or('0')),
                Place::Separator => text.push(','),
                Place::Text(literal) => text.push_str(literal),
            }
        }
        if !layout.is_filled && !overflows {
            let always = layout.fraction.iter().rposition(|place| *place == Place::Digit { always: true });
            let keep = always.map_or(0, |place| place + 1);
            while text.len() > keep && text.ends_with('0') {
                text.pop();
            }
        }
        body.push_str(&text);
    }
    Ok(with_sign(&layout, body, is_negative))
}

/// Digits with their separators; blanks where nothing is to be shown.
fn whole_part(layout: &Layout, digits: &str) -> String {
    let mut out = String::new();
    let mut digits = digits.chars();
    let mut has_begun = false;
    for place in &layout.whole {
        match place {
            Place::Digit { always } => {
                let digit = digits.next().unwrap_or(' ');
                has_begun |= *always || digit != ' ';
                out.push(match digit {
                    ' ' if has_begun => '0',
                    other => other,
                });
            }
            Place::Separator => out.push(if has_begun { ',' } else { ' ' }),
            Place::Text(text) => out.push_str(text),
        }
    }
    // Zero shows a digit before nothing.
    if !has_begun && !layout.has_point && out.ends_with(' ') {
        out.pop();
        out.push('0');
    }
    out
}

fn with_sign(layout: &Layout, body: String, is_negative: bool) -> String {
    let blanks = body.len() - body.trim_start_matches(' ').len();
    let (blank, digits) = body.split_at(blanks);
    let text = match layout.sign {
        Sign::Before => format!("{blank}{}{digits}", if is_negative { "-" } else { " " }),
        Sign::First => format!("{blank}{}{digits}", if is_negative { "-" } else { "+" }),
        Sign::Last(always) => format!(
            "{body}{}",
            if is_negative {
                "-"
            } else if always {
                "+"
            } else {
                " "
            }
        ),
        Sign::Brackets if is_negative => format!("{blank}<{digits}>"),
        Sign::Brackets => format!(" {body} "),
    };
    if layout.is_filled { text } else { text.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_postgres_writes_them() {
        let time = naive(1_372_766_645_060_789).expect("in range"); // 2013-07-02 12:04:05.060789, a Tuesday
        for (pattern, text) in [
            ("YYYY-MM-DD HH24:MI:SS", "2013-07-02 12:04:05"),
            ("yyyy-mm-dd hh24:mi:ss.ms us", "2013-07-02 12:04:05.060 060789"),
            ("Day, DD Month YYYY", "Tuesday  , 02 July      2013"),
            ("FMDay, FMDD FMMonth YYYY", "Tuesday, 2 July 2013"),
            ("Dy DY dy Mon MON", "Tue TUE tue Jul JUL"),
            ("HH12:MI PM a.m.", "12:04 PM p.m."),
            ("DDD Q WW IW IYYY-\"W\"IW-ID D W", "183 3 27 27 2013-W27-2 3 1"),
            ("FMDDth CC J", "2nd 21 2456476"),
            ("TZ", ""),
        ] {
            assert_eq!(time_text(time, false, pattern).as_deref(), Ok(text), "{pattern}");
        }
        assert!(time_text(time, false, "YYYY foo").is_err());
    }

    #[test]
    fn numbers_are_written_as_postgres_writes_them() {
        let one = 10i128.pow(10);
        for (value, pattern, text) in [
            (1234 * one, "9999", " 1234"),
            (-1234 * one, "9999", "-1234"),
            (12 * one, "9999", "   12"),
            (12 * one, "FM9999", "12"),
            (12 * one, "0000", " 0012"),
            (1_234_567 * one, "9,999,999", " 1,234,567"),
            (1234 * one, "9,999,999", "     1,234"),
            (12_345 * one / 10, "FM9,999.00", "1,234.50"),
            (12_345 * one / 10, "FM9,999.99", "1,234.5"),
            (5 * one / 10, "990.99", "   0.50"),
            (5 * one / 10, "999.99", "    .50"),
            (0, "9999", "    0"),
            (12_345 * one, "999", " ###"),
            (-12 * one, "99PR", "<12>"),
            (12 * one, "99S", "12+"),
            (-12 * one, "S99", "-12"),
            (12 * one, "99MI", "12 "),
        ] {
            assert_eq!(number_text(value, pattern).as_deref(), Ok(text), "{value} {pattern}");
        }
        assert!(number_text(one, "9.9EEEE").is_err());
    }
}
