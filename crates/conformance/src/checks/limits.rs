//! Limits, as the kernel has them.

use std::sync::Arc;

use captain_server::engine::CreateSpec;

use crate::cgroup::{Limits, limits};
use crate::stage::Stage;
use crate::subject::App;

async fn applied(stage: &Stage, memory_bytes: u64, cpu_shares: u32) -> Limits {
    let spec = CreateSpec { memory_bytes, cpu_shares, ..stage.spec(&App::Idle) };
    let id = stage.create(&spec).await;
    stage.engine.start(id).await.unwrap();
    limits(id)
}

pub(super) async fn memory_is_limited_and_swap_is_none(stage: Arc<Stage>) {
    for slots in [1, 3] {
        let limits = applied(&stage, slots * (128 << 20), 20).await;
        assert_eq!(limits.memory, slots * (128 << 20), "{limits:?}");
        assert_eq!(limits.swap.unwrap_or(0), 0, "{limits:?}");
    }
}

pub(super) async fn processor_shares_are_in_proportion(stage: Arc<Stage>) {
    let few = applied(&stage, 128 << 20, 1_000).await;
    let many = applied(&stage, 128 << 20, 10_000).await;
    // Version 2 has another scale, and older runtimes put the one on the other crookedly.
    assert!(many.cpu_weight >= few.cpu_weight * 5, "ten times the shares: {few:?}, {many:?}");
}
