//! The modules of the crate form layers: each uses only those that `lib.rs` declares above it

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file and the name of its module, such as `sys::shm`.
struct Module {
    path: PathBuf,
    name: String,
}

/// The modules declared in `file`, each followed by its children, in the order of declaration.
fn declared(file: &Path, prefix: &str) -> Vec<Module> {
    let mut modules = Vec::new();
    let mut directory = file.parent().unwrap().to_owned();
    let stem = file.file_stem().unwrap();
    if stem != "lib" && stem != "mod" {
        directory.push(stem);
    }
    for line in fs::read_to_string(file).unwrap().lines() {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) else { continue };
        let (flat, nested) = (directory.join(format!("{name}.rs")), directory.join(name).join("mod.rs"));
        let full_name = format!("{prefix}{name}");
        let path = if nested.exists() { nested } else { flat };
        modules.extend(declared(&path, &format!("{full_name}::")));
        modules.push(Module { path, name: full_name });
    }
    modules
}

/// What follows each `crate::` in the code, comments left out, such as `sys::shm` or `header`.
fn uses(source: &str) -> Vec<String> {
    let code = source.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    code.match_indices("crate::")
        .filter(|(at, _)| !code[..*at].ends_with('$'))
        .map(|(at, found)| {
            let path = &code[at + found.len()..];
            let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
            path[..end].to_owned()
        })
        .collect()
}

/// The places where a module uses one that is not above it, or goes round the layers by the crate's root.
fn violations(modules: &[(String, String)]) -> Vec<String> {
    let order: HashMap<&str, usize> =
        modules.iter().enumerate().map(|(index, (name, _))| (name.as_str(), index)).collect();
    let mut violations = Vec::new();
    for (index, (name, source)) in modules.iter().enumerate() {
        for used in uses(source) {
            // The longest prefix that is a module.
            let mut target = used.as_str();
            let position = loop {
                if let Some(position) = order.get(target) {
                    break Some(*position);
                }
                match target.rfind("::") {
                    Some(end) => target = &target[..end],
                    None => break None,
                }
            };
            if position.is_none_or(|position| position >= index) {
                violations.push(format!("{name} uses crate::{used}"));
            }
        }
    }
    violations
}

#[test]
fn imports_go_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules = declared(&root.join("lib.rs"), "");
    let files = modules.len();
    let sources: Vec<_> =
        modules.into_iter().map(|module| (module.name, fs::read_to_string(&module.path).unwrap())).collect();
    assert!(files >= 10, "{files} modules found");
    let violations = violations(&sources);
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn every_file_is_declared_and_holds_one_idea() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut declared: Vec<_> =
        declared(&root.join("lib.rs"), "").into_iter().map(|module| module.path).collect();
    declared.push(root.join("lib.rs"));
    let (mut directories, root) = (vec![root.clone()], fs::read_to_string(root.join("lib.rs")).unwrap());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path.extension().is_some_and(|extension| extension == "md") {
                // A text, which is included by the module of its name.
                let module = format!("pub mod {} {{}}", path.file_stem().unwrap().to_str().unwrap());
                assert!(root.contains(&module), "{} is in no module", path.display());
                continue;
            }
            assert!(declared.contains(&path), "{} is in no module", path.display());
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 620, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn an_upward_import_is_found() {
    let module = |name: &str, source: &str| (name.to_owned(), source.to_owned());
    let lower = module("lower", "// crate::upper is fine in a comment\nuse crate::upper::Thing;");
    let root = module("root", "fn f() { crate::Thing::new() }");
    let upper = module("upper", "use crate::lower;\nuse crate::sys::shm::open;");
    let sys = module("sys::shm", "use crate::sys::clock;");
    let clock = module("sys::clock", "");
    assert_eq!(
        violations(&[lower, root, sys, clock, upper]),
        ["lower uses crate::upper::Thing", "root uses crate::Thing::new", "sys::shm uses crate::sys::clock"]
    );
}
