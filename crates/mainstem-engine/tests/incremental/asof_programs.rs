//! Joins in event time as random queries have them, and the same in words that stock DataFusion knows.
//!
//! The stock form takes, of the rows of the right side with one key and one time, the first by all columns; each is the
//! partner until the next time.

/// All columns of a test table, in key order.
const ALL: &str = "id NULLS FIRST, k NULLS FIRST, v NULLS FIRST, s NULLS FIRST, f NULLS FIRST, g NULLS FIRST, d NULLS FIRST, \
                   b NULLS FIRST, ts NULLS FIRST";

/// Constructs with their texts, behind `FROM ... AS a`.
pub(crate) const ASOF_JOINS: [(&str, &str); 9] = [
    ("asof join", " ASOF JOIN u AS b ON a.k = b.k AND a.ts >= b.ts"),
    ("left asof join", " LEFT ASOF JOIN u AS b ON a.k = b.k AND a.ts > b.ts"),
    ("left asof join", " LEFT ASOF JOIN t AS b ON a.b = b.b AND a.ts >= b.ts"),
    ("asof join forwards", " LEFT ASOF JOIN u AS b MATCH_CONDITION (a.ts <= b.ts) ON a.k = b.k"),
    ("asof join forwards", " ASOF JOIN u AS b ON a.b = b.b AND b.ts > a.ts AND b.id > 9"),
    ("asof join without equality", " LEFT ASOF JOIN u AS b ON a.id >= b.v"),
    ("version join", " JOIN u FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k"),
    ("version join", " LEFT JOIN u FOR SYSTEM_TIME AS OF a.ts AS b ON b.b = a.b"),
    ("version join", " LEFT JOIN u FOR SYSTEM_TIME AS OF (a.ts + INTERVAL '1 second') AS b ON b.k = a.k"),
];

/// The query with each of them in the stock form.
pub(crate) fn stock_asof(text: &str) -> String {
    let latest = "a.ts >= b.ts AND (b.nx IS NULL OR a.ts < b.nx)";
    let forms = [
        stock("JOIN", "u", "k", "ts", "", latest),
        stock("LEFT JOIN", "u", "k", "ts", "", "a.ts > b.ts AND (b.nx IS NULL OR a.ts <= b.nx)"),
        stock("LEFT JOIN", "t", "b", "ts", "", latest),
        stock("LEFT JOIN", "u", "k", "ts DESC", "", "a.ts <= b.ts AND (b.nx IS NULL OR a.ts > b.nx)"),
        stock("JOIN", "u", "b", "ts DESC", "id > 9 AND ", "a.ts < b.ts AND (b.nx IS NULL OR a.ts >= b.nx)"),
        stock("LEFT JOIN", "u", "", "v", "", "a.id >= b.v AND (b.nx IS NULL OR a.id < b.nx)"),
        stock("JOIN", "u", "k", "ts", "", latest),
        stock("LEFT JOIN", "u", "b", "ts", "", latest),
        stock("LEFT JOIN", "u", "k", "ts", "", &latest.replace("a.ts", "a.ts + INTERVAL '1 second'")),
    ];
    ASOF_JOINS.iter().zip(forms).fold(text.to_owned(), |text, ((_, ours), stock)| text.replace(ours, &stock))
}

/// `order` is the time, and DESC if the next one is an earlier one.
fn stock(kind: &str, table: &str, key: &str, order: &str, condition: &str, nearest: &str) -> String {
    let time = order.split(' ').next().unwrap_or_default();
    let (keys, equal) = match key {
        "" => (String::new(), String::new()),
        key => (format!("PARTITION BY {key} "), format!("a.{key} = b.{key} AND ")),
    };
    let tied = if key.is_empty() { time.to_owned() } else { format!("{key}, {time}") };
    format!(
        " {kind} (SELECT *, lead({time}) OVER ({keys}ORDER BY {order}) AS nx FROM (SELECT *, \
         row_number() OVER (PARTITION BY {tied} ORDER BY {ALL}) AS rn FROM {table} WHERE {condition}{time} IS NOT NULL) AS w \
         WHERE rn = 1) AS b ON {equal}{nearest}"
    )
}
