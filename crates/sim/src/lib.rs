//! Captain's production code over simulated engines in virtual time. Never shipped.
//!
//! What runs here unchanged: the view, the reservation, start and stop, the watcher, the collector. What is simulated: the
//! engines ([`captain_server::engine::Engine`] is the seam), the network between captains and engines, the clocks, the clients, and
//! death. One seed draws all of it and one thread runs it, so a seed repeats a run exactly; the trace's hash proves it.
//!
//! - `plan`: what a seed draws. `weather`: the faults as they come. `clients`: who starts and stops instances.
//! - `world`: the engines' own truth, where each change is one instant, and where each instant is checked.
//! - `engine`: a captain's way to an engine, on which calls, answers and captains get lost.
//! - `verdict`: what must hold when the faults have ended. `strike`: one start and one stop, broken off at each step in turn.
//!
//! The world is told what clients were answered, and it is asked what engines hold; no captain's memory is ever evidence.

mod clients;
mod crew;
mod engine;
mod plan;
mod run;
mod strike;
mod trace;
mod verdict;
mod weather;
mod world;

pub use plan::{Mutation, Plan, Scenario, Strike};
pub use run::{Report, run};
pub use world::Violation;
