//! Slugs on a Docker engine: one image per slug and stack, made without anything that runs on the node.
//!
//! ```text
//! stack      any image                                         pulled, or (`scratch`) empty
//! base       captain/stack:<key>         stack + runner, sealed  once per stack
//! slug       captain/slug:<digest>-<key>  base + /app            once per slug: what instances are made of
//! ```
//!
//! The key is a hash of the stack's *reference*, the runner and [`LAYOUT`], so an instance is created without asking the engine
//! anything first; where the image is not there, the engine says so, and only then it is prepared. A base is the commit of a container
//! that never runs ([`build`]), filled through the archive call ([`pipe`]). A slug is loaded as layers on its base ([`layers`]) by
//! engines that take them, and is made like a base by all others.
//!
//! # Why the root file system is read-only by its folders
//!
//! `/app` must be writable and yet share its bytes with every other instance of the slug, which only the container's own
//! copy-on-write layer gives: a volume copies the slug for each instance, a tmpfs holds it in memory, and an overlay of our own would
//! need an agent on the node or `SYS_ADMIN` inside the instance. But the engine's read-only flag makes that layer read-only as a
//! whole. So the stack's folders are mounted read-only one by one (`super::create`), where the engine can; and the base is *sealed*
//! ([`seal`]) for what lies beside them and for other engines: nothing outside `/app` is left that the instance's user may write, and
//! that user has no capability and can gain none. What remains writable are `/app` and the engine's own bounded memory file systems
//! (`/tmp`, `/dev/shm`).
//!
//! Invariants: an image of ours is named only when it is whole; whatever happens, no build container and no part of a slug stays (what a
//! captain that died left is swept by the next preparation); nothing without our label or name is removed.

mod build;
mod kept;
mod layers;
mod pipe;
mod seal;
mod stack;

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use captain_slug::{Digest, Options, Owner, SlugError};
use sha2::{Digest as _, Sha256};

use self::build::{Container, Plan};
pub(super) use self::kept::{discard, prepared};
use super::failure::Failure;
use super::images;
use super::wire::Wire;
use crate::engine::reading::Reading;
use crate::engine::{ErrorKind, Progress, SlugOnStack};

/// Raised whenever the same stack, runner and slug would give another image.
const LAYOUT: &str = "1";
/// Where the runner is in an image.
const RUNNER_PATH: &str = "/.captain/runner";
/// From SIGTERM to SIGKILL by the runner: it ends what is left of the instance before the engine's usual ten seconds are over.
const GRACE_SECONDS: &str = "8";
/// The user and the group of every instance; the runner's default too.
const USER: u32 = 5000;
/// The stack that is none.
const SCRATCH: &str = "scratch";

/// What is written on Captain's images and on the containers that they are made of. Containers inherit the labels of their image, so a
/// label here says nothing about whose a *container* is.
pub(super) mod label {
    /// The slug. Its presence makes an image a prepared slug.
    pub(in crate::engine::docker) const DIGEST: &str = "captain.slug.digest";
    /// The size of the base under a slug, as the engine gave it.
    pub(in crate::engine::docker) const BASE_BYTES: &str = "captain.slug.base-bytes";
    /// The reference of the stack. Its presence without a slug's makes an image a base.
    pub(in crate::engine::docker) const STACK: &str = "captain.stack";
    /// The id of the stack that a base was made of.
    pub(in crate::engine::docker) const STACK_ID: &str = "captain.stack.id";
    /// The stack's environment, as a JSON list of `NAME=value`: what of an instance's is not the caller's.
    pub(in crate::engine::docker) const ENVIRONMENT: &str = "captain.stack.environment";
    /// The name of the container that an image was built in. On a container of that very name: it is one.
    pub(in crate::engine::docker) const BUILD: &str = "captain.build";
}

/// Captain's runner, as a static program for any stack.
#[derive(Clone)]
pub struct Runner {
    program: Arc<[u8]>,
    sha256: Digest,
}

impl Runner {
    /// The runner that this program is.
    pub fn new(program: Arc<[u8]>) -> Self {
        let sha256 = Digest(Sha256::digest(&program).into());
        Self { program, sha256 }
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runner({:.12}, {} bytes)", self.sha256, self.program.len())
    }
}

/// How this captain puts slugs on nodes.
pub(super) struct Slugs {
    runner: Option<Runner>,
    options: Options,
    /// The deadline of each step that moves the bytes of a slug or a stack: those of a pull, for so long are they.
    patience: Duration,
}

impl Slugs {
    pub(super) fn new(runner: Option<Runner>, options: Options, patience: Duration) -> Self {
        Self { runner, options, patience }
    }

    /// The image of a slug.
    pub(super) fn image(&self, slug: &SlugOnStack) -> Result<String, Failure> {
        let key = key(self.runner()?, &slug.stack);
        Ok(format!("captain/slug:{:.32}-{key}", slug.digest))
    }

    fn runner(&self) -> Result<&Runner, Failure> {
        self.runner.as_ref().filter(|runner| !runner.program.is_empty()).ok_or_else(|| {
            Failure::new(
                ErrorKind::Unsupported,
                "this captain carries no runner, and a slug on a stack needs one; with SLUG_RUNNER_IMAGE it needs none",
            )
        })
    }

    /// Makes the image of a slug, unless it is there.
    pub(super) async fn prepare(&self, wire: &Wire, slug: &SlugOnStack, progress: Progress<'_>) -> Result<(), Failure> {
        let image = self.image(slug)?;
        if images::present(wire, &image).await? {
            return Ok(());
        }
        let age = build::forgotten(self.patience);
        build::sweep(wire, age).await;
        let base = stack::ensure(wire, self.runner()?, &slug.stack, self.patience, progress).await?;
        let labels = vec![
            (label::DIGEST, slug.digest.to_string()),
            (label::STACK, slug.stack.to_string()),
            (label::BASE_BYTES, base.bytes.to_string()),
        ];
        if base.takes_layers {
            layers::sweep(wire, age).await;
            let order = layers::Order { base: base.reference.clone(), image: image.clone(), labels: labels.clone() };
            match self.load(wire, &order, slug, progress).await {
                Ok(()) => return Ok(()),
                Err(layers::Refusal::Slug(failure)) => return Err(failure),
                Err(layers::Refusal::Layers(why)) => {
                    tracing::info!(slug = %slug.digest, why, "the slug goes to the node as a whole")
                }
            }
        }
        let plan = Plan { from: base.reference, labels };
        let container = Container::create(wire, &plan, self.patience).await?;
        let built = async {
            self.send(&container, slug, progress).await?;
            container.commit(&image).await
        };
        let built = built.await;
        container.remove().await;
        built
    }

    /// Sends a slug into a container while it is normalised.
    async fn send(&self, container: &Container<'_>, slug: &SlugOnStack, progress: Progress<'_>) -> Result<(), Failure> {
        let (file, options) = (open(slug).await?, self.options_for(slug));
        let tell = file.teller(SENDING, slug.digest, progress);
        tell();
        let write = move |out: &mut pipe::Writer| {
            captain_slug::normalise_to_tar(file, out, "app/", &options).map(drop).map_err(|error| refused(&error))
        };
        container.fill(write, &tell).await
    }

    /// Sends a slug in parts while it is normalised.
    async fn load(
        &self,
        wire: &Wire,
        order: &layers::Order,
        slug: &SlugOnStack,
        progress: Progress<'_>,
    ) -> Result<(), layers::Refusal> {
        let file = open(slug).await?;
        let tell = file.teller(SENDING, slug.digest, progress);
        tell();
        layers::load(wire, order, file, self.options_for(slug), self.patience, &tell).await
    }

    /// What must not be left to settings: whose the files are, which bytes they come from, and where those lie.
    fn options_for(&self, slug: &SlugOnStack) -> Options {
        Options {
            owner: Some(Owner { uid: USER, gid: USER }),
            sha256: Some(slug.digest),
            // What is written on the way goes to the disk that is for slugs.
            spool_folder: slug.file.parent().map(Into::into),
            ..self.options.clone()
        }
    }
}

/// What names the ground that a slug stands on.
fn key(runner: &Runner, stack: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(runner.sha256.0);
    hash.update(LAYOUT);
    hash.update([0]);
    hash.update(stack);
    format!("{:.12}", Digest(hash.finalize().into()))
}

/// What is done with a slug while it is read.
const SENDING: &str = "sending";

async fn open(slug: &SlugOnStack) -> Result<Reading, Failure> {
    Reading::of(&slug.file).await.map_err(|error| unreadable(&error))
}

/// This captain's disk, not the engine: nothing is known of the slug, and trying again may help.
fn unreadable(error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Failed, format!("this captain cannot read the slug from its own disk: {error}"))
}

fn refused(error: &SlugError) -> Failure {
    let mut sentence = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(sentence, ": {error}");
        cause = error.source();
    }
    let kind = if error.is_slugs_fault() { ErrorKind::Invalid } else { ErrorKind::Failed };
    Failure::new(kind, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slugs(runner: &[u8]) -> Slugs {
        Slugs::new(Some(Runner::new(Arc::from(runner))), Options::default(), Duration::from_secs(1))
    }

    fn slug(digest: u8, stack: &str) -> SlugOnStack {
        SlugOnStack { digest: Digest([digest; 32]), file: std::path::Path::new("/s").into(), stack: stack.into() }
    }

    #[test]
    fn an_image_is_named_by_all_that_makes_it() {
        let name = slugs(b"runner").image(&slug(0xab, "debian:1")).unwrap();
        assert_eq!(name, slugs(b"runner").image(&slug(0xab, "debian:1")).unwrap());
        assert!(name.starts_with("captain/slug:abababababababababababababababab-"), "{name}");
        assert!(name.len() < 128 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/:-".contains(&byte)));
        let others = [
            slugs(b"runner").image(&slug(1, "debian:1")),
            slugs(b"runner").image(&slug(0xab, "debian:2")),
            slugs(b"2").image(&slug(0xab, "debian:1")),
        ];
        for other in others {
            assert_ne!(other.unwrap(), name);
        }
    }

    #[test]
    fn without_a_runner_there_are_no_slugs() {
        let none = Slugs::new(None, Options::default(), Duration::from_secs(1));
        for slugs in [none, slugs(b"")] {
            let failure = slugs.image(&slug(1, "debian")).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::Unsupported);
            assert!(failure.message.contains("carries no runner"), "{}", failure.message);
        }
    }

    #[test]
    fn a_bad_slug_is_not_a_bad_node() {
        let bad = SlugError::Empty;
        assert_eq!(refused(&bad).kind, ErrorKind::Invalid);
        let disk = SlugError::Input { bytes: 7, source: io::Error::other("broken disk") };
        let failure = refused(&disk);
        assert_eq!(failure.kind, ErrorKind::Failed);
        assert!(failure.message.ends_with("after 7 bytes: broken disk"), "{}", failure.message);
    }
}
