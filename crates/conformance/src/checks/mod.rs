//! The checks: each is named as the sentence of the contract that it holds an engine to.

mod errors;
mod events;
mod inspection;
mod life;
mod limits;
mod listing;
mod logs;
mod preparation;
mod removal;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::stage::Stage;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One sentence of the contract.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) run: fn(Arc<Stage>) -> Running,
}

macro_rules! checks {
    ($($module:ident: $($name:ident),+;)+) => {
        &[$($(Check { name: stringify!($name), run: |stage| Box::pin($module::$name(stage)) }),+),+]
    };
}

/// All of them, what later ones rest on first.
pub(crate) const CHECKS: &[Check] = checks! {
    preparation:
        facts_are_told,
        preparing_again_succeeds,
        what_was_not_prepared_is_missing,
        what_cannot_be_prepared_is_named;
    listing:
        what_has_been_created_is_in_every_later_listing,
        a_listing_says_whose_a_container_is_and_what_it_does,
        an_operation_is_found;
    inspection:
        an_inspection_gives_back_what_was_given,
        a_host_name_is_the_one_asked_for_or_the_beginning_of_the_id,
        the_app_gets_its_environment,
        times_are_told,
        a_port_is_told_while_it_runs_and_leads_to_it;
    life:
        starting_again_succeeds,
        an_end_is_told_with_its_code,
        stop_is_sigterm_first,
        what_ignores_sigterm_is_killed_after_its_grace,
        stopping_what_has_ended_succeeds,
        two_may_stop_the_same_at_once,
        want_of_memory_is_told;
    removal:
        what_runs_is_removed_by_force_alone,
        what_does_not_run_is_removed,
        an_unknown_id_is_not_found_by_any_call,
        a_name_is_given_once;
    logs:
        output_is_whole_and_in_order,
        both_outputs_are_told_apart,
        following_begins_at_the_beginning_and_ends_with_the_instance,
        a_reader_that_does_not_read_holds_nobody_up;
    events:
        a_change_after_events_returned_is_in_the_stream,
        an_end_that_nobody_asked_for_is_in_the_stream;
    limits:
        memory_is_limited_and_swap_is_none,
        processor_shares_are_in_proportion;
    errors:
        an_error_says_what_was_attempted_and_where,
        no_error_holds_a_value_of_the_environment;
};

/// The names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}
