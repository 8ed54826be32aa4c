//! Nodes that come and go with EC2 instances.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use captain_e2e::captain::Settings;
use captain_e2e::cluster::{Lease, lease_secure};
use captain_e2e::ec2::Ec2;
use captain_e2e::eventually;
use captain_e2e::origin::Origin;
use captain_e2e::slugs;

use crate::{assert_error, id};

/// An instance without an engine.
const BARE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));

fn settings(ec2: &Ec2, lease: &Lease) -> Settings {
    let certificates = lease.certificates();
    let file = |name: &str| certificates.join(name).display().to_string();
    Settings::default()
        .set("AWS_DOCKER_HOST_TAG_VALUE", "docker")
        .set("AWS_CALL_INTERVAL_SECS", 1)
        .set("AWS_ENDPOINT_URL_EC2", ec2.url())
        .set("AWS_REGION", "eu-north-1")
        .set("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .set("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        .set("CAPTAIN_DOCKER_CA", file("ca.pem"))
        .set("CAPTAIN_DOCKER_CERT", file("cert.pem"))
        .set("CAPTAIN_DOCKER_KEY", file("key.pem"))
        .set("SLUG_RUNNER_COMMAND", "start web")
        .set("SLUG_RUNNER_IMAGE", lease.runner_image())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_those_that_ec2_names_now() {
    let lease = lease_secure().await;
    let node = lease.node(0);
    node.listen_as_on_ec2();
    let origin = Origin::start(&lease).await;
    let ec2 = Ec2::start().await;
    ec2.run(&[node.address.into(), BARE]);
    let captain = settings(&ec2, &lease).start_anyhow().await;
    let (name, bare) = (node.address.to_string(), BARE.to_string());
    let comes = async |name: &str| {
        eventually(&format!("{name} to come"), Duration::from_secs(20), || async {
            (captain.get(&format!("/nodes/{name}")).await.status == 200).then_some(())
        })
        .await;
    };
    let leaves = async |name: &str| {
        eventually(&format!("{name} to leave"), Duration::from_secs(20), || async {
            (captain.get(&format!("/nodes/{name}")).await.status == 404).then_some(())
        })
        .await;
    };

    comes(&name).await;
    comes(&bare).await;
    captain.node_becomes(&name, "healthy").await;
    captain.node_becomes(&bare, "unreachable").await;
    let slug = origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let instance = id(&captain.started("demo", &name, &slug).await);

    // It says nothing for a while: what is known stays.
    ec2.fail();
    let asked = ec2.asked();
    eventually("EC2 to be asked in vain", Duration::from_secs(20), || async {
        (ec2.asked() > asked + 1).then_some(())
    })
    .await;
    assert_eq!(captain.ids().await, [instance.as_str()]);
    assert!(captain.node(&name).await["state"] == "healthy");

    ec2.run(&[node.address.into()]);
    leaves(&bare).await;
    assert_eq!(captain.ids().await, [instance.as_str()]);
    ec2.run(&[]);
    leaves(&name).await;
    assert!(captain.ids().await.is_empty(), "instances of a node that is none are still listed");
    assert_error(&captain.get(&format!("/instances/{instance}")).await, 404, "no_such_instance");
    assert_eq!(node.engine().running().await, [instance.as_str()], "it was stopped, and nobody asked for that");

    ec2.run(&[node.address.into()]);
    captain_comes_back(&captain, &name, &instance).await;
}

async fn captain_comes_back(captain: &captain_e2e::captain::Captain, name: &str, instance: &str) {
    eventually("the instance of a node that is there again", Duration::from_secs(20), || async {
        captain.ids().await.contains(&instance.to_owned()).then_some(())
    })
    .await;
    assert_eq!(captain.node(name).await["slots"]["used"], 2);
}
