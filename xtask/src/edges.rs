//! Proves the edges between the crates and the places of the outside libraries from `cargo metadata`.
//!
//! Words: a *layer* is a level of the design, numbered from the bottom; an *edge* is one dependency of one crate.
//!
//! Always true here: the tables below are the design's, and a crate that they do not name is an error, so that a new
//! crate gets its place before it gets its edges.

use std::path::Path;

use serde_json::Value;

use crate::{Result, process};

struct Crate {
    name: &'static str,
    layer: u8,
    /// The crates of this workspace that its code may use.
    may_use: &'static [&'static str],
}

const TESTKIT: &str = "mainstem-testkit";
/// The layer of what only tests use.
const TESTS_ONLY: u8 = u8::MAX;

/// One feature set of the large dependencies; it may depend on all of them, and holds no code.
const FEATURES: &str = "workspace-hack";

const CRATES: &[Crate] = &[
    Crate { name: FEATURES, layer: 0, may_use: &[] },
    Crate { name: "mainstem-disk", layer: 0, may_use: &[] },
    Crate { name: "mainstem-kafka-wire", layer: 0, may_use: &[] },
    Crate { name: "mainstem-pg-wire", layer: 0, may_use: &[] },
    Crate { name: "mainstem-formats", layer: 0, may_use: &[] },
    Crate { name: "mainstem-log", layer: 1, may_use: &["mainstem-disk", "mainstem-kafka-wire"] },
    Crate { name: "mainstem-state", layer: 1, may_use: &["mainstem-disk"] },
    Crate { name: "mainstem-catalog", layer: 1, may_use: &[] },
    // formats for the text of intervals and decimals, which records and SQL share.
    Crate { name: "mainstem-sql", layer: 2, may_use: &[FEATURES, "mainstem-catalog", "mainstem-formats"] },
    Crate {
        name: "mainstem-broker",
        layer: 2,
        // disk for its Clock and Random only.
        may_use: &["mainstem-disk", "mainstem-kafka-wire", "mainstem-log", "mainstem-catalog"],
    },
    Crate {
        name: "mainstem-engine",
        layer: 3,
        // disk for its checkpoints' directory and its Clock; kafka-wire to read the records of a batch.
        may_use: &[
            FEATURES,
            "mainstem-disk",
            "mainstem-kafka-wire",
            "mainstem-catalog",
            "mainstem-sql",
            "mainstem-state",
            "mainstem-formats",
        ],
    },
    Crate {
        name: "mainstem-connectors",
        layer: 4,
        may_use: &[
            FEATURES,
            "mainstem-engine",
            "mainstem-formats",
            "mainstem-state",
            "mainstem-catalog",
            "mainstem-kafka-wire",
            "mainstem-log",
            "mainstem-broker",
        ],
    },
    Crate {
        name: "mainstem-session",
        layer: 4,
        may_use: &[FEATURES, "mainstem-catalog", "mainstem-sql", "mainstem-engine"],
    },
    Crate {
        name: "mainstem-server",
        layer: 5,
        may_use: &[
            FEATURES,
            "mainstem-disk",
            "mainstem-kafka-wire",
            "mainstem-pg-wire",
            "mainstem-formats",
            "mainstem-log",
            "mainstem-state",
            "mainstem-catalog",
            "mainstem-sql",
            "mainstem-broker",
            "mainstem-engine",
            "mainstem-connectors",
            "mainstem-session",
        ],
    },
    Crate { name: TESTKIT, layer: TESTS_ONLY, may_use: &["mainstem-disk", "mainstem-kafka-wire"] },
    // Nothing depends on it. Its own code needs no DataFusion.
    Crate {
        name: "mainstem-fuzz",
        layer: TESTS_ONLY,
        may_use: &[
            FEATURES,
            "mainstem-disk",
            "mainstem-kafka-wire",
            "mainstem-pg-wire",
            "mainstem-formats",
            "mainstem-log",
            "mainstem-state",
            "mainstem-catalog",
            "mainstem-broker",
            TESTKIT,
        ],
    },
    Crate { name: "xtask", layer: TESTS_ONLY, may_use: &[] },
];

/// An outside library that only some crates may use, in tests too.
struct Placed {
    library: &'static str,
    crates: &'static [&'static str],
    why: &'static str,
}

const PLACED: &[Placed] = &[
    Placed {
        library: "datafusion",
        crates: &["mainstem-sql", "mainstem-engine", "mainstem-session", "mainstem-server"],
        why: "what does not plan or run queries must build and be tested without it",
    },
    Placed {
        library: "rdkafka",
        crates: &["mainstem-connectors", "mainstem-server"],
        why: "clients of outside systems live in the connectors",
    },
    Placed {
        library: "tokio-postgres",
        crates: &["mainstem-connectors", "mainstem-server"],
        why: "clients of outside systems live in the connectors",
    },
];

/// Crates that may open sockets. What a crate does with tokio cannot be seen from its dependencies, so a use of these
/// libraries elsewhere is only shown.
const SOCKET_CRATES: &[&str] = &["mainstem-server", "mainstem-connectors", TESTKIT];
const SOCKET_LIBRARIES: &[&str] = &["axum", "hyper", "mio", "reqwest", "socket2", "tokio"];

/// One dependency as `cargo metadata` tells it.
#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    is_of_tests: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    errors: Vec<String>,
    notes: Vec<String>,
}

/// Fails with every edge that the design does not allow.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = process::output(root, "cargo", &["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let (names, edges) = read(&metadata)?;
    let findings = check(&names, &edges);
    for note in &findings.notes {
        eprintln!("note: {note}");
    }
    if !findings.errors.is_empty() {
        let count = findings.errors.len();
        return Err(format!(
            "{count} edges between crates that the design forbids:\n- {}",
            findings.errors.join("\n- ")
        ));
    }
    let packages = metadata.get("packages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let runs: Vec<&str> = packages.iter().filter_map(|package| package.get("default_run")?.as_str()).collect();
    if runs != ["mainstem"] {
        return Err(format!(
            "`cargo run`, README's first command, would run {runs:?} and not mainstem: see default-run"
        ));
    }
    let inner = edges.iter().filter(|edge| find(&edge.to).is_some()).count();
    eprintln!("edges: {} crates, {inner} edges between them, all allowed", names.len());
    Ok(())
}

fn read(metadata: &Value) -> Result<(Vec<String>, Vec<Edge>)> {
    let unreadable = || "cargo metadata has a shape that is not known here".to_owned();
    let (mut names, mut edges) = (Vec::new(), Vec::new());
    for package in metadata["packages"].as_array().ok_or_else(unreadable)? {
        let from = package["name"].as_str().ok_or_else(unreadable)?;
        names.push(from.to_owned());
        for dependency in package["dependencies"].as_array().ok_or_else(unreadable)? {
            let to = dependency["name"].as_str().ok_or_else(unreadable)?.to_owned();
            let is_of_tests = dependency["kind"].as_str() == Some("dev");
            edges.push(Edge { from: from.to_owned(), to, is_of_tests });
        }
    }
    Ok((names, edges))
}

fn find(name: &str) -> Option<&'static Crate> {
    CRATES.iter().find(|known| known.name == name)
}

fn check(names: &[String], edges: &[Edge]) -> Findings {
    let mut findings = Findings::default();
    for name in names.iter().filter(|name| find(name).is_none()) {
        findings.errors.push(format!("{name} has no place: add it to the table in xtask/src/edges.rs"));
    }
    for edge in edges {
        findings.errors.extend(check_layers(edge));
        findings.errors.extend(check_place(edge));
        findings.notes.extend(check_sockets(edge));
    }
    findings
}

fn check_layers(edge: &Edge) -> Option<String> {
    let (from, to) = (find(&edge.from)?, find(&edge.to)?);
    let Edge { from: from_name, to: to_name, .. } = edge;
    if edge.is_of_tests {
        // Tests may look at anything below, and at the testkit.
        let is_allowed = to_name == TESTKIT || to.layer < from.layer;
        let layers = format!("tests of layer {} may use lower layers and {TESTKIT}", from.layer);
        return (!is_allowed).then(|| {
            format!("{from_name} -> {to_name} (dev-dependency): {to_name} is in layer {}; {layers}", to.layer)
        });
    }
    if from.may_use.contains(&to.name) {
        return None;
    }
    if to_name == TESTKIT {
        return Some(format!("{from_name} -> {TESTKIT}: only dev-dependencies may be on the testkit"));
    }
    let may_use = if from.may_use.is_empty() { "nothing".to_owned() } else { from.may_use.join(", ") };
    Some(format!("{from_name} -> {to_name}: of this workspace {from_name} may use {may_use}"))
}

fn check_place(edge: &Edge) -> Option<String> {
    if edge.from == FEATURES {
        return None;
    }
    // The longest name that fits: datafusion-functions-json is placed as datafusion is.
    let is_of = |placed: &&Placed| {
        edge.to.strip_prefix(placed.library).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let placed = PLACED.iter().filter(is_of).max_by_key(|placed| placed.library.len())?;
    (!placed.crates.contains(&edge.from.as_str())).then(|| {
        let crates = placed.crates.join(", ");
        format!("{} -> {}: only {crates} may use it, because {}", edge.from, edge.to, placed.why)
    })
}

fn check_sockets(edge: &Edge) -> Option<String> {
    let is_shown = !edge.is_of_tests
        && SOCKET_LIBRARIES.contains(&edge.to.as_str())
        && !SOCKET_CRATES.contains(&edge.from.as_str());
    is_shown.then(|| format!("{} uses {}, and sockets are the server's and the connectors'", edge.from, edge.to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, is_of_tests: bool) -> Edge {
        Edge { from: from.to_owned(), to: to.to_owned(), is_of_tests }
    }

    /// The errors of one edge, or none.
    fn errors(from: &str, to: &str, is_of_tests: bool) -> String {
        check(&[], &[edge(from, to, is_of_tests)]).errors.join("; ")
    }

    #[test]
    fn the_table_itself_goes_only_downward() {
        for from in CRATES.iter().filter(|from| from.layer != TESTS_ONLY) {
            for to in from.may_use {
                let to = find(to).unwrap();
                assert!(to.layer < from.layer, "{} -> {}", from.name, to.name);
                assert_ne!(to.name, TESTKIT);
            }
        }
    }

    #[test]
    fn an_edge_of_the_design_passes_and_any_other_is_named() {
        assert_eq!(errors("mainstem-log", "mainstem-disk", false), "");
        assert_eq!(
            errors("mainstem-log", "mainstem-sql", false),
            "mainstem-log -> mainstem-sql: of this workspace mainstem-log may use mainstem-disk, mainstem-kafka-wire"
        );
        assert_eq!(
            errors("mainstem-disk", "mainstem-log", false),
            "mainstem-disk -> mainstem-log: of this workspace mainstem-disk may use nothing"
        );
    }

    #[test]
    fn only_tests_use_the_testkit_and_they_use_no_higher_layer() {
        assert_eq!(errors("mainstem-disk", TESTKIT, true), "");
        assert!(errors("mainstem-server", TESTKIT, false).contains("only dev-dependencies"));
        assert_eq!(errors("mainstem-engine", "mainstem-log", true), "");
        assert!(errors("mainstem-log", "mainstem-engine", true).contains("is in layer 3"));
    }

    #[test]
    fn outside_libraries_stay_in_their_crates_in_tests_too() {
        assert_eq!(errors("mainstem-sql", "datafusion", false), "");
        assert_eq!(errors("mainstem-engine", "datafusion-functions-json", false), "");
        assert!(errors("mainstem-log", "datafusion-functions-json", false).starts_with("mainstem-log -> datafusion-"));
        assert!(errors("mainstem-formats", "datafusion", true).contains("only mainstem-sql"));
        assert!(errors("mainstem-broker", "rdkafka", false).contains("only mainstem-connectors"));
        assert!(errors("mainstem-session", "tokio-postgres", true).contains("only mainstem-connectors"));
    }

    #[test]
    fn a_crate_without_a_place_is_an_error_and_a_socket_library_is_shown() {
        let findings = check(&["mainstem-new".to_owned()], &[edge("mainstem-broker", "tokio", false)]);
        assert_eq!(findings.errors, ["mainstem-new has no place: add it to the table in xtask/src/edges.rs"]);
        assert_eq!(findings.notes, ["mainstem-broker uses tokio, and sockets are the server's and the connectors'"]);
        assert_eq!(check(&[], &[edge("mainstem-server", "tokio", false)]), Findings::default());
    }

    #[test]
    fn metadata_is_read_by_kind() {
        let metadata = serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}, {"name": "d", "kind": "build"},
        ]}]});
        let (names, edges) = read(&metadata).unwrap();
        assert_eq!(names, ["a"]);
        let kinds: Vec<(&str, bool)> = edges.iter().map(|edge| (edge.to.as_str(), edge.is_of_tests)).collect();
        assert_eq!(kinds, [("b", false), ("c", true), ("d", false)]);
        assert!(read(&serde_json::json!({})).is_err());
    }
}
