//! Docker Engine, and whatever speaks its API (being written).
