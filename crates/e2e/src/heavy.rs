//! A runner image that takes its time to be pulled: some megabytes, through a wire of a known width.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use serde_json::json;

use crate::cluster::Lease;
use crate::proxy::Proxy;

/// What lies on top of the usual runner image, and so what a pull of it moves at least.
pub const BYTES: usize = 8_000_000;

/// An image that was never on any node of the lease.
#[derive(Debug)]
pub struct HeavyImage {
    /// Its reference without the tag, which is 0.0.0: by way of the wire.
    pub reference: String,
    /// The wire to the registry.
    pub registry: Proxy,
}

impl HeavyImage {
    /// Bakes it on the first node and pushes it, so that it is in the registry and nowhere else.
    pub async fn bake(lease: &Lease, bytes_per_second: u32) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("slugrunner-heavy-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let (engine, base) = (lease.node(0).engine(), lease.runner_image());
        engine.pull(&base, "0.0.0").await;
        let donor = engine.create(&name, json!({"Image": format!("{base}:0.0.0")})).await;
        engine.unpack(&donor, ballast()).await;
        let repository = base.replace("slugrunner", &name);
        engine.commit(&donor, &repository, "0.0.0").await;
        engine.remove(&donor).await;
        engine.push(&repository, "0.0.0").await;
        engine.remove_image(&format!("{repository}:0.0.0")).await;

        let registry = Proxy::between(lease.gateway(), lease.registry()).await;
        registry.throttle(bytes_per_second);
        Self { reference: format!("{}/{name}", registry.address()), registry }
    }
}

/// A file that does not compress and that no layer of a node has yet, as a tar.
fn ballast() -> Vec<u8> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut state = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap() | 1;
    let mut content = Vec::with_capacity(BYTES + 8);
    while content.len() < BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "ballast", content.as_slice()).unwrap();
    tar.into_inner().unwrap()
}
