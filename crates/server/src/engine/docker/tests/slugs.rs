//! Slugs on their way to an engine: what is asked of it, in which order, and what stays where that goes wrong.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use captain_slug::{Digest, PackOptions};
use serde_json::{Value, json};
use sha2::Digest as _;

use super::fake::{Fake, Reply, Seen};
use crate::engine::{Engine, EngineError, ErrorKind, Preparation, SlugOnStack};

struct Packed {
    _folder: tempfile::TempDir,
    slug: SlugOnStack,
}

fn packed(content: &[u8]) -> Packed {
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("app");
    std::fs::create_dir(&app).unwrap();
    std::fs::write(app.join("Procfile"), "web: ./run\n").unwrap();
    std::fs::write(app.join("run"), content).unwrap();
    let file = folder.path().join("slug.tgz");
    let out = std::fs::File::create(&file).unwrap();
    let digest = captain_slug::pack(&app, out, &PackOptions::default(), &mut |_| {}).unwrap().sha256;
    Packed { _folder: folder, slug: SlugOnStack { digest, file: file.into(), stack: "busy:1".into() } }
}

fn image(labels: Value) -> Reply {
    image_with(json!({"Env": ["LANG=C"], "Labels": labels, "Volumes": null}))
}

fn image_with(config: Value) -> Reply {
    Reply::Json(200, json!({"Id": "sha256:57ac", "Size": 1000, "Config": config}))
}

fn missing() -> Reply {
    Reply::Json(404, json!({"message": "No such image: x"}))
}

fn refusal(status: u16, words: &str) -> Reply {
    Reply::Json(status, json!({"message": words}))
}

fn dated(body: &str) -> Reply {
    let head = "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 10:00:00 GMT\r\nConnection: close\r\n";
    Reply::Raw(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

/// What a request is, without version and random names.
fn step(seen: &Seen) -> &'static str {
    let steps = [
        ("GET", "/images/captain/slug", "slug?"),
        ("GET", "/images/captain/stack", "base?"),
        ("GET", "/images/busy:1/json", "stack?"),
        ("GET", "/images/json", "images?"),
        ("GET", "/containers/json", "containers?"),
        ("POST", "/containers/create?name=captain-build-", "create"),
        ("GET", "/export", "look"),
        ("PUT", "/archive?path=%2F", "fill"),
        ("POST", "repo=captain%2Fstack", "commit base"),
        ("POST", "repo=captain%2Fslug", "commit slug"),
        ("DELETE", "/containers/captain-build-", "remove"),
        ("POST", "/images/load", "load"),
        ("DELETE", "/images/captain/part:", "forget"),
    ];
    let known = steps.iter().find(|(method, part, _)| seen.method == *method && seen.target.contains(part));
    known.map_or("other", |(_, _, step)| step)
}

fn steps(fake: &Fake) -> Vec<&'static str> {
    fake.seen().iter().filter(|seen| seen.target != "/version").map(step).collect()
}

/// An engine that has the stack `busy:1` and its base, and takes slugs.
fn well(seen: &Seen) -> Option<Reply> {
    let reply = match step(seen) {
        "slug?" => missing(),
        "base?" => image(json!({"captain.stack.id": "sha256:57ac"})),
        "stack?" => image(Value::Null),
        "containers?" | "images?" => dated("[]"),
        "create" => Reply::Json(201, json!({"Id": "ab", "Warnings": null})),
        "fill" => Reply::Json(200, Value::Null),
        "commit base" | "commit slug" => Reply::Json(201, json!({"Id": "sha256:cd"})),
        "remove" => Reply::Json(204, Value::Null),
        _ => return None,
    };
    Some(reply)
}

/// The engine that is well, but for one step.
fn but(unwell: &'static str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> impl Fn(&Seen) -> Option<Reply> {
    move |seen| if step(seen) == unwell { Some(reply()) } else { well(seen) }
}

async fn prepare(fake: &Fake, slug: &SlugOnStack) -> Result<(), EngineError> {
    fake.client().prepare(&Preparation::Slug(slug.clone()), &|_| {}).await
}

fn entries(archive: &[u8]) -> Vec<(String, u64)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.path().unwrap().display().to_string(), entry.header().uid().unwrap())
    });
    entries.collect()
}

#[tokio::test]
async fn a_slug_is_sent_and_committed_on_a_base_that_is_there() {
    let packed = packed(b"#!/bin/sh\n");
    let fake = Fake::tcp(well).await;
    prepare(&fake, &packed.slug).await.unwrap();
    let asked = ["slug?", "containers?", "base?", "stack?", "create", "fill", "commit slug", "remove"];
    assert_eq!(steps(&fake), asked);
    let seen = fake.seen();
    let created = seen.iter().find(|seen| step(seen) == "create").unwrap();
    let labels = &created.body["Labels"];
    assert_eq!(labels["captain.slug.digest"], json!(packed.slug.digest.to_string()));
    assert_eq!((&labels["captain.stack"], &labels["captain.slug.base-bytes"]), (&json!("busy:1"), &json!("1000")));
    assert_eq!(labels["captain.app"], Value::Null, "it would count as an instance");
    assert_eq!(created.body["Entrypoint"], json!(["/.captain/runner", "--grace", "8"]));
    assert_eq!((&created.body["User"], &created.body["WorkingDir"]), (&json!("5000:5000"), &json!("/app")));
    let filled = seen.iter().find(|seen| step(seen) == "fill").unwrap();
    assert!(filled.head.to_lowercase().contains("content-type: application/x-tar"), "{}", filled.head);
    let sent = entries(&filled.archive);
    assert_eq!(sent, [("app/", 5000), ("app/Procfile", 5000), ("app/run", 5000)].map(|(n, u)| (n.to_owned(), u)));
}

/// An engine that keeps its layers in a way in which it can be given some.
fn layered(seen: &Seen) -> Option<Reply> {
    match step(seen) {
        "base?" => Some(Reply::Json(
            200,
            json!({"Id": "sha256:ba5e", "Size": 1000, "Architecture": "amd64", "Os": "linux",
                "Config": {"User": "5000:5000", "Labels": {"captain.stack.id": "sha256:57ac", "maintainer": "x"}},
                "RootFS": {"Type": "layers", "Layers": ["sha256:01", "sha256:02"]}, "GraphDriver": {"Name": "overlay2"}}),
        )),
        "load" => Some(Reply::Json(200, json!({"stream": "Loaded image"}))),
        "forget" => Some(Reply::Json(200, json!([]))),
        _ => well(seen),
    }
}

/// What an archive for a load holds: the entries of its layer, what the image is, and which is which.
fn loaded(archive: &[u8]) -> (Vec<(String, u64)>, Value, Value) {
    let mut files = std::collections::HashMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), content);
    }
    let digest = format!("sha256:{}", Digest(sha2::Sha256::digest(&files["layer.tar"]).into()));
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    let (config, manifest) = (json("config.json"), json("manifest.json"));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().last(), Some(&json!(digest)));
    (entries(&files["layer.tar"]), config, manifest)
}

/// What no compression makes small.
fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = 1_u64;
    let mut next = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 56) as u8
    };
    std::iter::repeat_with(&mut next).take(bytes).collect()
}

#[tokio::test]
async fn a_slug_is_loaded_as_a_layer_where_the_engine_takes_layers() {
    let packed = packed(b"#!/bin/sh\n");
    let fake = Fake::tcp(layered).await;
    prepare(&fake, &packed.slug).await.unwrap();
    assert_eq!(steps(&fake), ["slug?", "containers?", "base?", "stack?", "images?", "base?", "load"]);
    let (layer, config, manifest) = loaded(&fake.seen().last().unwrap().archive);
    assert_eq!(layer, [("app/", 5000), ("app/Procfile", 5000), ("app/run", 5000)].map(|(n, u)| (n.to_owned(), u)));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap()[..2], [json!("sha256:01"), json!("sha256:02")]);
    assert_eq!((&config["architecture"], &config["config"]["User"]), (&json!("amd64"), &json!("5000:5000")));
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["captain.slug.digest"], json!(packed.slug.digest.to_string()));
    assert_eq!((&labels["captain.slug.base-bytes"], &labels["maintainer"]), (&json!("1000"), &json!("x")));
    let name = manifest[0]["RepoTags"][0].as_str().unwrap();
    assert!(name.starts_with(&format!("captain/slug:{}", &packed.slug.digest.to_string()[..32])), "{name}");
    assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 3);
}

/// Two parts: the first is no slug by its labels, and goes when the second has made the image.
#[tokio::test]
async fn a_large_slug_is_loaded_in_parts_of_which_only_the_last_is_named() {
    let (packed, fake) = (packed(&noise(20 << 20)), Fake::tcp(layered).await);
    prepare(&fake, &packed.slug).await.unwrap();
    assert_eq!(steps(&fake)[5..], ["base?", "load", "load", "forget"]);
    let seen = fake.seen();
    let loads: Vec<_> = seen.iter().filter(|seen| step(seen) == "load").map(|seen| loaded(&seen.archive)).collect();
    let name = loads[0].2[0]["RepoTags"][0].as_str().unwrap();
    assert!(name.starts_with("captain/part:"), "{name}");
    assert_eq!(loads[0].1["config"]["Labels"], json!({"captain.build": name}));
    assert_eq!(loads[1].0, [("app/".to_owned(), 5000), ("app/run".to_owned(), 5000)], "with its folder");
    let below = loads[1].1["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(loads[0].1["rootfs"]["diff_ids"].as_array().unwrap()[..], below[..3]);
    assert!(seen.last().unwrap().target.contains(&format!("/images/{name}?")), "{}", seen.last().unwrap().target);
}

#[tokio::test]
async fn an_engine_that_refuses_layers_is_given_the_slug_as_a_whole() {
    let refusals = [
        || Reply::Json(200, json!({"error": "open known.tar: no such file or directory"})),
        || refusal(500, "something else"),
        || refusal(400, "invalid archive"),
        || refusal(501, "not implemented"),
    ];
    for reply in refusals {
        let fake = Fake::tcp(move |seen| if step(seen) == "load" { Some(reply()) } else { layered(seen) }).await;
        prepare(&fake, &packed(b"").slug).await.unwrap();
        assert_eq!(
            steps(&fake).iter().rev().take(4).collect::<Vec<_>>(),
            [&"remove", &"commit slug", &"fill", &"create"]
        );
    }
}

#[tokio::test]
async fn a_full_disk_and_a_bad_slug_end_it_and_the_parts_go() {
    let full = || Reply::Json(200, json!({"error": "write /layer.tar: no space left on device"}));
    let fake = Fake::tcp(move |seen| if step(seen) == "load" { Some(full()) } else { layered(seen) }).await;
    let mut large = packed(&noise(20 << 20));
    assert_eq!(prepare(&fake, &large.slug).await.unwrap_err().kind, ErrorKind::NoSpace);
    assert_eq!(steps(&fake)[5..], ["base?", "load", "forget"]);

    large.slug.digest = Digest([7; 32]);
    let fake = Fake::tcp(layered).await;
    let error = prepare(&fake, &large.slug).await.unwrap_err();
    assert!(error.kind == ErrorKind::Invalid && error.message.contains("sha256 is"), "{error}");
    assert_eq!(steps(&fake)[5..], ["base?", "load", "forget"], "the part that would have been named was not sent");
}

#[tokio::test]
async fn parts_of_the_dead_are_swept_and_nothing_else() {
    let image = |tag: &str, age: i64| json!({"Id": "sha256:a1", "RepoTags": [tag], "Created": 1_795_341_600 - age});
    let listed = json!([
        image("captain/part:old-0", 7200),
        image("captain/part:young-0", 600),
        image("captain/parting:old-0", 7200), // an engine may be generous with what it lists
    ]);
    let listed = listed.to_string();
    let fake = Fake::tcp(move |seen| if step(seen) == "images?" { Some(dated(&listed)) } else { layered(seen) }).await;
    prepare(&fake, &packed(b"").slug).await.unwrap();
    let forgotten: Vec<_> =
        fake.seen().into_iter().filter(|seen| step(seen) == "forget").map(|seen| seen.target).collect();
    assert_eq!(forgotten, ["/v1.41/images/captain/part:old-0?force=true"]);
}

#[tokio::test]
async fn what_is_there_is_not_sent_again() {
    let packed = packed(b"");
    let fake = Fake::tcp(but("slug?", || image(Value::Null))).await;
    prepare(&fake, &packed.slug).await.unwrap();
    assert_eq!(steps(&fake), ["slug?"]);
}

#[tokio::test]
async fn a_stack_is_looked_through_and_sealed_once() {
    let made = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&made);
    let fake = Fake::tcp(move |seen| match step(seen) {
        "base?" if !done.load(Ordering::SeqCst) => Some(image(json!({"captain.stack.id": "sha256:01d"}))),
        "look" => Some(Reply::Raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n{}", "\0".repeat(1024)))),
        "commit base" => {
            done.store(true, Ordering::SeqCst);
            well(seen)
        }
        _ => well(seen),
    })
    .await;
    prepare(&fake, &packed(b"").slug).await.unwrap();
    let base = [
        "slug?",
        "containers?",
        "base?",
        "stack?",
        "create",
        "look",
        "fill",
        "commit base",
        "remove",
        "images?",
        "base?",
    ];
    assert_eq!(steps(&fake), [&base[..], &["create", "fill", "commit slug", "remove"]].concat());
    let seen = fake.seen();
    let created = seen.iter().find(|seen| step(seen) == "create").unwrap();
    assert_eq!(created.body["Labels"]["captain.stack.environment"], json!(r#"["LANG=C"]"#));
    let filled = seen.iter().find(|seen| step(seen) == "fill").unwrap();
    let mut archive = tar::Archive::new(filled.archive.as_slice());
    let mut last = None;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        last = Some((entry.path().unwrap().display().to_string(), entry.header().mode().unwrap(), content));
    }
    assert_eq!(last.unwrap(), (".captain/runner".to_owned(), 0o755, "runner".to_owned()));
}

#[tokio::test]
async fn an_image_that_can_be_no_stack_is_refused_by_its_reason() {
    let cases = [
        (json!({"Volumes": {"/data": {}}}), "declares volumes (/data)"),
        (json!({"Labels": {"captain.app": "x"}}), "has the label captain.app, which is Captain's own"),
    ];
    for (config, reason) in cases {
        let fake = Fake::tcp(move |seen| match step(seen) {
            "base?" => Some(missing()),
            "stack?" => Some(image_with(config.clone())),
            _ => well(seen),
        })
        .await;
        let error = prepare(&fake, &packed(b"").slug).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.ends_with(reason), "{error}");
        assert!(!steps(&fake).contains(&"create"));
    }
}

#[tokio::test]
async fn whatever_fails_no_image_is_named_and_the_container_is_removed() {
    let cases = [
        ("fill", 500, "write /app/run: no space left on device", ErrorKind::NoSpace),
        ("fill", 500, "something else", ErrorKind::Failed),
        ("commit slug", 500, "mkdir x: disk quota exceeded", ErrorKind::NoSpace),
        ("commit slug", 500, "something else", ErrorKind::Failed),
    ];
    for (unwell, status, words, expected) in cases {
        let fake = Fake::tcp(but(unwell, move || refusal(status, words))).await;
        let error = prepare(&fake, &packed(b"").slug).await.unwrap_err();
        assert_eq!(error.kind, expected, "{unwell} {words}: {error}");
        assert_eq!(steps(&fake).last(), Some(&"remove"), "{unwell} {words}");
        assert_eq!(steps(&fake).contains(&"commit slug"), unwell == "commit slug");
    }
}

#[tokio::test]
async fn a_creation_of_unknown_outcome_is_undone_by_its_name() {
    let fake = Fake::tcp(but("create", || refusal(500, "something else"))).await;
    assert_eq!(prepare(&fake, &packed(b"").slug).await.unwrap_err().kind, ErrorKind::Failed);
    let seen = fake.seen();
    let [.., created, removed] = &seen[..] else { panic!("{seen:?}") };
    let name = created.target.split("name=").nth(1).unwrap();
    assert_eq!(removed.target, format!("/v1.41/containers/{name}?force=true&v=true"));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_for() {
    let committed = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&committed);
    let fake = Fake::tcp(move |seen| match step(seen) {
        "commit slug" => {
            done.store(true, Ordering::SeqCst);
            Some(Reply::Raw(String::new()))
        }
        "slug?" if done.load(Ordering::SeqCst) => Some(image(Value::Null)),
        _ => well(seen),
    })
    .await;
    prepare(&fake, &packed(b"").slug).await.unwrap();
    assert_eq!(steps(&fake)[6..], ["commit slug", "slug?", "remove"]);
}

#[tokio::test]
async fn other_bytes_than_the_digests_are_refused_and_nothing_stays() {
    let mut packed = packed(b"");
    packed.slug.digest = Digest([7; 32]);
    let fake = Fake::tcp(well).await;
    let error = prepare(&fake, &packed.slug).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("sha256 is"), "{error}");
    // The request was broken off, so no engine took it for a whole one.
    assert!(!steps(&fake).contains(&"fill") && !steps(&fake).contains(&"commit slug"), "{:?}", steps(&fake));
    assert_eq!(steps(&fake).last(), Some(&"remove"));
}

#[tokio::test]
async fn an_engine_that_stops_reading_holds_nobody_for_ever() {
    let packed = packed(&noise(24 << 20)); // more than lies in pipes and sockets
    let fake = Fake::tcp(well).await;
    fake.never_read_archives();
    let engine = fake.client_with(Duration::from_millis(500));
    let began = Instant::now();
    let error = engine.prepare(&Preparation::Slug(packed.slug.clone()), &|_| {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(steps(&fake).last(), Some(&"remove"));
}

#[tokio::test]
async fn build_containers_of_the_dead_are_swept_and_nothing_else() {
    let named = |name: &str, build: &str, age_seconds: i64, app: Option<&str>| {
        json!({"Id": "ab", "Names": [format!("/{name}")], "Created": 1_795_341_600 - age_seconds,
            "Labels": {"captain.build": build, "captain.app": app.unwrap_or_default()}})
    };
    let listed = json!([
        named("captain-build-old", "captain-build-old", 7200, None),
        named("captain-build-young", "captain-build-young", 600, None),
        named("demo_1", "captain-build-gone", 7200, Some("demo")), // an instance inherits its image's labels
        named("captain-build-other", "captain-build-gone", 7200, None),
        named("mine", "mine", 7200, None),
    ])
    .to_string();
    let fake = Fake::tcp(but("containers?", move || dated(&listed))).await;
    prepare(&fake, &packed(b"").slug).await.unwrap();
    let removed: Vec<_> =
        fake.seen().into_iter().filter(|seen| step(seen) == "remove").map(|seen| seen.target).collect();
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!(removed[0], "/v1.41/containers/captain-build-old?force=true&v=true");
}

#[tokio::test]
async fn prepared_slugs_are_told_with_what_they_take() {
    let digest = "ab".repeat(32);
    let (ours, odd) = (digest.clone(), "odd".to_owned());
    let fake = Fake::tcp(move |seen| {
        let image = |id: &str, tags: Value, digest: &str| {
            json!({"Id": id, "RepoTags": tags, "Created": 7, "Size": 5000,
                "Labels": {"captain.slug.digest": digest, "captain.slug.base-bytes": "3000"}})
        };
        match step(seen) {
            "images?" => Some(Reply::Json(
                200,
                json!([
                    image("sha256:a1", json!(["captain/slug:x"]), &ours),
                    image("sha256:b2", json!(["<none>:<none>"]), &ours),
                    image("sha256:c3", Value::Null, &odd),
                ]),
            )),
            // Podman writes no `sha256:` here.
            "containers?" => Some(Reply::Json(200, json!([{"ImageID": "b2"}, {"ImageID": "sha256:ff"}]))),
            _ => None,
        }
    })
    .await;
    let prepared = fake.client().prepared().await.unwrap();
    let told: Vec<_> = prepared.iter().map(|slug| (slug.reference.as_str(), slug.bytes, slug.in_use)).collect();
    assert_eq!(told, [("captain/slug:x", 2000, false), ("sha256:b2", 2000, true)]);
    assert!(prepared.iter().all(|slug| slug.digest.to_string() == digest && slug.created.0 == 7000));
}

#[tokio::test]
async fn only_slugs_are_discarded_and_never_by_force() {
    let discard = async |labels: Value, status: u16, words: &'static str| {
        let fake = Fake::tcp(move |seen| match seen.method.as_str() {
            "DELETE" => Some(if status == 200 { Reply::Json(200, json!([])) } else { refusal(status, words) }),
            _ => seen
                .target
                .contains("/json")
                .then(|| if labels == json!("gone") { missing() } else { image(labels.clone()) }),
        })
        .await;
        let result = fake.client().discard("captain/slug:x").await.map_err(|error| error.kind);
        (result, fake.seen().into_iter().find(|seen| seen.method == "DELETE").map(|seen| seen.target))
    };
    let slug = || json!({"captain.slug.digest": "ab"});
    let asked = Some("/v1.41/images/captain/slug:x?force=false".to_owned());
    assert_eq!(discard(slug(), 200, "").await, (Ok(()), asked.clone()));
    assert_eq!(discard(slug(), 409, "conflict: unable to delete").await, (Err(ErrorKind::Conflict), asked));
    assert_eq!(discard(json!({"maintainer": "x"}), 200, "").await, (Err(ErrorKind::Invalid), None));
    assert_eq!(discard(json!("gone"), 200, "").await, (Ok(()), None));
}
