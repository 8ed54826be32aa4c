//! What an error says, and what it never says.

use std::sync::Arc;
use std::time::Duration;

use captain_domain::InstanceId;
use captain_server::engine::{EngineError, Preparation};

use crate::stage::{Stage, with_variables};
use crate::subject::{App, Recipe};

/// A value of the environment.
const MARKER: &str = "s3cret-marker-of-the-environment";

/// More than Linux takes for one string of an environment (128 KiB): such a process cannot be started.
const TOO_LONG: usize = 200 << 10;

pub(super) async fn an_error_says_what_was_attempted_and_where(stage: Arc<Stage>) {
    let id = InstanceId::from_bytes(rand::random());
    let errors = [
        stage.engine.inspect(id).await.map(drop).unwrap_err(),
        stage.engine.start(id).await.unwrap_err(),
        stage.engine.stop(id, Duration::ZERO).await.unwrap_err(),
        stage.engine.remove(id, true).await.unwrap_err(),
    ];
    for error in &errors {
        assert_eq!(&error.node, stage.engine.node());
        let told = error.to_string();
        assert!(told.contains(error.attempted) && told.contains(error.node.as_str()), "{told}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{told}");
    }
    let attempted: std::collections::BTreeSet<_> = errors.iter().map(|error| error.attempted).collect();
    assert_eq!(attempted.len(), errors.len(), "different calls are told by the same words: {attempted:?}");
}

pub(super) async fn no_error_holds_a_value_of_the_environment(stage: Arc<Stage>) {
    let secret = |recipe| {
        let mut spec = stage.spec_of(recipe);
        spec.environment = with_variables(&spec.environment, &[("API_TOKEN", MARKER), ("A B-c.é", MARKER)]);
        spec
    };
    let idle = || stage.subject.recipe(&App::Idle);
    let mut errors: Vec<EngineError> = Vec::new();

    errors.extend(stage.engine.create(&secret(stage.subject.unprepared())).await.err());
    let malformed = Recipe { preparation: Preparation::RunnerImage { image: "NOT an image::".to_owned() }, ..idle() };
    errors.extend(stage.engine.create(&secret(malformed)).await.err());
    assert_eq!(errors.len(), 2, "each of these was to fail: {errors:?}");

    // An engine that gives a name once quotes it where it is given twice.
    let first = secret(idle());
    stage.create(&first).await;
    let mut same_name = secret(idle());
    same_name.name.clone_from(&first.name);
    match stage.engine.create(&same_name).await {
        Ok(id) => stage.keep(id),
        Err(error) => errors.push(error),
    }

    // Whether this fails at its creation, at its start, or after the engine has answered that it runs, is the engine's affair.
    let mut too_long = secret(idle());
    let value = MARKER.repeat(TOO_LONG / MARKER.len());
    too_long.environment = with_variables(&too_long.environment, &[("TOO_LONG", &value)]);
    let outcome = match stage.engine.create(&too_long).await {
        Ok(id) => {
            stage.keep(id);
            stage.engine.start(id).await
        }
        Err(error) => Err(error),
    };
    errors.extend(outcome.err());

    for error in &errors {
        let told = format!("{error} {error:?}");
        assert!(!told.contains(&MARKER[..12]), "a value of the environment is in an error: {told}");
    }
}
