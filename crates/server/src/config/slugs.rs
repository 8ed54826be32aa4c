//! Slugs: where they may come from, where they are kept, what they stand on.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use reqwest::Url;

use super::{ConfigError, ServeArgs, wrong};
use crate::captain::Mode;
use crate::discovery::ec2::Credentials;
use crate::slugs::{Access, Patience, Settings, Store};

const MIB: u64 = 1 << 20;

/// Settings of slugs.
#[derive(Debug, Clone, Args)]
pub(super) struct SlugArgs {
    /// The image under each slug, where Captain's own runner runs it (no SLUG_RUNNER_IMAGE); `scratch` for none
    #[arg(long, env = "CAPTAIN_STACK", value_name = "IMAGE", default_value = "debian:stable-slim")]
    stack: String,

    /// The folder for slugs. By default /var/lib/captain, or ~/.local/state/captain where captain is not root
    #[arg(long, env = "CAPTAIN_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// What fetched slugs may take in that folder, in MiB; those longest unused go
    ///
    /// The default holds ten of the largest slugs that Heroku takes, or some hundred usual ones.
    #[arg(long, env = "CAPTAIN_SLUG_CACHE_MB", value_name = "MIB", default_value = "5120")]
    slug_cache_mb: u64,

    /// What prepared slugs may take on a node, in MiB; those longest unused go, unless an instance is made of them
    ///
    /// The default is some fifty slugs of 200 MiB unpacked: a small part of a node's disk, and more apps than most nodes run.
    #[arg(long, env = "CAPTAIN_NODE_SLUGS_MB", value_name = "MIB", default_value = "10240")]
    node_slugs_mb: u64,

    /// Folders below which file: URIs of slugs may point, separated by commas; by default none
    #[arg(long, env = "CAPTAIN_SLUG_FOLDERS", value_name = "FOLDER,…", value_delimiter = ',')]
    slug_folders: Vec<PathBuf>,

    /// Where slugs that are pushed to Captain are kept: a folder, or s3://bucket/prefix. By default `store` in the data folder
    #[arg(long, env = "CAPTAIN_SLUG_STORE", value_name = "PLACE")]
    slug_store: Option<String>,

    /// The longest that fetching or pushing one slug may take, in seconds
    #[arg(long, env = "CAPTAIN_FETCH_TIMEOUT", value_name = "SECONDS", default_value = "900")]
    fetch_timeout: NonZeroU64,

    /// The largest slug, in MiB as it is sent (compressed)
    #[arg(long, env = "CAPTAIN_SLUG_LIMIT_MB", value_name = "MIB", default_value = "1024")]
    slug_limit_mb: NonZeroU64,

    /// The largest slug, in MiB unpacked
    #[arg(long, env = "CAPTAIN_SLUG_UNPACKED_LIMIT_MB", value_name = "MIB", default_value = "4096")]
    slug_unpacked_limit_mb: NonZeroU64,

    /// Where buckets (s3://) are, if not at AWS. Their region and credentials are AWS_REGION, AWS_ACCESS_KEY_ID, …
    #[arg(long, env = "AWS_ENDPOINT_URL_S3", value_name = "URL")]
    aws_endpoint_url_s3: Option<String>,
}

impl SlugArgs {
    /// What prepared slugs may take on a node, in bytes.
    pub(super) fn node_bytes(&self) -> u64 {
        self.node_slugs_mb.saturating_mul(MIB)
    }

    /// What the settings mean.
    pub(super) fn settings(
        &self,
        region: Option<String>,
        credentials: Option<Credentials>,
    ) -> Result<Settings, ConfigError> {
        let data = match self.data.clone().filter(|data| !data.as_os_str().is_empty()) {
            Some(data) if data.is_absolute() => data,
            Some(_) => return Err(wrong("CAPTAIN_DATA", "must be an absolute path")),
            None => usual_data()?,
        };
        let mut settings = Settings::below(data);
        settings.cache_bytes = self.slug_cache_mb.saturating_mul(MIB);
        settings.folders = self.slug_folders.iter().filter(|folder| !folder.as_os_str().is_empty()).cloned().collect();
        if settings.folders.iter().any(|folder| !folder.is_absolute()) {
            return Err(wrong("CAPTAIN_SLUG_FOLDERS", "each folder must be an absolute path"));
        }
        if let Some(place) = self.slug_store.as_deref().filter(|place| !place.is_empty()) {
            settings.store = Store::parse(place).map_err(|problem| wrong("CAPTAIN_SLUG_STORE", problem))?;
        }
        settings.limits.given_bytes = self.slug_limit_mb.get().saturating_mul(MIB);
        settings.limits.unpacked_bytes = self.slug_unpacked_limit_mb.get().saturating_mul(MIB);
        settings.patience = Patience { whole: Duration::from_secs(self.fetch_timeout.get()), ..Patience::default() };
        settings.s3 = Access { endpoint: self.endpoint()?, region, credentials };
        Ok(settings)
    }

    fn endpoint(&self) -> Result<Option<Url>, ConfigError> {
        let Some(text) = self.aws_endpoint_url_s3.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let url = Url::parse(text).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
        });
        let problem = "must be a URL like http://minio:9000, without a user";
        url.map(Some).ok_or_else(|| wrong("AWS_ENDPOINT_URL_S3", problem))
    }
}

/// What runs slugs: the runner image if one is named, else Captain's own runner.
pub(super) fn mode(args: &ServeArgs) -> Result<Mode, ConfigError> {
    let command = args.slug_runner_command.as_deref().map(str::trim).filter(|command| !command.is_empty());
    let image = args.slug_runner_image.clone().filter(|image| !image.is_empty());
    match (image, command) {
        (Some(image), Some(command)) => {
            let command =
                shell_words::split(command).map_err(|error| wrong("SLUG_RUNNER_COMMAND", error.to_string()))?;
            Ok(Mode::RunnerImage { image, version: super::runner_version(args)?, command })
        }
        (Some(_), None) => {
            Err(wrong("SLUG_RUNNER_COMMAND", "is required: what the runner image is told, e.g. `start web`"))
        }
        (None, Some(_)) => {
            let problem = "is for a runner image, and SLUG_RUNNER_IMAGE names none; Captain's own runner takes \
                           the process type from each start";
            Err(wrong("SLUG_RUNNER_COMMAND", problem))
        }
        (None, None) => {
            let stack = args.slugs.stack.trim();
            if stack.is_empty() || stack.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(wrong("CAPTAIN_STACK", "must be an image, e.g. debian:stable-slim, or scratch"));
            }
            Ok(Mode::Stack { stack: Arc::from(stack) })
        }
    }
}

fn usual_data() -> Result<PathBuf, ConfigError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/captain"));
    }
    below_home(variable("XDG_STATE_HOME"), variable("HOME"))
        .ok_or_else(|| wrong("CAPTAIN_DATA", "is required: this user has no home folder to keep slugs in"))
}

fn below_home(state: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |folder: &PathBuf| Path::is_absolute(folder);
    let state = state.filter(absolute).or_else(|| home.filter(absolute).map(|home| home.join(".local/state")));
    state.map(|state| state.join("captain"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the configuration; where a user's files are is no setting of Captain's"
)]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn args(line: &[&str]) -> ServeArgs {
        Line::parse_from(std::iter::once(&"captain").chain(line)).args
    }

    fn settings(line: &[&str]) -> Result<Settings, String> {
        args(line).slugs.settings(None, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_runner_image_or_a_stack() {
        let mode = |line: &[&str]| mode(&args(line)).map_err(|error| error.to_string());
        assert_eq!(mode(&[]), Ok(Mode::Stack { stack: "debian:stable-slim".into() }));
        assert_eq!(mode(&["--stack", "scratch"]), Ok(Mode::Stack { stack: "scratch".into() }));
        let image = ["--slug-runner-image", "flynn/slugrunner"];
        let command = ["--slug-runner-command", "start 'my web'"];
        assert_eq!(
            mode(&[image, command].concat()),
            Ok(Mode::RunnerImage {
                image: "flynn/slugrunner".to_owned(),
                version: "0.0.0".to_owned(),
                command: vec!["start".to_owned(), "my web".to_owned()],
            })
        );
        let wrong: [(&[&str], _); 3] = [
            (&image, "SLUG_RUNNER_COMMAND: is required"),
            (&command, "SLUG_RUNNER_COMMAND: is for"),
            (&["--stack", "a b"], "CAPTAIN_STACK: "),
        ];
        for (line, variable) in wrong {
            assert!(mode(line).unwrap_err().starts_with(variable), "{:?}", mode(line));
        }
    }

    #[test]
    fn each_wrong_value_names_its_variable() {
        let cases = [
            ("--data", "captain", "CAPTAIN_DATA"),
            ("--slug-folders", "/srv,slugs", "CAPTAIN_SLUG_FOLDERS"),
            ("--slug-store", "store", "CAPTAIN_SLUG_STORE"),
            ("--aws-endpoint-url-s3", "minio:9000", "AWS_ENDPOINT_URL_S3"),
            ("--aws-endpoint-url-s3", "http://u:hunter2@minio", "AWS_ENDPOINT_URL_S3"),
        ];
        for (flag, value, variable) in cases {
            let problem = settings(&[flag, value]).unwrap_err();
            assert!(problem.starts_with(&format!("{variable}: ")) && !problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn values_are_taken_in_mebibytes() {
        let settings =
            settings(&["--data", "/d", "--slug-cache-mb", "3", "--slug-limit-mb", "2", "--slug-folders", "/a,/b"])
                .unwrap();
        assert_eq!((settings.cache_bytes, settings.limits.given_bytes), (3 << 20, 2 << 20));
        assert_eq!(settings.folders, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(settings.store, Store::Folder("/d/store".into()));
    }

    #[test]
    fn a_users_slugs_are_in_the_users_home() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(below_home(path("/s"), path("/h")), path("/s/captain"));
        assert_eq!(below_home(path("relative"), path("/h")), path("/h/.local/state/captain"));
        assert_eq!(below_home(None, None), None);
    }
}
