//! What the tests against the outside world need on the machine, and how it gets there.
//!
//! Words: a *need* is one thing that must be there; a need of Debian is installed as root or named in an error, a need
//! of a language is installed below `target/outside/`, never outside the workspace.
//!
//! Always true here: versions are pinned, what is there already is not touched, and without the right to install, the
//! error holds the command that a person can paste.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Result, process};

/// Where everything that is installed without root lies, below the workspace's root.
const OUTSIDE_DIR: &str = "target/outside";

/// A Debian package, and a command that succeeds when what it brings is there. The package or the command will do, so
/// that a package of another name or a program from elsewhere counts.
struct DebianPackage {
    name: &'static str,
    proof: &'static [&'static str],
}

const DEBIAN_PACKAGES: &[DebianPackage] = &[
    // Building: librdkafka by its own configure, zlib and zstd.
    DebianPackage { name: "gcc", proof: &["gcc", "--version"] },
    DebianPackage { name: "g++", proof: &["g++", "--version"] },
    DebianPackage { name: "make", proof: &["make", "--version"] },
    DebianPackage { name: "libc6-dev", proof: &[] },
    // Clients.
    DebianPackage { name: "kcat", proof: &["kcat", "-V"] },
    DebianPackage { name: "postgresql-client", proof: &["psql", "--version"] },
    // The server: the second oracle for the meaning of SQL. Debian keeps its programs out of the path.
    DebianPackage {
        name: "postgresql",
        proof: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb || command -v initdb"],
    },
    DebianPackage { name: "python3", proof: &["python3", "--version"] },
    DebianPackage { name: "python3-venv", proof: &["python3", "-c", "import ensurepip, venv"] },
    DebianPackage { name: "default-jdk-headless", proof: &["javac", "--version"] },
    DebianPackage { name: "maven", proof: &["mvn", "--version"] },
    DebianPackage { name: "nodejs", proof: &["node", "--version"] },
    DebianPackage { name: "npm", proof: &["npm", "--version"] },
    // 1.21 or later: it brings the version that go.mod names by itself.
    DebianPackage { name: "golang-go", proof: &["go", "version"] },
];

/// Packages from PyPI, installed into `target/outside/venv`.
const PYTHON_PACKAGES: &[&str] = &[
    "confluent-kafka==2.16.1",
    "kafka-python==3.0.12",
    "psycopg[binary]==3.3.9",
    "pytest==9.2.0",
    "SQLAlchemy==2.0.58",
    // Codecs of kafka-python.
    "lz4==4.4.5",
    "python-snappy==0.7.3",
    "zstandard==0.25.0",
];

/// A language's clients: how to bring them to the pinned versions below a directory.
struct Language {
    name: &'static str,
    /// Packages and versions.
    pins: &'static [&'static str],
    /// Directory of a project that is built with them, below the workspace's root; its manifest names the versions.
    project: Option<&'static str>,
    install: fn(root: &Path, dir: &Path, pins: &[&str]) -> Result<()>,
    /// Below `target/outside/`.
    dir: &'static str,
}

const LANGUAGES: &[Language] = &[
    Language { name: "Python", pins: PYTHON_PACKAGES, project: None, install: install_python, dir: "venv" },
    Language {
        name: "Java",
        pins: &["org.apache.kafka:kafka-clients", "org.postgresql:postgresql"],
        project: Some("tests/outside/java"),
        install: install_java,
        dir: "java",
    },
    Language {
        name: "Node.js",
        pins: &["kafkajs", "snappyjs", "lz4js", "@bokuweb/zstd-wasm"],
        project: Some("tests/outside/node"),
        install: install_node,
        dir: "node",
    },
    Language {
        name: "Go",
        pins: &["github.com/twmb/franz-go"],
        project: Some("tests/outside/go"),
        install: install_go,
        dir: "go",
    },
];

/// Brings everything, or fails with the exact list of what is missing.
pub(crate) fn run(root: &Path) -> Result<()> {
    install_debian(root)?;
    for language in LANGUAGES {
        install_language(root, language)?;
    }
    Ok(())
}

fn install_debian(root: &Path) -> Result<()> {
    let missing: Vec<&str> =
        DEBIAN_PACKAGES.iter().filter(|package| !is_there(package)).map(|package| package.name).collect();
    if missing.is_empty() {
        eprintln!("Debian packages: all {} are there", DEBIAN_PACKAGES.len());
        return Ok(());
    }
    if !process::succeeds("apt-get", &["--version"]) {
        return Err(format!(
            "missing, and there is no apt-get to install them; these are their names in Debian: {}",
            missing.join(" ")
        ));
    }
    if !is_root(root)? {
        let list = missing.join(" ");
        return Err(format!(
            "Debian packages are missing and only root may install them. Run:\n\n    \
             sudo apt-get update && sudo apt-get install --yes --no-install-recommends {list}\n"
        ));
    }
    process::run(root, "apt-get", &["update", "--quiet"])?;
    let mut arguments = vec!["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--quiet", "--yes"];
    arguments.push("--no-install-recommends");
    arguments.extend(&missing);
    process::run(root, "env", &arguments)?;
    match DEBIAN_PACKAGES.iter().find(|package| !is_there(package)) {
        Some(package) => Err(format!("apt-get succeeded, and {} is still not there", package.name)),
        None => Ok(()),
    }
}

fn is_there(package: &DebianPackage) -> bool {
    let is_proved = package.proof.split_first().is_some_and(|(program, rest)| process::succeeds(program, rest));
    is_proved || is_installed(package.name)
}

fn is_installed(package: &str) -> bool {
    // Installed, and not merely removed with its configuration left behind.
    process::succeeds("sh", &["-c", "dpkg-query -W -f '${Status}' \"$0\" | grep -q '^install ok installed$'", package])
}

fn is_root(root: &Path) -> Result<bool> {
    Ok(process::output(root, "id", &["-u"])?.trim() == "0")
}

/// Installs unless the mark of the same pins and the same project is there. The mark is written last, so that a broken-off installation is
/// done again from nothing.
fn install_language(root: &Path, language: &Language) -> Result<()> {
    let dir = root.join(OUTSIDE_DIR).join(language.dir);
    let mark = dir.join("installed.txt");
    let mut wanted = language.pins.join("\n");
    if let Some(project) = language.project {
        append_files(&root.join(project), &mut wanted)?;
    }
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        eprintln!("{}: {} are there", language.name, language.pins.join(", "));
        return Ok(());
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|error| format!("cannot remove {}: {error}", dir.display()))?;
    }
    fs::create_dir_all(&dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    (language.install)(root, &dir, language.pins).map_err(|message| {
        format!("{message}\n{} needs these, below {}: {}", language.name, dir.display(), language.pins.join(" "))
    })?;
    fs::write(&mark, wanted).map_err(|error| format!("cannot write {}: {error}", mark.display()))
}

fn install_python(root: &Path, dir: &Path, pins: &[&str]) -> Result<()> {
    process::run(root, "python3", &["-m", "venv", text(dir)?])?;
    let python: PathBuf = dir.join("bin/python");
    let mut arguments = vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    arguments.extend(pins);
    process::run(root, text(&python)?, &arguments)
}

fn install_java(root: &Path, dir: &Path, _pins: &[&str]) -> Result<()> {
    let directory = format!("-Doutside.directory={}", text(dir)?);
    process::run(
        root,
        "mvn",
        &["--quiet", "--batch-mode", "--file", "tests/outside/java/pom.xml", &directory, "package"],
    )
}

/// npm installs beside its manifest only, so the project goes where the packages shall be.
fn install_node(root: &Path, dir: &Path, _pins: &[&str]) -> Result<()> {
    for name in ["package.json", "package-lock.json", "client.js"] {
        let from = root.join("tests/outside/node").join(name);
        fs::copy(&from, dir.join(name)).map_err(|error| format!("cannot copy {}: {error}", from.display()))?;
    }
    process::run(root, "npm", &["ci", "--silent", "--no-audit", "--no-fund", "--prefix", text(dir)?])
}

fn install_go(root: &Path, dir: &Path, _pins: &[&str]) -> Result<()> {
    process::run(root, "go", &["build", "-C", "tests/outside/go", "-o", text(&dir.join("outside"))?, "."])
}

/// Adds the text of all files below a directory, in the order of their names.
fn append_files(dir: &Path, out: &mut String) -> Result<()> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", dir.display());
    let entries = fs::read_dir(dir).map_err(failed)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.map_err(failed)?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            append_files(&path, out)?;
        } else {
            out.push('\n');
            out.push_str(&fs::read_to_string(&path).map_err(failed)?);
        }
    }
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("the path {} is not UTF-8", path.display()))
}
