//! What this machine allows, and what it does not.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::setup::SetupError;

/// With whose powers instances are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Real root, or root of a user namespace that maps the instances' uids: each instance has a uid of its own.
    Root,
    /// An ordinary user: each instance is in a user namespace that maps its one uid to this user.
    User,
}

/// How the machine's control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Layout {
    None,
    V1,
    V2,
    Hybrid,
}

/// What a control group limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Resource {
    Memory,
    Swap,
    Cpu,
    Pids,
}

/// A part of the isolation that this machine does not allow. Shown once at start and in the node's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "limitation", rename_all = "snake_case")]
pub enum Limitation {
    /// A resource of instances is not limited.
    Unlimited {
        /// Which.
        resource: Resource,
        /// Why.
        reason: String,
    },
    /// All instances run as the same user of the host, the server's.
    SharedUid,
    /// The files of the slug belong to another uid: only new files and the top of `/app` can be written.
    ForeignOwner {
        /// Why their owner cannot be mapped.
        reason: String,
    },
    /// `/app` cannot be written.
    ReadOnlyApp {
        /// Why there is no overlay.
        reason: String,
    },
    /// A folder of the slug cannot be removed and made again in `/app`.
    FixedFolders {
        /// Why the overlay cannot note that it is gone.
        reason: String,
    },
    /// Abstract unix sockets of the host can be connected to.
    AbstractSockets {
        /// Why.
        reason: String,
    },
    /// The monitors stay in the server's control group: whoever kills that group kills the instances with it.
    MonitorsShareGroup {
        /// Why.
        reason: String,
    },
    /// The server had to leave the group in which it was started to those of its instances: as long as these are there, no process can be put
    /// into that group, hence its service not be started again.
    NoWayBack {
        /// The group.
        group: PathBuf,
    },
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Cpu => "CPU",
            Self::Pids => "the number of processes",
        })
    }
}

impl fmt::Display for Limitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited { resource, reason } => write!(f, "{resource} of instances is not limited: {reason}"),
            Self::SharedUid => f.write_str("instances share this user's uid: run captain as root to give each its own"),
            Self::ForeignOwner { reason } => {
                write!(f, "instances can add files to /app but not change those of the slug: {reason}")
            }
            Self::ReadOnlyApp { reason } => write!(f, "/app is read-only: {reason}"),
            Self::FixedFolders { reason } => {
                write!(f, "instances cannot remove a folder of the slug and make it again in /app: {reason}")
            }
            Self::AbstractSockets { reason } => {
                write!(f, "instances can reach abstract unix sockets of the host: {reason}")
            }
            Self::MonitorsShareGroup { reason } => {
                write!(f, "stopping captain's service may kill the instances (use KillMode=process): {reason}")
            }
            Self::NoWayBack { group } => write!(
                f,
                "captain's service cannot be started again while instances run (use DelegateSubgroup=captain-server, of systemd 254): no \
                 process can be put into {group:?} beside theirs"
            ),
        }
    }
}

/// What a rehearsal of a whole start found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// With whose powers.
    pub mode: Mode,
    /// How control groups are mounted.
    pub layout: Layout,
    /// What is not allowed.
    pub limitations: Vec<Limitation>,
    /// Why no instance can be started at all, if so.
    pub unusable: Option<SetupError>,
}
