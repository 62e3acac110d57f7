//! Settings of a session: PostgreSQL's that clients set or read, and RisingWave's.
//!
//! A setting has its meaning here, or the values that would mean something are refused by name: what is taken without effect
//! asks for what holds anyway, or for a way of running that gives the same rows.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstem_sql::SqlError;

/// A setting that exists.
#[derive(Debug)]
struct Known {
    name: &'static str,
    default: &'static str,
    rule: Rule,
    description: &'static str,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Any text.
    Any,
    /// `on` or `off`.
    Boolean,
    /// A time: milliseconds, or a number with a unit.
    Time,
    /// One of these, in any case.
    OneOf(&'static [&'static str]),
    /// A time zone: any name is taken, and times are shown in UTC.
    TimeZone,
    /// Cannot be changed.
    Fixed,
    /// An isolation level.
    Isolation,
    /// A number within bounds.
    Integer(i64, i64),
    /// One of these words, shown as given.
    Words(&'static [&'static str]),
    /// `true` or `false`, as RisingWave shows them.
    TrueFalse,
    /// `default`, a number, or one of RisingWave's words for how many threads.
    Parallelism,
    /// The default and `default`; other values are refused, with what to do instead.
    OnlyDefault(&'static str),
    /// `default` or rows per second; 0 is a pause.
    Rate,
}

const fn known(name: &'static str, default: &'static str, rule: Rule, description: &'static str) -> Known {
    Known { name, default, rule, description }
}

const NO_EFFECT: &str = "Accepted for compatibility, without effect.";

/// In order of name within each part.
const KNOWN: &[Known] = &[
    known("application_name", "", Rule::Any, "The client's name."),
    known("background_ddl", "off", Rule::Boolean, "CREATE MATERIALIZED VIEW returns before the view has read history."),
    known("bytea_output", "hex", Rule::OneOf(&["hex"]), "How bytea is shown."),
    known("client_encoding", "UTF8", Rule::OneOf(&["UTF8", "UTF-8", "UNICODE"]), "Encoding of all text."),
    known("client_min_messages", "notice", Rule::Any, NO_EFFECT),
    known("datestyle", "ISO, MDY", Rule::Any, "Dates are shown in ISO style."),
    known("default_transaction_deferrable", "off", Rule::Boolean, NO_EFFECT),
    known("default_transaction_isolation", "repeatable read", Rule::Isolation, "Of transactions that do not name one."),
    known("default_transaction_read_only", "off", Rule::Boolean, NO_EFFECT),
    known("extra_float_digits", "1", Rule::Integer(-15, 3), "Floats are always shown exactly."),
    known(
        "idle_in_transaction_session_timeout",
        "0",
        Rule::Time,
        "A client that sends nothing for longer inside a transaction is disconnected; 0 is never.",
    ),
    known("idle_session_timeout", "0", Rule::Time, "The same outside of transactions."),
    known("in_hot_standby", "off", Rule::Fixed, "Never."),
    known("integer_datetimes", "on", Rule::Fixed, "Always."),
    known("intervalstyle", "postgres", Rule::OneOf(&["postgres"]), "How intervals are shown."),
    known("is_superuser", "on", Rule::Fixed, "There is no access control yet."),
    known("lc_collate", "C", Rule::Fixed, "Text is ordered by its bytes."),
    known("lc_ctype", "C.UTF-8", Rule::Fixed, "Character classes."),
    known("lc_messages", "C", Rule::Any, NO_EFFECT),
    known("lock_timeout", "0", Rule::Time, "No lock is held between statements, so none is waited for."),
    known("max_identifier_length", "249", Rule::Fixed, "Kafka's limit of a topic's name."),
    known("role", "none", Rule::Any, NO_EFFECT),
    known("row_security", "on", Rule::Boolean, NO_EFFECT),
    known("search_path", "\"$user\", public", Rule::Any, "There is one schema, public."),
    known("server_encoding", "UTF8", Rule::Fixed, "Encoding of all text."),
    known("server_version", "15.0", Rule::Fixed, "The version of PostgreSQL whose protocol and catalogs are spoken."),
    known("server_version_num", "150000", Rule::Fixed, "The same as a number."),
    known("session_authorization", "", Rule::Fixed, "Who is connected."),
    known("standard_conforming_strings", "on", Rule::OneOf(&["on"]), "Backslashes in strings are plain."),
    known("statement_timeout", "0", Rule::Time, "A statement that takes longer is cancelled; 0 is never."),
    known("synchronize_seqscans", "on", Rule::Boolean, NO_EFFECT),
    known("timezone", "UTC", Rule::TimeZone, "Times with zone are shown in UTC."),
    known("transaction_isolation", "repeatable read", Rule::Any, "Snapshot isolation."),
    known("transaction_read_only", "off", Rule::Boolean, "See BEGIN READ ONLY."),
    known("jit", "off", Rule::Boolean, NO_EFFECT),
    known("escape_string_warning", "on", Rule::Boolean, NO_EFFECT),
    known("backslash_quote", "safe_encoding", Rule::Any, NO_EFFECT),
    known("array_nulls", "on", Rule::Boolean, NO_EFFECT),
    known("default_tablespace", "", Rule::Any, NO_EFFECT),
    known("default_table_access_method", "heap", Rule::Any, NO_EFFECT),
    known("check_function_bodies", "on", Rule::Boolean, NO_EFFECT),
    known("xmloption", "content", Rule::Any, NO_EFFECT),
    known("work_mem", "4MB", Rule::Any, NO_EFFECT),
    known("synchronous_commit", "on", Rule::Any, "Every acknowledgement waits for the disk."),
    // RisingWave's.
    known("arrangement_backfill_parallelism", "default", Rule::Parallelism, NO_EFFECT),
    known("backfill_rate_limit", "default", Rule::Rate, "Rows per second that a new view reads of its history."),
    known("batch_enable_distributed_dml", "false", Rule::TrueFalse, NO_EFFECT),
    known("batch_parallelism", "default", Rule::Parallelism, NO_EFFECT),
    known("create_compaction_group_for_mv", "false", Rule::TrueFalse, NO_EFFECT),
    known("dml_rate_limit", "default", Rule::OnlyDefault("Send fewer rows at once."), NO_EFFECT),
    known("enable_join_ordering", "true", Rule::TrueFalse, NO_EFFECT),
    known("enable_share_plan", "true", Rule::TrueFalse, NO_EFFECT),
    known("enable_two_phase_agg", "true", Rule::TrueFalse, NO_EFFECT),
    known("implicit_flush", "true", Rule::TrueFalse, "A session always sees its own writes."),
    known("query_epoch", "0", Rule::OnlyDefault("A SELECT reads the newest version."), NO_EFFECT),
    known("query_mode", "auto", Rule::Words(&["auto", "local", "distributed"]), "Queries run in this process."),
    known("rw_enable_join_ordering", "true", Rule::TrueFalse, NO_EFFECT),
    known("rw_enable_share_plan", "true", Rule::TrueFalse, NO_EFFECT),
    known("rw_enable_two_phase_agg", "true", Rule::TrueFalse, NO_EFFECT),
    known("rw_force_two_phase_agg", "false", Rule::TrueFalse, NO_EFFECT),
    known("rw_implicit_flush", "true", Rule::TrueFalse, "A session always sees its own writes."),
    known("rw_streaming_enable_delta_join", "false", Rule::TrueFalse, NO_EFFECT),
    known("sink_decouple", "default", Rule::Words(&["default", "true", "false", "enable", "disable"]), NO_EFFECT),
    known("source_rate_limit", "default", Rule::OnlyDefault("Sources are read as fast as views keep up."), NO_EFFECT),
    known("streaming_enable_arrangement_backfill", "true", Rule::TrueFalse, NO_EFFECT),
    known("streaming_enable_bushy_join", "true", Rule::TrueFalse, NO_EFFECT),
    known("streaming_enable_delta_join", "false", Rule::TrueFalse, NO_EFFECT),
    known("streaming_enable_unaligned_join", "false", Rule::TrueFalse, NO_EFFECT),
    known("streaming_parallelism", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_parallelism_for_backfill", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_parallelism_for_index", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_parallelism_for_materialized_view", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_parallelism_for_sink", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_parallelism_for_source", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_parallelism_for_table", "default", Rule::Parallelism, NO_EFFECT),
    known("streaming_rate_limit", "default", Rule::OnlyDefault("Use backfill_rate_limit."), NO_EFFECT),
    known("streaming_use_arrangement_backfill", "true", Rule::TrueFalse, NO_EFFECT),
    known("streaming_use_shared_source", "true", Rule::TrueFalse, NO_EFFECT),
    known("streaming_use_snapshot_backfill", "true", Rule::TrueFalse, NO_EFFECT),
    known(
        "visibility_mode",
        "default",
        Rule::Words(&["default", "all", "checkpoint"]),
        "A SELECT sees all that was acknowledged.",
    ),
];

/// ParameterStatus: PostgreSQL's spelling, and the setting.
const REPORTED: [(&str, &str); 14] = [
    ("application_name", "application_name"),
    ("client_encoding", "client_encoding"),
    ("DateStyle", "datestyle"),
    ("default_transaction_read_only", "default_transaction_read_only"),
    ("in_hot_standby", "in_hot_standby"),
    ("integer_datetimes", "integer_datetimes"),
    ("IntervalStyle", "intervalstyle"),
    ("is_superuser", "is_superuser"),
    ("search_path", "search_path"),
    ("server_encoding", "server_encoding"),
    ("server_version", "server_version"),
    ("session_authorization", "session_authorization"),
    ("standard_conforming_strings", "standard_conforming_strings"),
    ("TimeZone", "timezone"),
];

/// The settings of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<&'static str, String>,
    defaults: BTreeMap<&'static str, String>,
}

impl Settings {
    pub(crate) fn new(version: &str, user: &str) -> Settings {
        let mut values: BTreeMap<_, _> = KNOWN.iter().map(|known| (known.name, known.default.to_owned())).collect();
        values.insert("server_version", format!("15.0 (Mainstem {version})"));
        values.insert("session_authorization", user.to_owned());
        Settings { defaults: values.clone(), values }
    }

    /// What was set at startup is what RESET brings back.
    pub(crate) fn become_defaults(&mut self) {
        self.defaults = self.values.clone();
    }

    pub(crate) fn reset_all(&mut self) {
        self.values = self.defaults.clone();
    }

    /// `None` is the default. Gives a notice where the value is taken but not followed.
    pub(crate) fn set(&mut self, name: &str, value: Option<&str>) -> Result<Option<SqlError>, SqlError> {
        let known = find(name)?;
        let Some(value) = value else {
            let default = self.defaults[known.name].clone();
            self.values.insert(known.name, default);
            return Ok(None);
        };
        let (value, notice) = known.checked(value, &self.values[known.name])?;
        self.values.insert(known.name, value);
        Ok(notice)
    }

    /// `options` of the startup packet: `-c name=value ...`; a backslash keeps a space in a value.
    pub(crate) fn set_options(&mut self, text: &str) -> Result<(), SqlError> {
        let mut words = option_words(text).into_iter();
        while let Some(word) = words.next() {
            let pair = match word.as_str() {
                "-c" => words.next().unwrap_or_default(),
                _ => word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).unwrap_or(&word).to_owned(),
            };
            let bad = || SqlError::new("42601", format!("invalid startup option \"{word}\""));
            let (name, value) = pair.split_once('=').ok_or_else(bad)?;
            self.set(&name.to_lowercase().replace('-', "_"), Some(value))?;
        }
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Result<&str, SqlError> {
        Ok(&self.values[find(name)?.name])
    }

    /// Name, value, description of all.
    pub(crate) fn all(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut all: Vec<_> =
            KNOWN.iter().map(|known| (known.name, self.values[known.name].clone(), known.description)).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn reported(&self) -> Vec<(&'static str, String)> {
        REPORTED.iter().map(|(shown, name)| (*shown, self.values[name].clone())).collect()
    }

    /// A time that is set, and not 0.
    pub(crate) fn time(&self, name: &str) -> Option<Duration> {
        let ms = milliseconds(self.values.get(name)?);
        ms.filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| value == "on")
    }
}

fn find(name: &str) -> Result<&'static Known, SqlError> {
    let found = KNOWN.iter().find(|known| known.name == name);
    found.ok_or_else(|| SqlError::new("42704", format!("unrecognized configuration parameter \"{name}\"")))
}

impl Known {
    fn checked(&self, value: &str, now: &str) -> Result<(String, Option<SqlError>), SqlError> {
        let bad = || {
            let message = format!("invalid value for parameter \"{}\": \"{value}\"", self.name);
            SqlError::new("22023", message)
        };
        let value = match self.rule {
            Rule::Any => value.to_owned(),
            Rule::Boolean => match value.to_lowercase().as_str() {
                "on" | "true" | "t" | "yes" | "y" | "1" => "on".to_owned(),
                "off" | "false" | "f" | "no" | "n" | "0" => "off".to_owned(),
                _ => return Err(bad()),
            },
            Rule::Time => {
                let units = "Valid units are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".";
                let ms = milliseconds(value).ok_or_else(|| bad().with_hint(units))?;
                if ms > MS_MAX {
                    return Err(bad().with_hint(format!("Valid range is 0 .. {MS_MAX} ms.")));
                }
                shown_time(ms)
            }
            Rule::Words(words) => {
                let value = value.to_lowercase();
                if !words.contains(&value.as_str()) {
                    return Err(bad().with_hint(format!("Available values: {}.", words.join(", "))));
                }
                value
            }
            Rule::TrueFalse => match value.to_lowercase().as_str() {
                "on" | "true" | "t" | "yes" | "y" | "1" => "true".to_owned(),
                "off" | "false" | "f" | "no" | "n" | "0" => "false".to_owned(),
                "default" => self.default.to_owned(),
                _ => return Err(bad()),
            },
            Rule::Parallelism => {
                let value = value.to_lowercase();
                let is_word = ["default", "auto", "adaptive"].contains(&value.as_str())
                    || ["ratio(", "bounded("].iter().any(|word| value.starts_with(word) && value.ends_with(')'));
                if !is_word && value.parse::<u64>().is_err() {
                    return Err(bad().with_hint("Give a number, default or adaptive."));
                }
                value
            }
            Rule::OnlyDefault(_) if value.eq_ignore_ascii_case(self.default) => self.default.to_owned(),
            Rule::OnlyDefault(_) if value.eq_ignore_ascii_case("default") => self.default.to_owned(),
            Rule::OnlyDefault(hint) => {
                let message = format!("parameter \"{}\" with the value {value} is not supported", self.name);
                return Err(SqlError::not_supported(message).with_hint(hint));
            }
            Rule::Rate => {
                let value = value.to_lowercase();
                if value != "default" && value.parse::<u32>().is_err() {
                    return Err(bad().with_hint("Give rows per second, 0 for a pause, or default for no limit."));
                }
                value
            }
            Rule::OneOf(allowed) => {
                if !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(value)) {
                    return Err(bad().with_hint(format!("Available values: {}.", allowed.join(", "))));
                }
                allowed[0].to_owned()
            }
            Rule::Isolation => match value.to_lowercase().as_str() {
                "serializable" => "serializable".to_owned(),
                // Nothing is weaker here.
                "repeatable read" | "read committed" | "read uncommitted" => "repeatable read".to_owned(),
                _ => return Err(bad()),
            },
            Rule::Integer(least, most) => {
                let number: i64 = value.parse().map_err(|_| bad())?;
                if !(least..=most).contains(&number) {
                    return Err(bad().with_hint(format!("Valid range is {least} .. {most}.")));
                }
                value.to_owned()
            }
            Rule::TimeZone => {
                let is_utc = ["utc", "gmt", "etc/utc", "z", "0", "+00:00", "default", "local", "etc/gmt", "zulu"];
                let notice = SqlError::new("01000", format!("times are shown in UTC, not in {value}"));
                let notice = (!is_utc.contains(&value.to_lowercase().as_str())).then_some(notice);
                return Ok(("UTC".to_owned(), notice));
            }
            Rule::Fixed if value == now => value.to_owned(),
            Rule::Fixed => {
                return Err(SqlError::new("55P02", format!("parameter \"{}\" cannot be changed", self.name)));
            }
        };
        Ok((value, None))
    }
}

/// The most that a time can be: PostgreSQL's.
const MS_MAX: u64 = i32::MAX as u64;

/// `250`, `5s`, `2 min`, `1.5h`, `800us`: rounded to milliseconds, as PostgreSQL rounds.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let factor = match text[end..].trim() {
        "" | "ms" => 1.0,
        "us" => 0.001,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let ms = (number * factor).round_ties_even();
    // As large as it gets: what is beyond the range stays beyond it.
    Some(if ms >= 1e15 { 1_000_000_000_000_000 } else { ms as u64 })
}

/// In the largest unit that is exact, as PostgreSQL shows it.
fn shown_time(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match units.into_iter().find(|(factor, _)| ms > 0 && ms % factor == 0) {
        Some((factor, unit)) => format!("{}{unit}", ms / factor),
        None if ms == 0 => "0".to_owned(),
        None => format!("{ms}ms"),
    }
}

/// Parted at spaces that have no backslash before them.
fn option_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_inside) = (Vec::new(), String::new(), false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character.is_whitespace() {
            if is_inside {
                words.push(std::mem::take(&mut word));
            }
            is_inside = false;
            continue;
        }
        is_inside = true;
        word.push(if character == '\\' { characters.next().unwrap_or(character) } else { character });
    }
    if is_inside {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_reset() {
        let mut settings = Settings::new("0.1.0", "root");
        settings.set("statement_timeout", Some("5s")).expect("a time");
        assert_eq!(settings.time("statement_timeout"), Some(Duration::from_secs(5)));
        assert_eq!(settings.set("no_such", Some("1")).expect_err("unknown").sqlstate, "42704");
        assert_eq!(settings.set("background_ddl", Some("maybe")).expect_err("not a boolean").sqlstate, "22023");
        assert_eq!(settings.set("server_version", Some("9")).expect_err("fixed").sqlstate, "55P02");
        assert!(settings.set("timezone", Some("Europe/Berlin")).expect("taken").is_some(), "a notice");
        assert_eq!(settings.get("timezone").expect("known"), "UTC");
        settings.set_options("-c extra_float_digits=3 --background-ddl=on").expect("options");
        assert!(settings.is_on("background_ddl"));
        settings.reset_all();
        assert_eq!(settings.time("statement_timeout"), None);
    }

    #[test]
    fn times_are_read_and_shown_as_postgresql_does() {
        let mut settings = Settings::new("0.1.0", "root");
        for (given, shown) in [
            ("5000", "5s"),
            ("1500", "1500ms"),
            ("1.5 s", "1500ms"),
            ("90min", "90min"),
            ("120min", "2h"),
            ("800us", "1ms"),
            ("400us", "0"),
            ("0", "0"),
            ("2147483647", "2147483647ms"),
        ] {
            settings.set("statement_timeout", Some(given)).expect(given);
            assert_eq!(settings.get("statement_timeout").expect("known"), shown, "{given}");
        }
        for wrong in ["2147483648", "-1", "1 week", "", "s", "1..5", "30d"] {
            let error = settings.set("statement_timeout", Some(wrong)).expect_err(wrong);
            assert_eq!(error.sqlstate, "22023", "{wrong}");
            assert!(error.hint.is_some(), "{wrong}");
        }
        settings.set_options("-c statement_timeout=250  --application-name=two\\ words").expect("options");
        assert_eq!(settings.time("statement_timeout"), Some(Duration::from_millis(250)));
        assert_eq!(settings.get("application_name").expect("known"), "two words");
    }

    #[test]
    fn settings_of_risingwave_mean_something_or_are_refused() {
        let mut settings = Settings::new("0.1.0", "root");
        for (name, value) in [
            ("streaming_parallelism", "4"),
            ("streaming_parallelism_for_table", "adaptive"),
            ("rw_implicit_flush", "true"),
            ("implicit_flush", "off"),
            ("query_mode", "LOCAL"),
            ("visibility_mode", "checkpoint"),
            ("backfill_rate_limit", "1000"),
            ("query_epoch", "0"),
        ] {
            settings.set(name, Some(value)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for (name, value, state) in [
            ("query_epoch", "12345", "0A000"),
            ("dml_rate_limit", "10", "0A000"),
            ("streaming_rate_limit", "10", "0A000"),
            ("query_mode", "sideways", "22023"),
            ("streaming_parallelism", "many", "22023"),
            ("backfill_rate_limit", "-5", "22023"),
            ("rw_implicit_flush", "perhaps", "22023"),
        ] {
            assert_eq!(settings.set(name, Some(value)).expect_err(name).sqlstate, state, "{name}");
        }
    }
}
