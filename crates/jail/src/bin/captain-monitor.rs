//! The monitor's role alone, for the binary that carries it: static and small, because what is executed at every start should be.

use std::process::ExitCode;

fn main() -> ExitCode {
    captain_jail::monitor::main(std::env::args_os().skip(1), captain_jail::monitor::nothing)
}
