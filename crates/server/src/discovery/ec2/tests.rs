//! Against a mock on the loopback: EC2 and the metadata service are scripts that keep what they were asked.

mod answers;
mod mock;
mod requests;
mod role;
