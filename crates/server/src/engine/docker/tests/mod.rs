//! The whole client against scripted engines over real sockets: what is on the wire, and what each way of failing becomes.

mod conversation;
mod fake;
mod slugs;
mod streams;
