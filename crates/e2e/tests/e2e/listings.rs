//! The listing in all its forms: by state, page by page, and not at all where nothing has changed.

use std::time::Duration;

use captain_e2e::{eventually, slugs};
use serde_json::{Value, json};

use crate::{Stage, assert_error, id};

fn ids(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_can_be_listed_by_their_state() {
    let stage = Stage::with(2).await;
    let idle = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let brief = stage.origin.offer("brief.tgz", slugs::script("exit 3"));
    let (here, there) = (stage.lease.node(0), stage.lease.node(1));
    let runs = id(&stage.captain.started("runs", &here.name, &idle).await);
    let ended = id(&stage.captain.started("ended", &here.name, &brief).await);
    let away = id(&stage.captain.started("away", &there.name, &idle).await);
    stage.captain.instance_becomes(&ended, "exited").await;
    there.kill();
    stage.captain.node_becomes(&there.name, "un").await;

    for (query, expected) in [
        ("?state=exited", vec![&ended]),
        ("?state=unknown", vec![&away]),
        ("?state=all", vec![&runs, &ended, &away]),
        ("", vec![&runs, &away]),
    ] {
        let list = stage.captain.get(&format!("/instances/{query}")).await.expect(200).json();
        let (mut shown, mut expected) = (ids(&list), expected);
        shown.sort();
        expected.sort();
        assert_eq!(shown.iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let marked = stage.captain.instance(&away).await;
    assert_eq!(marked["state"], "unknown", "{marked}");
    assert!(marked["node_state"].as_str().unwrap().starts_with("un") && marked["confirmed"].is_string(), "{marked}");
    let listed = stage.captain.get("/instances/?state=unknown").await.expect(200).json();
    assert!(listed[0]["node_state"].is_string() && listed[0].get("confirmed").is_none(), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_can_be_read_page_by_page() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    for number in 0..5 {
        let app = if number == 0 { "other" } else { "paged" };
        stage.captain.started(app, &stage.node().name, &slug).await;
    }
    let whole = ids(&stage.captain.get("/instances/?app=paged").await.expect(200).json());
    assert!(whole.len() == 4 && whole.is_sorted(), "{whole:?}");

    let mut read = Vec::new();
    let mut next = Some("/instances/?app=paged&limit=2".to_owned());
    while let Some(path) = next {
        let page = stage.captain.get(&path).await.expect(200);
        let shown = ids(&page.json());
        assert!(shown.len() <= 2 && read.len() <= whole.len(), "{path}: {shown:?}");
        read.extend(shown);
        next = match page.header("link") {
            "" => None,
            link => {
                Some(link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap().to_owned())
            }
        };
    }
    assert_eq!(read, whole);

    let after = stage.captain.get(&format!("/instances/?app=paged&after={}", whole[2])).await.expect(200).json();
    assert_eq!(ids(&after), whole[3..]);
    for wrong in ["limit=0", "limit=many", "after=abc"] {
        assert_error(&stage.captain.get(&format!("/instances/?{wrong}")).await, 400, "bad_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_has_not_changed_is_not_sent_again() {
    let stage = Stage::with(1).await;
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let unless =
        async |etag: &str| stage.captain.endpoint().send("GET", "/instances/", &[("if-none-match", etag)], "").await;
    let first = stage.captain.started("first", &stage.node().name, &slug).await;
    // A watcher may still be hearing of the start.
    let known = eventually("a list that rests", Duration::from_secs(10), || async {
        let list = stage.captain.get("/instances/").await.expect(200);
        let etag = list.header("etag").to_owned();
        assert!(!etag.is_empty());
        (unless(&etag).await.status == 304).then_some((list, etag))
    })
    .await;
    let (list, etag) = known;
    assert_eq!(ids(&list.json()), [id(&first)]);

    let second = stage.captain.started("second", &stage.node().name, &slug).await;
    let changed = unless(&etag).await.expect(200);
    assert_ne!(changed.header("etag"), etag);
    assert!(ids(&changed.json()).contains(&id(&second)), "{}", changed.text());
    assert_eq!(unless("\"of-another-captain\"").await.expect(200).json().as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_be_given_its_number_of_slots() {
    let stage = Stage::set(2, |settings| settings.set("SLOTS_PER_NODE", 9)).await;
    let (small, usual) = (stage.lease.node(0), stage.lease.node(1));
    let nodes = format!("{}?slots=3,{}", small.entry(), usual.entry());
    let captain = captain_e2e::captain::Settings::of(&stage.lease)
        .set("DOCKER_NODES", nodes)
        .set("SLOTS_PER_NODE", 9)
        .start()
        .await;
    assert_eq!(captain.node(&small.name).await["slots"], json!({"free": 3, "total": 3, "used": 0}));
    assert_eq!(captain.node(&usual.name).await["slots"], json!({"free": 9, "total": 9, "used": 0}));
    let slug = stage.origin.offer("idle.tgz", slugs::script(slugs::IDLE));
    let wish = |node: &str| json!({"app": "demo", "node": node, "slug_uri": slug, "slots": 4});
    assert_error(&captain.start(wish(&small.name)).await, 503, "over_capacity");
    let _ = captain.start(wish(&usual.name)).await.expect(201);
}
