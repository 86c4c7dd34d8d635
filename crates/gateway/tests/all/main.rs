//! The file server over real sockets, under every model.
//!
//! - `world`: a server, and a client that shows what it does to the byte
//! - `suite`: requests and the responses they must get, the same under all models
//! - `smuggling`: requests that different servers read differently
//! - `limits`: slow and greedy clients, more connections than there is room or there are descriptors for
//! - `changes`: files that change while they are sent
//! - `endings`: graceful and forced

mod changes;
mod endings;
mod limits;
mod smuggling;
mod suite;
mod world;

/// A test for each model.
macro_rules! under_every_model {
    ($($check:path as $name:ident),* $(,)?) => {
        $(mod $name {
            use sterna_gateway::files::Model;
            #[test]
            fn iterative() { $check(Model::Iterative); }
            #[test]
            fn thread_per_connection() { $check(Model::ThreadPerConnection); }
            #[test]
            fn dispatcher() { $check(Model::Dispatcher); }
            #[test]
            fn event_loop() { $check(Model::EventLoop); }
            #[test]
            fn processes() { $check(Model::Processes); }
            #[test]
            fn hybrid() { $check(Model::Hybrid); }
        })*
    };
}

under_every_model! {
    crate::suite::check as requests_and_responses,
    crate::suite::pipelined as pipelined_requests_are_answered_in_order,
    crate::suite::large as large_files_arrive_whole,
    crate::suite::logged as the_log_has_every_request,
    crate::suite::slow_disk as slow_reads_change_nothing,
    crate::smuggling::check as doubtful_requests_are_refused,
    crate::limits::slow_head as a_head_must_come_in_time,
    crate::limits::idle as idle_connections_end,
    crate::limits::stalled as clients_that_take_nothing_are_cut_off,
    crate::limits::slow_body as clients_that_take_slowly_get_all,
    crate::limits::full as beyond_the_limit_is_turned_away,
    crate::limits::slow_clients_hold_up_nobody as thousands_of_idle_connections_are_held,
    crate::changes::truncated as a_file_that_shrinks_ends_the_connection,
    crate::changes::replaced as a_file_that_is_replaced_is_sent_as_it_was,
    crate::changes::grown as a_file_that_grows_is_sent_as_announced,
    crate::endings::graceful as what_has_begun_is_finished,
    crate::endings::half_sent as what_has_half_arrived_is_answered,
    crate::endings::forced as what_takes_too_long_is_cut_off,
}
