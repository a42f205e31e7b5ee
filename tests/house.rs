//! The rules of the house that a compiler does not check: imports point down, and the protocol stays pure.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top; a file may use what is listed before its own module, and its own module.
const LAYERS: [&str; 12] = [
    "protocol",
    "error",
    "supervisor",
    "config",
    "info",
    "gen_server",
    "guardian",
    "wire",
    "net",
    "actors",
    "node",
    "lib",
];

/// What would make the protocol impure, or its runs differ.
const BANNED: [&str; 10] = [
    "Instant",
    "SystemTime",
    "std::time",
    "rand::",
    "tokio",
    "ractor",
    "tracing",
    "HashMap",
    "HashSet",
    "std::net",
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of code of a file: no comments, nothing from its test module on.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file");
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    product
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(i, line)| (i + 1, line.to_owned()))
        .collect()
}

fn module_of(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).expect("below src");
    let first = relative
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rank = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let mut wrong = Vec::new();
    for path in sources(&root) {
        let module = module_of(&root, &path);
        if module == "bin" {
            // The program sees the public API only: it cannot name `crate::` of the library at all.
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("{module} has no layer: give it one"));
        for (number, line) in code(&path) {
            let Some(at) = line.find("crate::") else {
                continue;
            };
            let used: String = line[at + 7..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if let Some(layer) = rank(&used)
                && layer > own
            {
                wrong.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that point up:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_protocol_is_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol");
    let mut wrong = Vec::new();
    for path in sources(&root)
        .into_iter()
        .filter(|p| !p.ends_with("tests.rs"))
    {
        for (number, line) in code(&path) {
            if BANNED.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "impure:\n{}", wrong.join("\n"));
}

#[test]
fn every_deliberate_defect_is_planted_in_a_model_check() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let models = [
        "model_data.rs",
        "model_views.rs",
        "model_lease.rs",
        "model_whole.rs",
        "model_ids.rs",
    ];
    let text: String = models
        .iter()
        .map(|name| fs::read_to_string(tests.join(name)).expect("a model check"))
        .collect();
    let unchecked: Vec<_> = statekeeper::protocol::defect::Defect::ALL
        .iter()
        .filter(|defect| {
            let name = format!("Defect::{defect:?}");
            let end = |rest: &str| !rest.starts_with(char::is_alphanumeric);
            !text.split(&name).skip(1).any(end)
        })
        .collect();
    assert!(unchecked.is_empty(), "no check finds {unchecked:?}");
}
