//! The engine from outside: rows beside each other, sessions, kills, full disks.

mod http;
mod rows;
mod sessions;
mod support;
