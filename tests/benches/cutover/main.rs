//! The benches, run by `cargo xtask bench`. They measure what the design promises as ratios between things that are
//! done in turns in one run, on real interfaces in network namespaces, and write what they found. They judge no
//! change and stop no build: a ratio that misses its goal is written down as missed.
#![expect(clippy::print_stdout, reason = "the results are for whoever started the bench")]

mod addresses;
mod agent;
mod announcement;
mod bgp;
mod contender;
mod drawing;
mod filling;
mod hostile;
mod lane;
mod machine;
mod neighbours;
mod program;
mod quiet;
mod report;
mod rounds;
mod scale;
mod site;
mod system_call;
mod vm;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use report::{Report, Section};
use std::path::PathBuf;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures Cutover")]
struct Cli {
    /// What to measure; everything when nothing is named
    what: Vec<Bench>,
    /// Announcements for each contender
    #[arg(long, default_value_t = 1000)]
    announcements: usize,
    /// Write the results to this file, too; what is not measured now stays in it as it is
    #[arg(long)]
    report: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Announcement to route, against the floor and a packet socket
    Announcement,
    /// Eight addresses against one
    Addresses,
    /// The kernel program on other frames
    Program,
    /// The whole agent, seen from outside
    Agent,
    /// Announcements while others are awaited, and while somebody has the kernel's lock of links
    Filling,
    /// A guest that sends as fast as it can what the agent looks at
    Hostile,
    /// Floods of notifications about neighbours, against a listener that reads each
    Neighbours,
    /// Ten thousand endpoints on one host, with etcd
    Etcd,
    /// From the announcement through BIRD and FRR to the other hosts
    Bgp,
    /// Live migration of real guests, against other ways
    Vm,
}

impl Bench {
    fn measure(self, announcements: usize) -> Result<Vec<Section>> {
        let section = match self {
            Self::Announcement => announcement::measure(announcements),
            Self::Addresses => addresses::measure(announcements),
            Self::Program => program::measure(50),
            // A migration takes a hundred times as long as an announcement.
            Self::Agent => agent::measure(announcements.div_ceil(10)),
            // So does everything around one of these.
            Self::Filling => filling::measure(announcements.div_ceil(10)),
            Self::Hostile => hostile::measure(announcements.div_ceil(10)),
            Self::Neighbours => neighbours::measure(announcements.div_ceil(200)),
            Self::Etcd => scale::measure(announcements.div_ceil(5)),
            Self::Bgp => bgp::measure(announcements.div_ceil(5)),
            Self::Vm => return vm::measure(announcements.div_ceil(40)),
        };
        Ok(vec![section?])
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let is_everything = cli.what.is_empty();
    let chosen = if is_everything { Bench::value_variants().to_vec() } else { cli.what };
    // What is wrong with the file is better known before everything is measured.
    let report =
        cli.report.map(|path| if is_everything { Ok(Report::new(path)) } else { Report::open(path) });
    let report = report.transpose()?;
    let mut sections = Vec::new();
    for bench in chosen {
        quiet::wait()?;
        for section in bench.measure(cli.announcements)? {
            println!("{section}");
            sections.push(section);
        }
    }
    if let Some(report) = report {
        report.write(&sections)?;
    }
    Ok(())
}
