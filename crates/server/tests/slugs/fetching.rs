//! From an origin to this captain's disk.

use std::os::unix::fs::symlink;
use std::time::Duration;

use captain_server::slugs::{DraftError, FetchError, Held, Resolved, SlugCopy};
use futures_util::future::join_all;

use crate::origin::{Manner, Origin};
use crate::staging::{Stage, digest_of, slug};

fn held(resolved: &Resolved) -> &Held {
    match &resolved.copy {
        SlugCopy::Here(held) => held,
        SlugCopy::Gone { why, .. } => panic!("its bytes are not here: {why}"),
    }
}

/// The sentence that a failed fetch ends with.
fn said(error: &FetchError) -> String {
    error.to_string()
}

#[tokio::test]
async fn sixty_starts_at_once_are_one_fetch() {
    let (stage, body) = (Stage::new(), slug(1, 3_000_000));
    let origin = Origin::proper(&body).await;
    let uri = origin.uri();
    let all = join_all((0..60).map(|_| stage.resolve(&uri))).await;
    for resolved in &all {
        assert_eq!(resolved.as_ref().unwrap().digest, digest_of(&body));
    }
    assert_eq!(origin.counts(), (1, body.len()));
    assert_eq!(std::fs::read(&held(all[0].as_ref().unwrap()).path).unwrap(), body);
    assert_eq!(stage.files().len(), 1, "{:?}", stage.files());
}

#[tokio::test]
async fn sixty_starts_at_once_share_one_failure() {
    let stage = Stage::new();
    let origin = Origin::serving(b"", &[Manner::Status(404)]).await;
    let uri = origin.uri();
    for resolved in join_all((0..60).map(|_| stage.resolve(&uri))).await {
        assert_eq!(said(&resolved.unwrap_err()), format!("{uri}: its origin answered 404 Not Found"));
    }
    assert_eq!(origin.counts(), (1, 0));
}

#[tokio::test]
async fn an_unchanged_slug_costs_no_bytes_also_after_a_restart() {
    let (mut stage, body) = (Stage::new(), slug(1, 100_000));
    let origin = Origin::proper(&body).await;
    stage.resolve(&origin.uri()).await.unwrap();
    assert_eq!(origin.counts(), (1, body.len()));
    for _ in 0..2 {
        let again = stage.resolve(&origin.uri()).await.unwrap();
        assert_eq!((again.digest, again.note.as_deref()), (digest_of(&body), None));
        assert_eq!(origin.counts(), (1, 0));
        stage.restart();
    }
}

#[tokio::test]
async fn a_changed_slug_is_another_slug() {
    let (stage, first, second) = (Stage::new(), slug(1, 1000), slug(2, 1000));
    let origin = Origin::proper(&first).await;
    assert_eq!(stage.resolve(&origin.uri()).await.unwrap().digest, digest_of(&first));
    origin.change(&second, Some("\"v2\""));
    assert_eq!(stage.resolve(&origin.uri()).await.unwrap().digest, digest_of(&second));
    // An origin that says nothing of versions is asked for all of it each time.
    origin.change(&first, None);
    assert_eq!(stage.resolve(&origin.uri()).await.unwrap().digest, digest_of(&first));
    origin.change(&second, None);
    assert_eq!(stage.resolve(&origin.uri()).await.unwrap().digest, digest_of(&second));
}

#[tokio::test]
async fn an_origin_that_is_off_or_ill_is_stood_in_for() {
    let (stage, body) =
        (Stage::with(|settings| settings.patience.revalidate = Duration::from_millis(200)), slug(1, 1000));
    let origin = Origin::proper(&body).await;
    stage.resolve(&origin.uri()).await.unwrap();
    origin.counts();
    for ill in [Manner::Status(503), Manner::Status(500), Manner::Hang] {
        origin.behave(&[ill]);
        let resolved = stage.resolve(&origin.uri()).await.unwrap();
        assert_eq!((resolved.digest, origin.counts().0), (digest_of(&body), 1));
        assert!(resolved.note.as_ref().unwrap().contains("which it gave last"), "{resolved:?}");
    }
    // That it is not there any more is an answer, and not an illness.
    origin.behave(&[Manner::Status(410)]);
    assert!(matches!(*stage.resolve(&origin.uri()).await.unwrap_err(), FetchError::Unavailable { .. }));
    origin.switch_off();
    let resolved = stage.resolve(&origin.uri()).await.unwrap();
    assert_eq!(std::fs::read(&held(&resolved).path).unwrap(), body);
}

#[tokio::test]
async fn what_was_evicted_can_still_be_named_while_its_origin_is_off() {
    let (stage, body) = (Stage::with(|settings| settings.cache_bytes = 0), slug(1, 1000));
    let origin = Origin::proper(&body).await;
    drop(stage.resolve(&origin.uri()).await.unwrap());
    stage.slugs.tidy().await;
    assert_eq!(stage.files(), [""; 0]);
    origin.switch_off();
    for pin in [None, Some(digest_of(&body))] {
        let resolved = stage.resolve_pinned(&origin.uri(), pin).await.unwrap();
        assert_eq!(resolved.digest, digest_of(&body));
        assert!(matches!(&resolved.copy, SlugCopy::Gone { why, .. } if matches!(**why, FetchError::Origin { .. })));
    }
}

#[tokio::test]
async fn a_pinned_slug_that_is_here_is_asked_of_nobody() {
    let (stage, body) = (Stage::new(), slug(1, 1000));
    let origin = Origin::proper(&body).await;
    let pin = Some(digest_of(&body));
    stage.resolve_pinned(&origin.uri(), pin).await.unwrap();
    origin.switch_off();
    origin.counts();
    assert_eq!(stage.resolve_pinned("http://127.0.0.1:1/elsewhere.tgz", pin).await.unwrap().note, None);
}

#[tokio::test]
async fn one_flipped_byte_is_refused_by_the_pin_and_nothing_is_left() {
    let body = slug(1, 1_000_000);
    let pin = digest_of(&body);
    // In the gzip header's time, in the compressed noise, in the checksum at the end: only the first leaves a slug that can be read.
    for at in [4, body.len() / 2, body.len() - 6] {
        let stage = Stage::new();
        let mut flipped = body.clone();
        flipped[at] ^= 1;
        let origin = Origin::proper(&flipped).await;
        let error = stage.resolve_pinned(&origin.uri(), Some(pin)).await.unwrap_err();
        let FetchError::Content { source: DraftError::Mismatch { expected, .. }, .. } = &*error else {
            panic!("at {at}: {error}");
        };
        assert_eq!(*expected, pin);
        assert_eq!(stage.files(), [""; 0]);
    }
}

#[tokio::test]
async fn a_broken_download_is_resumed() {
    let (stage, body) = (Stage::new(), slug(1, 1_000_000));
    let origin =
        Origin::serving(&body, &[Manner::Cut(300_000), Manner::Status(503), Manner::Cut(400_000), Manner::Properly])
            .await;
    let resolved = stage.resolve(&origin.uri()).await.unwrap();
    assert_eq!(resolved.digest, digest_of(&body));
    let heads = origin.heads();
    assert!(heads[1].contains("range: bytes=300000-") && heads[3].contains("range: bytes=700000-"), "{heads:?}");
    assert_eq!(origin.counts(), (4, body.len()), "no byte came twice");
}

#[tokio::test]
async fn a_download_that_changed_half_way_begins_anew() {
    let (stage, first, second) = (Stage::new(), slug(1, 1_000_000), slug(2, 1_000_000));
    for etag in [Some("\"v2\""), None] {
        let origin = Origin::serving(&first, &[Manner::Cut(300_000), Manner::Properly]).await;
        let changing = async {
            while origin.heads().is_empty() {
                tokio::task::yield_now().await;
            }
            origin.change(&second, etag);
        };
        let uri = origin.uri();
        let (resolved, ()) = tokio::join!(stage.resolve(&uri), changing);
        assert_eq!(resolved.unwrap().digest, digest_of(&second), "never a mixture");
    }
}

#[tokio::test]
async fn an_error_that_passes_is_waited_out() {
    let (stage, body) = (Stage::new(), slug(1, 1000));
    let origin = Origin::serving(&body, &[Manner::Status(500), Manner::Status(429), Manner::Properly]).await;
    assert_eq!(stage.resolve(&origin.uri()).await.unwrap().digest, digest_of(&body));
    assert_eq!(origin.counts().0, 3);
}

#[tokio::test]
async fn what_never_comes_whole_is_given_up_and_leaves_nothing() {
    let body = slug(1, 100_000);
    let cases = [
        (Manner::Cut(5000), "it broke off"),
        (Manner::Status(502), "its origin answered 502 Bad Gateway (tried 5 times)"),
        (Manner::Drip(Duration::from_millis(20)), "it did not come within 2 s"),
        (Manner::Hang, "it did not come within 2 s"),
    ];
    for (manner, problem) in cases {
        let tight = matches!(manner, Manner::Drip(_) | Manner::Hang);
        let stage = Stage::with(|settings| {
            if tight {
                settings.patience.whole = Duration::from_secs(2);
            }
        });
        let origin = Origin::serving(&body, &[manner]).await;
        // The rest of what breaks off is asked for again and again; without an ETag the same part comes each time.
        origin.change(&body, None);
        let error = stage.resolve(&origin.uri()).await.unwrap_err();
        assert!(matches!(*error, FetchError::Origin { .. }) && said(&error).contains(problem), "{error}");
        assert_eq!(stage.files(), [""; 0]);
    }
    let nobody = Stage::new();
    let error = nobody.resolve("http://user:hunter2@127.0.0.1:1/a.tgz?sig=hunter2").await.unwrap_err();
    assert!(said(&error).starts_with("http://127.0.0.1:1/a.tgz cannot be fetched: "), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_only_to_the_web() {
    let (stage, body) = (Stage::new(), slug(1, 1000));
    let target = Origin::proper(&body).await;
    let origin = Origin::serving(b"", &[Manner::Redirect(target.uri())]).await;
    assert_eq!(stage.resolve(&origin.uri()).await.unwrap().digest, digest_of(&body));
    for (to, problem) in
        [("/app.tgz", "redirects more than 5 times"), ("file:///etc/passwd", ""), ("ftp://127.0.0.1/a", "")]
    {
        origin.counts();
        origin.behave(&[Manner::Redirect(to.to_owned())]);
        let error = stage.resolve(&origin.uri()).await.unwrap_err();
        assert!(matches!(*error, FetchError::Unavailable { .. }) && said(&error).contains(problem), "{to}: {error:?}");
        assert!(origin.counts().0 <= 6);
    }
}

#[tokio::test]
async fn files_are_read_below_their_folders_and_anew_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let (slugs, body) = (folder.path().join("slugs"), slug(1, 1000));
    std::fs::create_dir(&slugs).unwrap();
    std::fs::write(slugs.join("a.tgz"), &body).unwrap();
    std::fs::write(folder.path().join("secret.tgz"), &body).unwrap();
    symlink("../secret.tgz", slugs.join("link.tgz")).unwrap();
    let stage = Stage::with(|settings| settings.folders = vec![slugs.clone()]);
    let uri = |name: &str| format!("file://{}/{name}", slugs.display());
    assert_eq!(stage.resolve(&uri("a.tgz")).await.unwrap().digest, digest_of(&body));
    let changed = slug(2, 1000);
    std::fs::write(slugs.join("a.tgz"), &changed).unwrap();
    assert_eq!(stage.resolve(&uri("a.tgz")).await.unwrap().digest, digest_of(&changed));
    for name in ["link.tgz", "../secret.tgz", "%2e%2e/secret.tgz", "absent.tgz"] {
        let error = stage.resolve(&uri(name)).await.unwrap_err();
        assert!(matches!(*error, FetchError::Unavailable { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_cache_keeps_its_bound_but_nothing_in_use_goes() {
    let bodies: Vec<Vec<u8>> = (0..4).map(|seed| slug(seed, 100_000)).collect();
    let stage = Stage::with(|settings| settings.cache_bytes = 250_000);
    let mut in_use = Vec::new();
    for body in &bodies {
        let origin = Origin::proper(body).await;
        in_use.push(stage.resolve(&origin.uri()).await.unwrap());
    }
    assert_eq!(stage.files().len(), 4, "all are in use");
    for (resolved, body) in in_use.iter().zip(&bodies) {
        assert_eq!(std::fs::read(&held(resolved).path).unwrap(), *body);
    }
    drop(in_use);
    stage.slugs.tidy().await;
    assert_eq!(stage.files().len(), 2);
}

#[tokio::test]
async fn it_is_said_how_far_a_fetch_is() {
    let (stage, body) = (Stage::new(), slug(1, 1_500_000));
    let origin = Origin::serving(&body, &[Manner::Status(503), Manner::Properly]).await;
    let heard = std::sync::Mutex::new(Vec::new());
    let uri = captain_domain::SlugUri::parse(&format!("{}?sig=hunter2", origin.uri())).unwrap();
    stage.slugs.resolve(&uri, None, &|detail| heard.lock().unwrap().push(detail)).await.unwrap();
    let heard = heard.into_inner().unwrap();
    let retry = format!("fetching {}: its origin answered 503 Service Unavailable; trying again", origin.uri());
    assert!(heard.contains(&retry), "{heard:?}");
    assert!(heard.iter().all(|detail| !detail.contains("hunter2")), "{heard:?}");
}
