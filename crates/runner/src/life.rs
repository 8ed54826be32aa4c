//! The life of an instance as a pure state machine: what has happened goes in, what to do comes out.
//!
//! ```text
//! running --TERM--> stopping --grace over--> killing
//!    |                  |                        |
//!    +--app ended--> draining --grace over-------+--> left (nobody is left, or the kernel cannot end them in time)
//! ```
//!
//! * A stop gives the *whole* group the whole grace: when the shell of `cd x && npm start` dies of TERM at once, the server behind it
//!   is still finishing its requests. Those that have had TERM already do not get it twice, which some programs take for "now!".
//! * When the app ends by itself, what it left behind gets TERM and a short grace.
//! * Only TERM begins a stop. INT, QUIT and the others are passed on and mean what the app makes of them (QUIT is a thread dump in Java).

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// What the app left behind gets this long after TERM: enough to flush, too short to notice in a restart.
const REST_GRACE: Duration = Duration::from_secs(3);

/// A process that KILL does not end within this is stuck in the kernel; the end of pid 1 takes care of it.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Code(u8),
    /// By the signal of this number, which may be a real-time one without a name.
    Signal(u8),
}

impl End {
    /// As shells and Docker show it.
    pub const fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The runner got a signal that is passed on.
    Signal(Signal),
    /// A child ended.
    Ended(Pid, End),
    /// No child is left.
    Alone,
    /// The deadline has passed.
    Deadline,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a signal to the app's group.
    Group(Signal),
    /// Ask everybody to end.
    TermAll,
    /// Ask those outside the group to end: the group has been asked.
    TermStrangers,
    /// End everybody.
    KillAll,
    /// Tell the outside that the instance is stopping.
    Stopping,
    /// Leave: the instance is over.
    Leave,
}

/// Where an instance is in its life.
#[derive(Debug)]
pub struct Life {
    app: Pid,
    grace: Duration,
    ended: Option<End>,
    stopping: bool,
    killing: bool,
    deadline: Option<Instant>,
}

impl Life {
    /// The life of an app that has just been started.
    pub const fn new(app: Pid, grace: Duration) -> Self {
        Self { app, grace, ended: None, stopping: false, killing: false, deadline: None }
    }

    /// When [`Event::Deadline`] is due.
    pub const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether a stop was asked for.
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// How the app ended.
    pub const fn ended(&self) -> Option<End> {
        self.ended
    }

    /// Takes in an event.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Signal(signal) => self.pass_on(now, signal),
            Event::Ended(pid, end) if pid == self.app && self.ended.is_none() => self.app_ended(now, end),
            // Outside of a pid namespace each death may hand us new orphans.
            Event::Ended(..) if self.killing => vec![Action::KillAll],
            Event::Ended(..) => Vec::new(),
            Event::Alone => vec![Action::Leave],
            Event::Deadline if self.killing => vec![Action::Leave],
            Event::Deadline => {
                self.killing = true;
                self.deadline = Some(now + KILL_GRACE);
                vec![Action::KillAll]
            }
        }
    }

    fn pass_on(&mut self, now: Instant, signal: Signal) -> Vec<Action> {
        let mut actions = vec![Action::Group(signal)];
        if signal == Signal::SIGTERM && !self.stopping && self.ended.is_none() {
            self.stopping = true;
            self.deadline = Some(now + self.grace);
            actions.insert(0, Action::Stopping);
        }
        actions
    }

    fn app_ended(&mut self, now: Instant, end: End) -> Vec<Action> {
        self.ended = Some(end);
        if self.killing {
            return vec![Action::KillAll];
        }
        if self.stopping {
            return vec![Action::TermStrangers];
        }
        self.deadline = Some(now + REST_GRACE);
        vec![Action::TermAll]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const APP: Pid = Pid::from_raw(7);
    const GRACE: Duration = Duration::from_secs(10);

    #[test]
    fn an_app_that_ends_takes_the_rest_with_it() {
        let now = Instant::now();
        let mut life = Life::new(APP, GRACE);
        assert_eq!(life.handle(now, Event::Ended(Pid::from_raw(8), End::Code(1))), []);
        assert_eq!(life.handle(now, Event::Ended(APP, End::Code(3))), [Action::TermAll]);
        assert_eq!(life.deadline(), Some(now + REST_GRACE));
        assert_eq!(life.handle(now + REST_GRACE, Event::Deadline), [Action::KillAll]);
        assert_eq!(life.handle(now, Event::Ended(Pid::from_raw(9), End::Code(0))), [Action::KillAll]);
        assert_eq!(life.handle(now, Event::Alone), [Action::Leave]);
        assert_eq!(life.ended(), Some(End::Code(3)));
    }

    #[test]
    fn a_stop_gives_everybody_the_whole_grace_and_is_asked_for_once() {
        let now = Instant::now();
        let mut life = Life::new(APP, GRACE);
        assert_eq!(
            life.handle(now, Event::Signal(Signal::SIGTERM)),
            [Action::Stopping, Action::Group(Signal::SIGTERM)]
        );
        let later = now + Duration::from_secs(1);
        assert_eq!(life.handle(later, Event::Signal(Signal::SIGTERM)), [Action::Group(Signal::SIGTERM)]);
        assert_eq!(life.handle(later, Event::Ended(APP, End::Signal(15))), [Action::TermStrangers]);
        assert_eq!(life.deadline(), Some(now + GRACE));
        assert_eq!(life.handle(now + GRACE, Event::Deadline), [Action::KillAll]);
        assert_eq!(life.handle(now + GRACE + KILL_GRACE, Event::Deadline), [Action::Leave]);
        assert_eq!(life.ended().map(End::code), Some(143));
    }

    #[test]
    fn only_term_begins_a_stop() {
        let mut life = Life::new(APP, GRACE);
        for signal in
            [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH]
        {
            assert_eq!(life.handle(Instant::now(), Event::Signal(signal)), [Action::Group(signal)]);
        }
        assert!(!life.is_stopping() && life.deadline().is_none());
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Signal(Signal::SIGTERM)),
            Just(Event::Signal(Signal::SIGHUP)),
            Just(Event::Ended(APP, End::Code(0))),
            Just(Event::Ended(Pid::from_raw(8), End::Code(0))),
            Just(Event::Deadline),
        ]
    }

    proptest! {
        /// Whatever happens, once a stop has begun or the app has ended, two deadlines later it is over: nothing lives for ever.
        #[test]
        fn an_end_that_has_begun_comes(events in proptest::collection::vec(event(), 0..30)) {
            let mut now = Instant::now();
            let mut life = Life::new(APP, GRACE);
            for event in events {
                match event {
                    // The clock alone makes deadlines.
                    Event::Deadline => match life.deadline() {
                        Some(at) => now = at,
                        None => continue,
                    },
                    _ => now += Duration::from_millis(1),
                }
                if life.handle(now, event).contains(&Action::Leave) {
                    return Ok(());
                }
                prop_assert_eq!(life.deadline().is_some(), life.is_stopping() || life.ended().is_some());
            }
            if let Some(first) = life.deadline() {
                let over = life.handle(first, Event::Deadline);
                let second = life.deadline().unwrap();
                prop_assert!(over == [Action::Leave] || life.handle(second, Event::Deadline) == [Action::Leave]);
                prop_assert!(second <= now + GRACE + KILL_GRACE);
            }
        }
    }
}
