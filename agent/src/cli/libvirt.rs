//! `cutover libvirt`: the orchestrator's part on hosts where libvirt is all the orchestrator there is.
//!
//! `hook` is what `/etc/libvirt/hooks/qemu` calls, on the host that it concerns; `follow` is a service that ends migrations, because
//! libvirt calls no hook on the target when a machine runs there. Both write what a driver would write, and nothing of libvirt's.
//! Not for hosts of OpenStack's, where Neutron's driver writes the same.

mod course;
mod domain;
mod follow;
mod hook;
mod host;
mod journal;
mod mark;

use super::{ConfigFile, Failure};

/// Arguments of `cutover libvirt`.
#[derive(Debug, clap::Args)]
pub struct LibvirtArguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Writes what follows from one call of libvirt's hook; reads the domain's XML on standard input
    ///
    /// Called by /etc/libvirt/hooks/qemu.d/cutover with libvirt's arguments. A domain whose metadata have no ports of Cutover's is left
    /// alone. A datastore that does not answer is tried again. Takes 10 seconds at most, and `--wait` besides while a machine is about to
    /// come here.
    Hook(HookArguments),
    /// Ends migrations to this host as soon as libvirt says that the machine runs here; runs until it is stopped
    Follow(FollowArguments),
}

#[derive(Debug, clap::Args)]
struct HookArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// How long libvirt is kept from sending the machine here until the agent is ready for it
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=20))]
    wait: u64,
    /// Name of the domain
    guest: String,
    /// What libvirt does: migrate, start, started, release and so on
    operation: String,
    /// begin or end
    sub_operation: String,
    /// Why a domain has stopped, or `-`
    #[arg(default_value = "-")]
    extra: String,
}

#[derive(Debug, clap::Args)]
struct FollowArguments {
    #[command(flatten)]
    file: ConfigFile,
}

/// Does one of them.
///
/// # Errors
/// When the settings are wrong, or the datastore cannot be read or written.
pub fn run(arguments: &LibvirtArguments) -> Result<(), Failure> {
    match &arguments.part {
        Part::Hook(arguments) => hook::run(arguments),
        Part::Follow(arguments) => follow::run(arguments),
    }
}
