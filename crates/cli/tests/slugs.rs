//! `captain slug …` as a process: packs, looks into, and finds fault with real files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so when it cannot go on")]

mod scripted;

use std::fs;
use std::path::Path;

use scripted::{Asked, Ended, Scripted, captain, error, instance, json_answer, text_answer};
use serde_json::{Value, json};

const NOWHERE: &str = "http://127.0.0.1:1";

/// A folder with an app in it, in a folder of its own.
fn app() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path().join("shop");
    fs::create_dir_all(app.join("lib")).unwrap();
    fs::write(app.join("Procfile"), "web: ./serve --port $PORT\nworker: ./work\n").unwrap();
    fs::write(app.join("serve"), "#!/bin/sh\n").unwrap();
    fs::write(app.join("lib/big"), vec![b'x'; 123_456]).unwrap();
    fs::write(app.join("notes.md"), "not for the world").unwrap();
    fs::write(app.join(".slugignore"), "*.md\n").unwrap();
    folder
}

async fn slug(arguments: &[&Path]) -> Ended {
    let arguments: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
    captain(NOWHERE, &[&["slug"], &arguments[..]].concat()).await
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

#[tokio::test]
async fn what_is_packed_can_be_inspected_and_is_the_same_each_time() {
    let folder = app();
    let (root, first, second) = (folder.path().join("shop"), folder.path().join("1.tgz"), folder.path().join("2.tgz"));
    let packed = slug(&[path("pack"), &root, path("-o"), &first]).await;
    assert_eq!(packed.code, Some(0), "{packed:?}");
    let digest = packed.stdout.strip_prefix("sha256:").unwrap().trim_end().to_owned();
    let told = format!("entries (123.5 kB) into {} (", first.display());
    assert!(packed.stderr.starts_with("packed ") && packed.stderr.contains(&told), "{packed:?}");
    assert!(packed.stderr.ends_with("; 1 left out\n"), "{packed:?}");
    let again = slug(&[path("pack"), path("--json"), &root, path("-o"), &second]).await;
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["sha256"], digest.as_str());
    assert_eq!(fs::read(&first).unwrap(), fs::read(&second).unwrap());
    assert_eq!(again["bytes"], fs::metadata(&second).unwrap().len());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no half-written slug is left: {left:?}");

    let page = slug(&[path("inspect"), &first]).await;
    assert_eq!((page.code, page.stderr.as_str()), (Some(0), ""));
    for line in [
        &format!("sha256       {digest}"),
        "layout       ./",
        "process      web: ./serve --port $PORT",
        "process      worker: ./work",
        "large file    123.4 kB  lib/big",
    ] {
        assert!(page.stdout.lines().any(|seen| seen == line), "{line}: {}", page.stdout);
    }
    let document = slug(&[path("inspect"), path("--json"), &first]).await;
    let document: Value = serde_json::from_str(&document.stdout).unwrap();
    assert_eq!(document["sha256"], digest.as_str());
    assert_eq!(document["processes"][1]["command"], "./work");
    assert_eq!(document["largest"][0]["bytes"], 123_456);
}

#[tokio::test]
async fn a_slug_is_not_packed_into_itself() {
    let folder = app();
    let root = folder.path().join("shop");
    for output in [root.join("shop.tgz"), root.join("lib/shop.tgz")] {
        let refused = slug(&[path("pack"), &root, path("-o"), &output]).await;
        let said = "error: the slug would be packed into itself\nhelp: write it elsewhere, as with -o ../app.tgz\n";
        assert_eq!((refused.code, refused.stderr.as_str()), (Some(2), said));
        assert!(!output.exists());
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_packed_leaves_the_slug_before_it_alone() {
    let folder = app();
    let (root, output) = (folder.path().join("shop"), folder.path().join("shop.tgz"));
    fs::write(&output, "the one before").unwrap();
    std::os::unix::fs::symlink("../../passwd", root.join("link")).unwrap();
    let refused = slug(&[path("pack"), &root, path("-o"), &output]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("the entry `./link` is a link to `../../passwd`"), "{refused:?}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "the one before");
    let missing = slug(&[path("pack"), &folder.path().join("absent")]).await;
    assert_eq!(missing.code, Some(2), "{missing:?}");
}

#[tokio::test]
async fn lint_says_what_is_wrong_and_fails_only_for_errors() {
    let folder = app();
    let (root, good) = (folder.path().join("shop"), folder.path().join("good.tgz"));
    assert_eq!(slug(&[path("pack"), &root, path("-o"), &good]).await.code, Some(0));
    let fine = slug(&[path("lint"), &good]).await;
    assert_eq!(fine.code, Some(0), "{fine:?}");
    assert!(!fine.stdout.contains("error["), "{fine:?}");

    let page = folder.path().join("page.tgz");
    fs::write(&page, "<html><body>404</body></html>").unwrap();
    let refused = slug(&[path("lint"), &page]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.starts_with("error["), "{refused:?}");
    let document = slug(&[path("lint"), path("--json"), &page]).await;
    let document: Value = serde_json::from_str(&document.stdout).unwrap();
    assert_eq!(document[0]["severity"], "error");
    let inspected = slug(&[path("inspect"), &page]).await;
    assert_eq!(inspected.code, Some(1));
    assert!(
        inspected.stderr.starts_with(&format!("error: {}: this is not a slug but ", page.display())),
        "{inspected:?}"
    );
    let absent = slug(&[path("inspect"), path("/nonexistent")]).await;
    assert_eq!(
        (absent.code, absent.stderr.as_str()),
        (Some(2), "error: cannot open /nonexistent: No such file or directory (os error 2)\n")
    );
}

#[tokio::test]
async fn lint_knows_the_traps_of_procfiles() {
    let folder = app();
    let (root, packed) = (folder.path().join("shop"), folder.path().join("trap.tgz"));
    let cases = [
        ("web: run --color #fff\n", Some(0), "procfile-classic-differs", "Procfile line 1: "),
        ("web: a: b\n", Some(0), "procfile-classic-fails", "Procfile: not YAML"),
        ("web:run\n", Some(0), "procfile-no-blank", "no blank after `web:`"),
        ("web: a\nweb: b\n", Some(0), "procfile-duplicate", "is on line 1 already"),
        ("worker: a\n", Some(0), "procfile-no-web", "no process type `web`"),
        ("web: >-\n  run\n  this\n", Some(0), "procfile-yaml", "read as YAML"),
        ("web run\n", Some(1), "procfile-invalid", "nothing in it can be started: line 1"),
    ];
    for (procfile, code, name, words) in cases {
        fs::write(root.join("Procfile"), procfile).unwrap();
        assert_eq!(slug(&[path("pack"), &root, path("-o"), &packed]).await.code, Some(0));
        let linted = slug(&[path("lint"), &packed]).await;
        assert_eq!(linted.code, code, "{procfile:?}: {linted:?}");
        assert!(
            linted.stdout.contains(&format!("[{name}]")) && linted.stdout.contains(words),
            "{procfile:?}: {linted:?}"
        );
        fs::remove_file(&packed).unwrap();
    }
}

/// A captain that has no slugs, takes each, and starts whatever it is asked to.
async fn taking(has: bool) -> Scripted {
    Scripted::answering(move |asked: Asked| async move {
        match asked.method.as_str() {
            "HEAD" => text_answer(if has { 200 } else { 404 }, "application/octet-stream", ""),
            "PUT" => {
                let stored =
                    json!({"sha256": "as given", "bytes": 1, "created": "2026-11-22T10:00:00Z", "last_used": null});
                json_answer(201, &stored)
            }
            _ => json_answer(201, &instance('1', "shop", "app-1", json!({}))),
        }
    })
    .await
}

#[tokio::test]
async fn a_slug_is_pushed_once_and_its_digest_printed() {
    let folder = app();
    let (root, file) = (folder.path().join("shop"), folder.path().join("shop.tgz"));
    let packed = slug(&[path("pack"), &root, path("-o"), &file]).await;
    let digest = packed.stdout.trim().strip_prefix("sha256:").unwrap().to_owned();
    let bytes = fs::metadata(&file).unwrap().len();
    // A folder is packed first, into the same bytes.
    for given in [&file, &root] {
        let server = taking(false).await;
        let pushed = captain(&server.url(), &["slug", "push", given.to_str().unwrap()]).await;
        assert_eq!((pushed.code, pushed.stdout.as_str()), (Some(0), packed.stdout.as_str()), "{pushed:?}");
        assert!(pushed.stderr.starts_with(&format!("pushed {} (", given.display())), "{pushed:?}");
        assert_eq!(server.lines(), [format!("HEAD /slugs/{digest}"), format!("PUT /slugs/?sha256={digest}")]);
        assert_eq!(server.asked()[1].header("content-length"), Some(&*bytes.to_string()));
    }
    let server = taking(true).await;
    let again = captain(&server.url(), &["slug", "push", file.to_str().unwrap()]).await;
    assert_eq!((again.code, again.stdout.as_str()), (Some(0), packed.stdout.as_str()));
    assert_eq!((again.stderr.as_str(), server.lines().len()), ("the captain has it already\n", 1));
}

#[tokio::test]
async fn a_start_brings_a_folder_along_and_leaves_a_uri_alone() {
    let folder = app();
    let root = folder.path().join("shop");
    let server = taking(false).await;
    let arguments = ["start", "shop", "--node", "app-1", "--slug", root.to_str().unwrap(), "--process", "worker"];
    let started = captain(&server.url(), &arguments).await;
    assert_eq!(started.code, Some(0), "{started:?}");
    let asked = server.asked();
    let digest = asked[0].target.strip_prefix("/slugs/").unwrap();
    let body: Value = serde_json::from_str(&asked[2].body).unwrap();
    assert_eq!((&body["slug_uri"], &body["process"]), (&json!(format!("sha256:{digest}")), &json!("worker")));

    let server = taking(false).await;
    let arguments = ["start", "shop", "--node", "app-1", "--slug", "http://s/shop.tgz", "--sha256", digest];
    assert_eq!(captain(&server.url(), &arguments).await.code, Some(0));
    assert_eq!(server.lines(), ["POST /instances/"]);
    let body: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    assert_eq!((&body["slug_uri"], &body["slug_sha256"]), (&json!("http://s/shop.tgz"), &json!(digest)));
}

#[tokio::test]
async fn what_no_captain_takes_is_not_sent_and_a_refusal_is_told() {
    let folder = app();
    let page = folder.path().join("page.tgz");
    fs::write(&page, "<html><body>404</body></html>").unwrap();
    let server = taking(false).await;
    let refused = captain(&server.url(), &["slug", "push", page.to_str().unwrap()]).await;
    assert_eq!((refused.code, server.lines().len()), (Some(1), 0), "{refused:?}");
    assert!(refused.stderr.contains("this is not a slug but an HTML page"), "{refused:?}");

    let full = Scripted::answering(|asked: Asked| async move {
        match asked.method.as_str() {
            "HEAD" => text_answer(404, "application/json", ""),
            _ => json_answer(507, &error(507, "captain_out_of_space", "the disk of this captain is full")),
        }
    })
    .await;
    let refused = captain(&full.url(), &["slug", "push", folder.path().join("shop").to_str().unwrap()]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("error: the disk of this captain is full"), "{refused:?}");
}
