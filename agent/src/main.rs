//! The `cutover` binary: hands the command line to [`cutover_agent::cli`] and exits with what it says.

fn main() -> std::process::ExitCode {
    cutover_agent::cli::main()
}
