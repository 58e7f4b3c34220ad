//! The engine from outside: rows beside each other, sessions, kills, full disks.

mod rows;
mod sessions;
mod support;
