//! The embedded engine, with the monitor's role and the runner of the built binary.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use captain_conformance::{App, Exception, Recipe, Subject, run_all};
use captain_domain::NodeId;
use captain_e2e::captain::binary;
use captain_e2e::slugs;
use captain_server::engine::local::{Helper, Local, LocalSettings, PORTS};
use captain_server::engine::{Engine, Preparation, SlugOnStack};
use captain_slug::{Digest, Options};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::scripts::script;

struct Subjected {
    directory: TempDir,
}

impl Subjected {
    fn slug(&self, script: &str) -> Preparation {
        slug(self.directory.path(), script, "scratch")
    }
}

/// A slug in a file of this folder that runs the script.
pub(crate) fn slug(folder: &Path, script: &str, stack: &str) -> Preparation {
    let bytes = slugs::script(script).pack();
    let digest = Digest(Sha256::digest(&bytes).into());
    let file = folder.join(format!("{digest}.tgz"));
    std::fs::write(&file, bytes).unwrap();
    Preparation::Slug(SlugOnStack { digest, file: file.into(), stack: stack.into() })
}

/// The runner that the build of `captain` made last; the binary carries the same bytes.
pub(crate) fn runner() -> Arc<[u8]> {
    let builds = binary().parent().unwrap().join("build");
    let built = std::fs::read_dir(&builds).unwrap_or_else(|error| panic!("{}: {error}", builds.display()));
    let made = built.flatten().map(|build| build.path().join("out/captain-runner"));
    let time = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let newest: Option<PathBuf> = made.filter(|path| path.exists()).max_by_key(|path| time(path));
    let newest =
        newest.unwrap_or_else(|| panic!("no captain-runner below {}: cargo build -p captain", builds.display()));
    std::fs::read(newest).unwrap().into()
}

impl Subject for Subjected {
    fn name(&self) -> &str {
        "local"
    }

    fn engine(&self) -> Arc<dyn Engine> {
        let settings = LocalSettings {
            state: self.directory.path().join("engine"),
            runner: runner(),
            monitor: Helper { program: binary(), arguments: vec!["__monitor".into()] },
            ports: PORTS,
            slugs: Options::default(),
        };
        Arc::new(Local::new(NodeId::trusted("here"), &settings).unwrap())
    }

    fn recipe(&self, app: &App) -> Recipe {
        Recipe { preparation: self.slug(&script(app)), command: vec!["web".to_owned()] }
    }

    fn unprepared(&self) -> Recipe {
        Recipe { preparation: self.slug("echo never prepared"), ..self.recipe(&App::Idle) }
    }

    fn unavailable(&self) -> (Preparation, String) {
        let image = "flynn/slugrunner:0.0.0".to_owned(); // it has no images
        (Preparation::RunnerImage { image: image.clone() }, image)
    }

    fn reach(&self, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn exceptions(&self) -> &[Exception] {
        &[Exception {
            check: "a_name_is_given_once",
            reason: "it knows its instances by their ids and keeps no names. Captain's names hold the operation, so that no two are \
                     the same, and what an operation made is found by its label",
        }]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_engine_keeps_the_contract() {
    run_all(Subjected { directory: tempfile::Builder::new().prefix("captain-local.").tempdir_in("/var/tmp").unwrap() })
        .await;
}
