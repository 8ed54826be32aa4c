//! What is no slug, or should never have been one: refused while it comes, and nothing of it stays.

use captain_server::slugs::{DraftError, FetchError};

use crate::origin::{Manner, Origin};
use crate::staging::{Stage, gzip, slug, tar_of};

async fn refusal(stage: &Stage, body: &[u8], manner: Manner) -> FetchError {
    let origin = Origin::serving(body, &[manner]).await;
    let error = stage.resolve(&origin.uri()).await.unwrap_err();
    assert_eq!(stage.files(), [""; 0], "{error}");
    std::sync::Arc::into_inner(error).expect("nobody else waits for it")
}

#[tokio::test]
async fn what_is_no_slug_is_called_by_its_name() {
    let mut damaged = slug(1, 500_000);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let cases: [(&[u8], &str); 6] = [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b"hsqs\0\0\0\0 and so on", "a squashfs image"),
        (b"{\"error\": \"no such slug\"}", "a JSON document"),
        (b"", "an empty file"),
        (&damaged, "damaged or cut off"),
        (&slug(1, 500_000)[..200_000], "damaged or cut off"),
    ];
    for (body, name) in cases {
        let error = refusal(&Stage::new(), body, Manner::Unmeasured).await;
        assert!(matches!(&error, FetchError::Content { source: DraftError::Refused(_), .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn hostile_entries_are_named() {
    let cases = [
        ("echo web: ./x > Procfile; ln -s ../secrets app-secrets", "`./app-secrets`"),
        ("echo web: ./x > Procfile; mkdir a; ln -s ../../etc a/up", "`./a/up`"),
        ("echo web: ./x > Procfile; mkfifo pipe", "`./pipe`"),
        ("echo web: ./x > Procfile; mknod disk b 8 0", "`./disk`"),
    ];
    for (script, entry) in cases {
        for body in [tar_of(script), gzip(&tar_of(script))] {
            let error = refusal(&Stage::new(), &body, Manner::Properly).await;
            assert!(error.to_string().contains(entry), "{error}");
        }
    }
}

#[tokio::test]
async fn a_slug_is_never_larger_than_it_may_be() {
    let body = slug(1, 200_000);
    for manner in [Manner::Properly, Manner::Unmeasured] {
        let stage = Stage::with(|settings| settings.limits.given_bytes = 100_000);
        let error = refusal(&stage, &body, manner).await;
        assert!(
            matches!(&error, FetchError::Content { source: DraftError::TooLarge { allowed: 100_000 }, .. }),
            "{error}"
        );
    }
    let bomb = gzip(&tar_of("echo web: ./x > Procfile; truncate -s 60M zeros"));
    let error = refusal(&Stage::new(), &bomb, Manner::Properly).await;
    assert!(error.to_string().contains("bytes unpacked for each byte given"), "{error}");
}
