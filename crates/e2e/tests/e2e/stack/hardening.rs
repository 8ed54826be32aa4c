//! Instances in stack mode are hardened by default: asked of an instance itself, and of its engine.

use std::collections::BTreeSet;
use std::time::Duration;

use captain_e2e::cluster::{Lease, lease};
use captain_e2e::slugs;
use serde_json::{Value, json};

use super::{Stacked, lines};
use crate::{assert_error, id};

/// Says what it is, and where it can write.
const PROBE: &str = r#"
for pid in 1 self; do
  grep -E '^(Uid|Gid|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/$pid/status | while read -r name value; do echo "$pid $name" $value; done
done
find / /dev /run -xdev -type d 2>/dev/null >/tmp/folders
find / -xdev -type f 2>/dev/null >/tmp/files
while read -r folder; do
  case $folder in /app|/app/*|/tmp|/tmp/*|/dev/shm|/dev/mqueue|/proc|/proc/*|/sys|/sys/*) continue ;; esac
  if (: >"$folder/probe") 2>/dev/null; then echo "writable $folder"; else echo "closed $folder"; fi
done </tmp/folders
while read -r file; do
  case $file in /app/*|/tmp/*) continue ;; esac
  if (: >>"$file") 2>/dev/null; then echo "writable $file"; else echo "closed $file"; fi
done </tmp/files
for folder in /bin /etc /home /lib /lib64 /opt /root /run /sbin /usr /var; do
  [ -L $folder ] || [ ! -d $folder ] || echo "mount $folder $(grep -E " $folder r[ow]," /proc/self/mountinfo | tail -n 1 | cut -d ' ' -f 6 | cut -c 1-2)"
done
for folder in /app /app/deep /tmp; do if (: >"$folder/probe") 2>/dev/null; then echo "usable $folder"; fi; done
echo "tried all"
"#;

/// What is open to the user of the slugs on the stack below.
const CARELESS: [&str; 4] = ["/var/tmp", "/var/own", "/var/own/file", "/var/open"];

/// A stack that is careless: it has folders and files that everybody may write, or that belong to the user of the slugs.
async fn careless_stack(lease: &Lease) -> String {
    let engine = lease.node(0).engine();
    let base = lease.runner_image();
    engine.pull(&base, "0.0.0").await;
    let donor = engine.create("careless", json!({"Image": format!("{base}:0.0.0")})).await;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, mode: u32, owner: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(0);
        tar.append_data(&mut header, path, std::io::empty()).unwrap();
    };
    add("var/tmp/", tar::EntryType::Directory, 0o1777, 0);
    add("var/own/", tar::EntryType::Directory, 0o755, 5000);
    add("var/own/file", tar::EntryType::Regular, 0o644, 5000);
    add("var/open", tar::EntryType::Regular, 0o666, 0);
    engine.unpack(&donor, tar.into_inner().unwrap()).await;
    engine.commit(&donor, "captain-careless", "1").await;
    engine.remove(&donor).await;
    "captain-careless:1".to_owned()
}

/// The probe finds what is open where nobody has closed it; else it would prove nothing.
async fn control(lease: &Lease, stack: &str) {
    let engine = lease.node(0).engine();
    let plain = json!({"Image": stack, "User": "5000:5000", "Entrypoint": ["/bin/sh", "-c"], "Cmd": [PROBE]});
    let id = engine.run("control", plain).await;
    let _ = engine.call("POST", &format!("/containers/{id}/wait"), Value::Null).await.expect(200);
    let said = engine.call("GET", &format!("/containers/{id}/logs?stdout=1"), Value::Null).await.expect(200).text();
    for path in CARELESS {
        assert!(said.contains(&format!("writable {path}\n")), "{path}: {said}");
    }
    assert!(said.contains("1 NoNewPrivs: 0\n"), "{said}");
    engine.remove(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_no_privileges_and_writes_only_to_its_app_and_tmp() {
    let lease = lease(1).await;
    let stack = careless_stack(&lease).await;
    control(&lease, &stack).await;
    let stacked = Stacked::on(lease, &stack).await;
    let slug = slugs::script(&format!("{PROBE}{}", slugs::IDLE)).file("deep/file", b"");
    let uri = stacked.stage.origin.offer("probe.tgz", slug);
    let id = id(&stacked.started(stacked.node(), &uri).await);
    let mut logs = stacked.stage.captain.stream(&format!("/instances/{id}/logs?follow=1")).await;
    let said = logs.until("tried ", Duration::from_secs(30)).await;

    let said: BTreeSet<String> = lines(&said).into_iter().collect();
    for pid in ["1", "self"] {
        let nothing = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}: 0000000000000000"));
        let rest = ["Uid: 5000 5000 5000 5000", "Gid: 5000 5000 5000 5000", "NoNewPrivs: 1", "Seccomp: 2"];
        for line in nothing.iter().map(String::as_str).chain(rest) {
            assert!(said.contains(format!("{pid} {line}").as_str()), "{pid} {line}: {said:#?}");
        }
    }
    let writable: Vec<_> = said.iter().filter(|line| line.starts_with("writable ")).collect();
    assert!(writable.is_empty(), "{writable:?}");
    let careless = CARELESS.map(|path| format!("closed {path}"));
    let usual = ["closed /", "closed /etc", "closed /dev", "usable /app", "usable /app/deep", "usable /tmp"];
    for line in careless.iter().map(String::as_str).chain(usual) {
        assert!(said.contains(line), "{line}: {said:#?}");
    }

    let mounts: Vec<_> = said.iter().filter(|line| line.starts_with("mount ")).collect();
    assert!(mounts.len() >= 3 && mounts.iter().all(|line| line.ends_with(" ro")), "mounted read-only: {mounts:?}");

    let container = stacked.stage.node().engine().inspect(&id).await;
    let host = &container["HostConfig"];
    assert_eq!(host["Memory"], 128 * 1024 * 1024);
    assert_eq!(host["MemorySwap"], host["Memory"], "swap beside the memory");
    assert!(host["PidsLimit"].as_u64().is_some_and(|limit| (1..=32_768).contains(&limit)), "{}", host["PidsLimit"]);
    assert_eq!((&host["Privileged"], &host["CapAdd"]), (&json!(false), &Value::Null));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]), "nothing else, so the default seccomp profile");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_start_weakens_an_instance() {
    let stacked = Stacked::with(1).await;
    let uri = stacked.stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for field in ["privileged", "user", "cap_add", "security_opt", "pids_limit", "volumes", "HostConfig"] {
        let mut order = stacked.order(stacked.node(), &uri);
        order[field] = json!(true);
        assert_error(&stacked.stage.captain.start(order).await, 400, "bad_request");
    }
    assert_eq!(stacked.stage.node().engine().containers().await, Vec::<Value>::new());
    assert_eq!(stacked.stage.origin.counts("idle.tgz").requests, 0);
}
