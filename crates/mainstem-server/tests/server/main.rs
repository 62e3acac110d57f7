//! The binary as its users meet it: started as a process, spoken to through its doors.

mod command_line;
mod demo;
mod process;
mod replace;
mod slt;
mod timeouts;
