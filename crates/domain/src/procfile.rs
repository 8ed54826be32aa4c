//! Procfiles (being written).
