//! A rehearsal: a whole start with an empty slug, up to the point where the program would begin. What it meets is what instances will meet.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::process::{WaitOptions, waitpid};

use super::orders::Orders;
use super::run::{FirstProcess, first_process};
use super::{OnStep, blank};
use crate::cgroup::Groups;
use crate::ground::Briefing;
use crate::report::{Limitation, Report};
use crate::setup::{Attempt, SetupError, Step};
use crate::spec::{Id, Limits, LogBound, Record, Spec, VERSION};
use crate::state::now_ms;

/// Rehearses in the directory `dir`, prepared as for an instance and with the empty folder `slug`, and prints the report to standard output.
pub(super) fn perform(dir: &OsStr, on_step: OnStep, mut orders: Orders) -> Result<(), SetupError> {
    let dir = Path::new(dir);
    let briefing = Briefing { ground: orders.ground()?, base: orders.base()?.0 };
    let ground = &briefing.ground;
    let record: Record = record(dir).attempt(Step::Read, || format!("read {:?}", dir.join("spec.json")))?;
    let mut limitations: Vec<Limitation> = Vec::new();
    limitations.extend(ground.plan.leave_service(None));
    let groups = Groups::new(ground.plan.paths(&record.group));
    let rehearsed = ground
        .plan
        .make(&record.group, &record.spec.limits)
        .attempt(Step::Cgroup, || "make control groups".into())
        .and_then(|(groups, found)| {
            limitations.extend(found);
            let wanted = FirstProcess {
                dir,
                record: &record,
                briefing: &briefing,
                template: None,
                groups: &groups,
                limitations: &limitations,
                rehearsal: true,
                on_step,
            };
            first_process(&wanted, blank(ground))
        });
    let unusable = match rehearsed {
        Ok(first) => {
            limitations.extend(first.limitations);
            let _ = waitpid(Some(first.pid), WaitOptions::empty());
            None
        }
        Err(error) => Some(error),
    };
    // Left groups are found again by their prefix, in `Jail::sweep`.
    groups.remove(Duration::from_secs(2));
    let report = Report { mode: ground.mode, layout: ground.hierarchies.layout(), limitations, unusable };
    serde_json::to_vec(&report)
        .map_err(std::io::Error::from)
        .and_then(|text| std::io::stdout().write_all(&text))
        .attempt(Step::Record, || "print the report".into())
}

fn record(dir: &Path) -> std::io::Result<Record> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join("spec.json"))?)?)
}

/// The record of the instance that is rehearsed.
pub(crate) fn record_of(name: &str, uid: u32, group: String, slug: &Path) -> std::io::Result<Record> {
    let id = Id::try_from(name.to_owned()).map_err(std::io::Error::other)?;
    let spec = Spec {
        slug: slug.to_owned(),
        runner: None,
        argv: vec!["/never/executed".into()],
        env: BTreeMap::new(),
        hostname: "rehearsal".into(),
        limits: Limits::default(),
        log: LogBound::default(),
        labels: BTreeMap::new(),
    };
    Ok(Record { version: VERSION, id, uid, group, created_ms: now_ms(), spec })
}
