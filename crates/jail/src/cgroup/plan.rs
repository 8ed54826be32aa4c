//! Where the groups of instances, and those of their monitors, are made: decided once, by the server.
//!
//! As high up as this user may. What is made beside the group of our service is spared when the service ends, and leaves it a leaf: into a
//! group of version 2 whose children have controllers no process can be put, hence no service be started again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::{Hierarchies, Hierarchy, OURS, SERVER_LEAF};
use super::{CONTROLLERS, Groups, enter, has_swap, make_dir, rules};
use crate::report::{Limitation, Resource};
use crate::spec::Limits;

/// The hierarchies in which groups are wanted, with the base in each. Nothing is made but the bases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    places: Vec<(Hierarchy, PathBuf)>,
    refuges: Vec<Refuge>,
    pub(crate) limitations: Vec<Limitation>,
}

/// A group for monitors, outside of the service that the server is in.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Refuge {
    group: PathBuf,
    unified: bool,
    /// Whether service managers end services by this hierarchy: the unified one, or their own named one. The others only share limits.
    tracked: bool,
}

impl Plan {
    pub(crate) fn new(hierarchies: &Hierarchies) -> Self {
        let mut plan = Self { places: Vec::new(), refuges: Vec::new(), limitations: Vec::new() };
        for (controller, resource) in [("memory", Resource::Memory), ("cpu", Resource::Cpu), ("pids", Resource::Pids)] {
            if hierarchies.with(controller).is_none() {
                let reason = format!("no control group hierarchy with {controller} is mounted");
                plan.limitations.push(Limitation::Unlimited { resource, reason });
            }
        }
        for hierarchy in &hierarchies.0 {
            plan.add(hierarchy);
        }
        plan
    }

    fn add(&mut self, hierarchy: &Hierarchy) {
        let limits = CONTROLLERS.iter().any(|c| hierarchy.has(c));
        if !limits && hierarchy.at_top() {
            return;
        }
        let tracked = hierarchy.unified || hierarchy.controllers.iter().any(|c| c.starts_with("name="));
        let mut stuck = |reason: String| {
            let told = self.limitations.iter().any(|l| matches!(l, Limitation::MonitorsShareGroup { .. }));
            if tracked && !told && !hierarchy.at_top() {
                self.limitations.push(Limitation::MonitorsShareGroup { reason });
            }
        };
        match base(hierarchy) {
            Ok(Base { path, left }) => {
                let service = hierarchy.service();
                if path.starts_with(&service) {
                    stuck(format!("only {service:?} is this user's"));
                } else if !hierarchy.at_top() {
                    let group = path.join("monitors");
                    self.refuges.push(Refuge { group, unified: hierarchy.unified, tracked });
                }
                self.limitations.extend(left.map(|group| Limitation::NoWayBack { group }));
                if limits {
                    self.places.push((hierarchy.clone(), path));
                }
            }
            Err(error) => {
                let reason = format!("no group can be made in {:?}: {error}", hierarchy.mount);
                stuck(reason.clone());
                self.limitations.extend(unlimited(hierarchy, &reason));
            }
        }
    }

    /// Where the groups will be.
    pub(crate) fn paths(&self, name: &str) -> Vec<PathBuf> {
        self.places.iter().map(|(_, base)| base.join(name)).collect()
    }

    /// Where an instance sees them, in the same order.
    pub(crate) fn seats(&self) -> Vec<PathBuf> {
        self.places.iter().map(|(hierarchy, _)| hierarchy.seat()).collect()
    }

    /// Makes them and sets the limits.
    pub(crate) fn make(&self, name: &str, limits: &Limits) -> io::Result<(Groups, Vec<Limitation>)> {
        let mut limitations = self.limitations.clone();
        let mut paths = Vec::new();
        for (hierarchy, base) in &self.places {
            let group = base.join(name);
            match make_dir(&group) {
                // Somebody has tidied up since the plan was made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_base(hierarchy, base).and_then(|_| make_dir(&group))?;
                }
                made => made?,
            }
            for rule in rules(hierarchy, limits) {
                if let Err(error) = fs::write(group.join(rule.file), rule.value.to_string()) {
                    // A kernel without swap accounting has no such file; without swap there is nothing to limit either.
                    if rule.resource != Resource::Swap || has_swap() {
                        let reason = format!("{} cannot be set in {group:?}: {error}", rule.file);
                        limitations.push(Limitation::Unlimited { resource: rule.resource, reason });
                    }
                }
            }
            paths.push(group);
        }
        let unified = self.places.iter().position(|(hierarchy, _)| hierarchy.unified);
        Ok((Groups { paths, unified }, limitations))
    }

    /// The group of version 2 into which a monitor is best born, if there is one outside of the service. The first monitor of all makes it.
    pub(crate) fn birthplace(&self) -> Option<&Path> {
        self.refuges.iter().find(|refuge| refuge.unified).map(|refuge| refuge.group.as_path())
    }

    /// Moves this process out of the groups in which it was started, wherever that is possible, so that ending the server's service does
    /// not end the monitors. Says where it was not; where it could not be from the beginning, the limitations of the plan do.
    ///
    /// `born` is the group of version 2 into which it was born already.
    pub(crate) fn leave_service(&self, born: Option<&Path>) -> Option<Limitation> {
        let mut stuck = None;
        for Refuge { group, tracked, .. } in &self.refuges {
            if born == Some(group) {
                continue;
            }
            let moved = match enter(group) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    group.parent().map_or(Ok(()), make_dir).and_then(|()| make_dir(group)).and_then(|()| enter(group))
                }
                entered => entered,
            };
            if let Err(error) = moved
                && *tracked
            {
                stuck = Some(Limitation::MonitorsShareGroup { reason: format!("cannot move to {group:?}: {error}") });
            }
        }
        stuck
    }
}

fn unlimited(hierarchy: &Hierarchy, reason: &str) -> Vec<Limitation> {
    let limits = Limits::default();
    let mut resources: Vec<Resource> = rules(hierarchy, &limits).into_iter().map(|rule| rule.resource).collect();
    resources.retain(|resource| *resource != Resource::Swap);
    resources.into_iter().map(|resource| Limitation::Unlimited { resource, reason: reason.to_owned() }).collect()
}

/// A folder for groups of ours.
struct Base {
    path: PathBuf,
    /// The group that this process has left for it.
    left: Option<PathBuf>,
}

/// The highest base of the hierarchy in which groups can be made, and have limits.
fn base(hierarchy: &Hierarchy) -> io::Result<Base> {
    let mut second_best = Err(io::ErrorKind::NotFound.into());
    for parent in hierarchy.parents() {
        let path = parent.join(OURS);
        match make_base(hierarchy, &path) {
            Ok(true) => return Ok(Base { path, left: None }),
            Ok(false) if make_room(hierarchy, &parent) && make_base(hierarchy, &path)? => {
                return Ok(Base { path, left: Some(parent) });
            }
            // What groups lack there is reported, as limits that cannot be set.
            Ok(false) if second_best.is_err() => second_best = Ok(Base { path, left: None }),
            Err(error) if second_best.is_err() => second_best = Err(error),
            Ok(false) | Err(_) => {}
        }
    }
    second_best
}

/// Says whether the groups in it can have limits, as far as processes might be in the way.
fn make_base(hierarchy: &Hierarchy, base: &Path) -> io::Result<bool> {
    let mut free = true;
    if hierarchy.unified
        && let Some(parent) = base.parent()
    {
        // The kernel asks that of whoever moves a process from one group to another: here, from ours to one below this parent.
        writable(parent)?;
        free = hand_down(hierarchy, parent);
    }
    make_dir(base).and_then(|()| writable(base))?;
    Ok(free && (!hierarchy.unified || hand_down(hierarchy, base)))
}

/// Lets the children of a version 2 group use the controllers. False only where its processes are in the way. Other refusals show up later,
/// as limits that cannot be set: those are reported.
fn hand_down(hierarchy: &Hierarchy, group: &Path) -> bool {
    let control = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    // One at a time: a list is refused as a whole. Memory is the first: where it is refused the others must not be had, as children with
    // only those take no process while their parent has some.
    let wanted =
        CONTROLLERS.iter().filter(|c| hierarchy.has(c) && !enabled.split_ascii_whitespace().any(|on| on == **c));
    !wanted
        .map(|controller| fs::write(&control, format!("+{controller}")))
        .any(|handed| handed.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy))
}

/// Whether processes may be put there: somebody else's folder of the same name does not serve.
fn writable(group: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(group.join("cgroup.procs")).map(drop)
}

/// Where only the server's own group of version 2 is ours (delegation), the server must leave it for a leaf before groups below it can
/// have limits. Says whether it has: not if others are there too, or in another group than its own.
fn make_room(hierarchy: &Hierarchy, group: &Path) -> bool {
    let leaf = group.join(SERVER_LEAF);
    let alone =
        fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| pids.trim() == std::process::id().to_string());
    hierarchy.unified && alone && make_dir(&leaf).is_ok() && fs::write(leaf.join("cgroup.procs"), "0").is_ok()
}
