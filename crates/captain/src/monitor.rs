//! How the monitors of the embedded engine's instances are entered.

use captain_jail::Helper;

/// The first argument by which this very binary plays the role. No command: clap never hears of it.
pub(crate) const ROLE: &str = "__monitor";

/// The role alone, static and small, built by `build.rs`: loading this binary instead would be a third of a start, and there is one
/// monitor for each instance.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/captain-monitor"));

/// The small program, or this binary where the machine executes nothing from memory.
pub(crate) fn helper() -> Helper {
    Helper::carried("captain-monitor", PROGRAM).unwrap_or_else(|_| Helper::this_binary([ROLE]))
}
