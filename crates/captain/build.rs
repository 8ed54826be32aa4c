//! Builds the small programs that `captain` carries: the runner, which goes into every instance, the monitor of each instance of the
//! embedded engine, and the example app of `captain demo`. They must be static, so that they run on any stack, even an empty one; on gnu targets `+crt-static` does that for programs
//! that ask for no DNS, and no second target has to be installed.
//!
//! A cargo inside cargo, because artifact dependencies are not stable. It has a target folder of its own below `OUT_DIR`, so that
//! the two never wait for each other's lock.

#![expect(clippy::disallowed_methods, reason = "it is by the environment that cargo speaks to build scripts")]

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Package and program.
const PROGRAMS: [[&str; 2]; 3] =
    [["captain-runner", "captain-runner"], ["captain-jail", "captain-monitor"], ["captain-hello", "captain-hello"]];

/// What the programs are made of.
const SOURCES: [&str; 8] = [
    "crates/runner/src",
    "crates/runner/Cargo.toml",
    "crates/jail/src",
    "crates/jail/Cargo.toml",
    "crates/hello/src",
    "crates/hello/Cargo.toml",
    "crates/domain",
    "Cargo.lock",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (target, folder) = (env::var("TARGET")?, out.join("static"));
    build(&root, &target, &folder)?;
    for [_, program] in PROGRAMS {
        std::fs::copy(folder.join(&target).join("release").join(program), out.join(program))?;
    }
    Ok(())
}

fn build(root: &Path, target: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.current_dir(root).args(["build", "--release", "--target", target, "--target-dir"]).arg(folder);
    for [package, program] in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    // Small counts here: these bytes are in every image that is made of a slug, and in every instance's memory.
    let profile =
        [("OPT_LEVEL", "z"), ("LTO", "fat"), ("CODEGEN_UNITS", "1"), ("PANIC", "abort"), ("STRIP", "symbols")];
    for (setting, value) in profile {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    // What the outer cargo says of its own flags, wrapper and target folder is not meant for this one.
    for inherited in [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        cargo.env_remove(inherited);
    }
    cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status()?;
    if status.success() { Ok(()) } else { Err(format!("building the carried programs failed: {status}").into()) }
}
