//! Both layouts through both sinks, decided while streaming.

use captain_slug::{Layout, Options, SlugError, normalise_to_tar};

use crate::archives::{Archive, zstd};
use crate::outcome::{both, paths, tree_of_tar};

fn layout_and_paths(archive: Archive) -> (Layout, Vec<String>) {
    let (tree, report) = both(&archive.gz(), &Options::default()).unwrap();
    (report.layout, paths(&tree))
}

#[test]
fn as_slugbuilder_makes_it() {
    let slug = Archive::new().folder("./").file("./Procfile", "web: x").folder("./bin/").file("./bin/x", "x");
    assert_eq!(layout_and_paths(slug), (Layout::Top, vec!["Procfile".into(), "bin".into(), "bin/x".into()]));
}

#[test]
fn as_heroku_makes_it_with_other_members_ignored() {
    let slug =
        Archive::new().folder("./app/").file("./app/Procfile", "web: x").file("./etc/passwd", "x").file("./app/x", "x");
    let (tree, report) = both(&slug.gz(), &Options::default()).unwrap();
    assert_eq!((report.layout, paths(&tree)), (Layout::App, vec!["Procfile".into(), "x".into()]));
    assert_eq!((report.counts.files, report.counts.directories, report.ignored), (2, 0, 1));
    assert_eq!(report.procfile.as_deref(), Some(&b"web: x"[..]));
}

/// The `app` folder of a Rails app comes first and is larger than what is held in memory; only then comes the Procfile.
#[test]
fn a_rails_app_whose_procfile_comes_late() {
    let mut slug = Archive::new().folder("./");
    for i in 0..1000 {
        slug = slug.file(format!("./app/models/m{i}.rb"), vec![b'#'; 6000]);
    }
    slug = slug.symlink("./app/models/latest.rb", "m999.rb").hard_link("./app/models/same.rb", "app/models/m0.rb");
    let spool = tempfile::tempdir().unwrap();
    let options = Options { spool_folder: Some(spool.path().to_owned()), ..Options::default() };
    let (tree, report) = both(&slug.clone().file("./Procfile", "web: x").gz(), &options).unwrap();
    assert_eq!((report.layout, report.counts.files), (Layout::Top, 1001));
    assert!(tree.contains_key(&b"app/models/same.rb"[..]));
    assert_eq!(spool.path().read_dir().unwrap().count(), 0, "the spool is unnamed");
    // The same without a Procfile at the top is Heroku's.
    let (tree, report) = both(&slug.file("./app/Procfile", "web: x").gz(), &options).unwrap();
    assert_eq!((report.layout, report.counts.files), (Layout::App, 1001));
    assert!(tree.contains_key(&b"models/same.rb"[..]) && tree.contains_key(&b"models/latest.rb"[..]));
}

#[test]
fn a_layout_that_the_caller_knows_is_checked() {
    let top = Archive::new().file("app/x", "x").file("Procfile", "web: x").gz();
    let with = |layout| Options { layout: Some(layout), ..Options::default() };
    assert_eq!(both(&top, &with(Layout::Top)).unwrap().1.layout, Layout::Top);
    let wrong = both(&top, &with(Layout::App)).expect_err("taken");
    assert!(matches!(wrong, SlugError::LayoutDiffers { expected: Layout::App, found: Layout::Top }), "{wrong:?}");
    let app = Archive::new().file("app/x", "x").gz();
    assert_eq!(both(&app, &with(Layout::App)).unwrap().1.layout, Layout::App);
    assert!(both(&app, &with(Layout::Top)).is_err());
}

#[test]
fn the_prefix_of_a_tar_stream() {
    for slug in [
        Archive::new().file("app/Procfile", "web: x").hard_link("app/h", "app/Procfile"),
        Archive::new().file("Procfile", "web: x").hard_link("h", "Procfile"),
    ] {
        for (prefix, at, folders) in
            [("app/", "app/", vec!["app"]), ("./var/app", "var/app/", vec!["var", "var/app"]), ("./", "", vec![])]
        {
            let mut tar = Vec::new();
            normalise_to_tar(&zstd(&slug.clone().tar())[..], &mut tar, prefix, &Options::default()).unwrap();
            let mut want: Vec<_> = folders.into_iter().map(str::to_owned).collect();
            want.extend([format!("{at}Procfile"), format!("{at}h")]);
            let names = tar::Archive::new(&tar[..])
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned())
                .collect::<Vec<_>>();
            assert_eq!(names, want);
            if !at.is_empty() {
                let absolute = tar::Archive::new(&tar[..])
                    .entries()
                    .unwrap()
                    .last()
                    .unwrap()
                    .unwrap()
                    .link_name()
                    .unwrap()
                    .unwrap()
                    .into_owned();
                assert_eq!(absolute.to_str(), Some(format!("{at}Procfile").as_str()));
            }
            assert_eq!(tree_of_tar(&tar, b"").len(), want.len());
        }
    }
    let mut out = Vec::new();
    let bad = normalise_to_tar(&Archive::new().file("f", "x").gz()[..], &mut out, "/app", &Options::default())
        .expect_err("taken");
    assert_eq!(bad.to_string(), "`/app` cannot be the place of a slug: it has an absolute name");
    assert!(out.is_empty());
}
