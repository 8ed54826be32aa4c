//! What is known of a node's health.

/// What a node's engine was last seen to do. Only `Healthy` means that the view of the node is true now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing was heard of the node yet: the first listing is under way.
    Unknown,
    /// The engine answers everything that is asked of it.
    Healthy,
    /// No connection: refused, no route, no such host, TLS refused.
    Unreachable,
    /// Connected, but no answer in time.
    Unresponsive,
    /// It answers, but not what an engine answers: errors, or bytes that make no sense.
    Failing,
}

impl Health {
    /// The word used in the API, in front of the reason.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unreachable => "unreachable",
            Self::Unresponsive => "unresponsive",
            Self::Failing => "failing",
        }
    }
}
