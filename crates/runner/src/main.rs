//! The process that goes into a container as pid 1. All of it is in the library, see there.

use std::process::ExitCode;

fn main() -> ExitCode {
    captain_runner::main(std::env::args_os().skip(1), std::env::vars_os())
}
