//! The program: reads the command line, runs one command, turns its result into an exit status.

use clap::Parser;
use opd::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything touches libtorch: on a GPU machine its CUDA half is not linked, only found.
    model::load_cuda();
    opd::warnings::show();
    match opd::cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mark = if error.is_finding() { "" } else { "error: " };
            opd::output::say(&format!("{mark}{error}"));
            ExitCode::from(error.exit_status())
        }
    }
}
