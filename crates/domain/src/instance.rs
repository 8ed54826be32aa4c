//! Instances: one running process of a slug on a node.

use crate::{AppName, Environment, Hostname, InstanceId, NodeId, OperationId, Slots, SlugUri, Timestamp};

/// What the engine says of an instance's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Created, not started: a claim.
    Created,
    /// Running.
    Running,
    /// Frozen by somebody; its memory stays taken.
    Paused,
    /// Between two runs of a restart policy (never Captain's own doing).
    Restarting,
    /// Ended.
    Exited,
    /// Its removal is under way.
    Removing,
    /// Its removal failed half way; the engine keeps the name and perhaps the processes.
    Dead,
}

impl State {
    /// Whether its slots are taken.
    ///
    /// All but `Exited`: an ended process has given its memory back, and its container stays only to be read. A removal that has
    /// begun frees nothing until the engine answers 404, since a `Dead` container may still hold processes.
    pub const fn holds_slots(self) -> bool {
        !matches!(self, Self::Exited)
    }

    /// Whether the instance is among those that run (the default listing).
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// The word used in the API.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// All states.
    pub const ALL: [Self; 7] =
        [Self::Created, Self::Running, Self::Paused, Self::Restarting, Self::Exited, Self::Removing, Self::Dead];

    /// The state with this word (Docker uses the same ones).
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// How an instance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 + n where signal n killed it.
    pub code: i64,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// When.
    pub at: Option<Timestamp>,
}

impl Exit {
    /// The signal that ended it, where the code says so.
    pub const fn signal(&self) -> Option<i64> {
        match self.code {
            129..=192 => Some(self.code - 128),
            _ => None,
        }
    }

    /// How it ended, in a sentence.
    pub fn reason(&self) -> String {
        match (self.out_of_memory, self.signal()) {
            (true, _) => "killed by the kernel: it used more memory than its slots have".to_owned(),
            (false, Some(signal)) => match signal_name(signal) {
                Some(name) => format!("killed by signal {signal} ({name})"),
                None => format!("killed by signal {signal}"),
            },
            (false, None) if self.code == 0 => "ended by itself, without an error".to_owned(),
            (false, None) => format!("ended by itself with exit code {}", self.code),
        }
    }
}

const fn signal_name(signal: i64) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// One instance, as it was last seen on its engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The engine's id.
    pub id: InstanceId,
    /// The node it is on.
    pub node: NodeId,
    /// Its app.
    pub app: AppName,
    /// Its slug.
    pub slug_uri: SlugUri,
    /// The caller's environment, without what Captain sets.
    pub environment: Environment,
    /// The slots it takes.
    pub slots: Slots,
    /// The port on the node that leads to it, while it runs.
    pub port: Option<u16>,
    /// Its host name.
    pub hostname: Hostname,
    /// What the engine says of it.
    pub state: State,
    /// When its container was created, by the engine's clock.
    pub created: Timestamp,
    /// When it was started, by the engine's clock.
    pub started: Option<Timestamp>,
    /// How it ended, when it has.
    pub exit: Option<Exit>,
    /// The operation that made it. None for those that the original Captain made.
    pub operation: Option<OperationId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back() {
        for state in State::ALL {
            assert_eq!(State::from_word(state.word()), Some(state));
        }
        assert_eq!(State::from_word("running "), None);
    }

    #[test]
    fn whatever_runs_holds_slots() {
        for state in State::ALL {
            assert!(state.holds_slots() || !state.is_running(), "{state:?}");
        }
    }

    #[test]
    fn an_end_has_its_reason() {
        let reason = |code, out_of_memory| Exit { code, out_of_memory, at: None }.reason();
        assert_eq!(reason(137, true), "killed by the kernel: it used more memory than its slots have");
        assert_eq!(reason(143, false), "killed by signal 15 (SIGTERM)");
        assert_eq!(reason(164, false), "killed by signal 36");
        assert_eq!(reason(0, false), "ended by itself, without an error");
        assert_eq!(reason(3, false), "ended by itself with exit code 3");
    }

    #[test]
    fn signals_are_read_from_codes() {
        let exit = |code| Exit { code, out_of_memory: false, at: None }.signal();
        assert_eq!(exit(137), Some(9));
        assert_eq!(exit(0), None);
        assert_eq!(exit(128), None);
        assert_eq!(exit(255), None);
    }
}
