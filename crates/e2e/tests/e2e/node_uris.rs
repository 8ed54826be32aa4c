//! Every way to write a node, against a real engine: start, ask, stop.

use captain_e2e::captain::Settings;
use captain_e2e::cluster::{Lease, lease, lease_on_tcp, lease_secure};
use captain_e2e::origin::Origin;
use captain_e2e::slugs;

use crate::{Stage, id};

async fn works(lease: Lease, node_id: &str, settings: Settings) {
    let origin = Origin::start(&lease).await;
    let captain = settings.start().await;
    let stage = Stage { captain, origin, lease };
    let slug = stage.origin.offer("web.tgz", slugs::web("reached"));
    let instance = stage.captain.started("web", node_id, &slug).await;
    assert_eq!(instance["node"], node_id);
    let port = stage.node().port(&instance["port"]);
    captain_e2e::eventually("the app", std::time::Duration::from_secs(10), || async { port.try_get("/").await.ok() })
        .await;
    let logs = stage.captain.get(&format!("/instances/{}/logs", id(&instance))).await.expect(200).text();
    assert!(logs.contains("listening"), "{logs}");
    let _ = stage.captain.delete(&format!("/instances/{}", id(&instance))).await.expect(204);
    assert!(stage.node().engine().containers().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_http_with_the_host_name_as_id() {
    for scheme in ["tcp", "http"] {
        let lease = lease_on_tcp(1).await;
        let address = lease.node(0).address.to_string();
        let settings = Settings::of(&lease).set("DOCKER_NODES", format!("{scheme}://{address}:2375"));
        works(lease, &address, settings).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket() {
    let lease = lease(1).await;
    let settings =
        Settings::of(&lease).set("DOCKER_NODES", format!("here=unix://{}", lease.node(0).socket().display()));
    works(lease, "here", settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_with_a_client_certificate() {
    let lease = lease_secure().await;
    let node = lease.node(0);
    let settings = Settings::of(&lease)
        .set("DOCKER_NODES", format!("secure=https://{}:2376", node.address))
        .set("CAPTAIN_DOCKER_CA", lease.certificates().join("ca.pem").display())
        .set("CAPTAIN_DOCKER_CERT", lease.certificates().join("cert.pem").display())
        .set("CAPTAIN_DOCKER_KEY", lease.certificates().join("key.pem").display());
    works(lease, "secure", settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn https_without_the_right_authority_is_refused() {
    let lease = lease_secure().await;
    let node = lease.node(0);
    let captain =
        Settings::of(&lease).set("DOCKER_NODES", format!("secure=https://{}:2376", node.address)).start_anyhow().await;
    let seen = captain.node_becomes("secure", "unreachable").await;
    let state = seen["state"].as_str().unwrap().to_lowercase();
    assert!(state.contains("certificate") || state.contains("issuer") || state.contains("tls"), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh() {
    let lease = lease_secure().await;
    let path = format!("{}:{}", lease.ssh_directory().display(), std::env::var("PATH").unwrap_or_default());
    let settings =
        Settings::of(&lease).set("DOCKER_NODES", format!("far=ssh://root@{}", lease.node(0).address)).set("PATH", path);
    works(lease, "far", settings).await;
}
