//! One suite for both brokers: everything that walfabric needs from a broker, run against the embedded one and Debian's
//! etcd.
//!
//! Every case starts its own broker as a process, in a temporary directory and on a free port, so kill -9, restarts and
//! emptied directories are real.

mod kv;
mod limits;
mod server;
mod sessions;
mod tools;
mod watches;

/// One test per case and broker.
macro_rules! conformance {
    ($($module:ident::$case:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::server::Kind::Embedded).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case(crate::server::Kind::Etcd).await;
            })*
        }
    };
}

conformance! {
    kv::keys_are_put_read_and_deleted
    kv::compare_and_swap
    kv::a_key_is_written_once_per_transaction
    kv::only_present_revisions_are_read
    kv::an_ended_lease_takes_its_keys_along
    kv::a_lease_moves_on_re_put
    kv::a_kept_lease_has_its_full_time
    kv::a_killed_broker_forgets_nothing
    kv::the_next_endpoint_is_used_when_one_is_away
    watches::a_prefix_watch_does_not_see_longer_names
    watches::a_watch_resumes_from_a_revision
    watches::one_stream_carries_several_watches
    watches::a_watch_of_compacted_revisions_is_told_so
    watches::a_watch_tells_of_ended_leases_in_one_revision
    watches::a_watch_survives_the_brokers_death
    watches::a_watch_starts_without_a_broker
    watches::a_hung_broker_is_noticed
    sessions::a_session_publishes_under_one_lease_and_then_is_silent
    sessions::publications_are_coalesced
    sessions::a_replacement_is_one_revision
    sessions::a_replacement_without_a_broker_is_no_replacement
    sessions::a_broker_that_kept_everything_sees_no_put
    sessions::a_lost_lease_is_replaced
    sessions::an_emptied_broker_is_filled_anew
    sessions::a_broker_that_came_back_lower_is_brought_up_to_date
    sessions::a_hung_broker_does_not_hold_a_session_up
    sessions::deleted_and_overwritten_keys_come_back
    sessions::a_key_that_another_process_took_comes_back_with_its_end
    tools::etcdctl_works
    limits::a_full_broker_takes_no_writes_until_it_is_disarmed
    limits::a_large_request_is_refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_brokers_give_the_same_answers() {
    tools::both_brokers_give_the_same_answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_ask_does_not_fill_the_memory() {
    limits::what_strangers_ask_does_not_fill_the_memory().await;
}

/// Not a test: the process that [`server::Server`] starts and kills; in an ordinary run it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_broker_process() {
    server::be_the_embedded_broker().await;
}
