//! What can go wrong between the agent and the kernel program: one enum for each operation.

use crate::netlink::ClsactError;
use crate::ownership::Refusal;
use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use std::error::Error;
use std::io;
use std::path::PathBuf;

/// The kernel program cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pin path is not in a BPF file system.
    #[error(
        "{path} is not in a BPF file system, so nothing there would survive the agent; \
         run: mount -t bpf bpf /sys/fs/bpf"
    )]
    NoBpffs {
        /// The configured path.
        path: PathBuf,
    },
    /// The kernel refuses such a name with "operation not permitted", which leads nowhere.
    #[error("CutoverPinPath {path}: names in a BPF file system cannot have dots in them; choose another one")]
    DotInPinPath {
        /// The configured path.
        path: PathBuf,
    },
    /// Somebody else than root can change what is pinned, or the way to it.
    #[error("{path}: {refusal}")]
    Unsafe {
        /// The configured path.
        path: PathBuf,
        /// What is wrong, with the command that mends it.
        refusal: Refusal,
    },
    /// Another agent works with these pins.
    #[error("{path}: another agent is running with this pin path; stop it or set CutoverPinPath")]
    Taken {
        /// The configured path.
        path: PathBuf,
    },
    /// A file operation on the pins failed.
    #[error("{step} {path}: {error}")]
    Pins {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The object cannot be loaded.
    #[error("the kernel object cannot be loaded: {0}")]
    Object(#[source] Box<EbpfError>),
    /// A program or map is not in the object, or is something else.
    #[error("the kernel object has no {name} of the right kind; it was not built from this source")]
    WrongObject {
        /// Name of the program or map.
        name: &'static str,
    },
    /// The kernel refuses a program.
    #[error("the kernel does not accept the program {name}: {error}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        #[source]
        error: Box<ProgramError>,
    },
    /// A map cannot be used.
    #[error("maps of the kernel program: {0}")]
    Map(#[from] MapError),
    /// An object cannot be pinned.
    #[error("cannot pin {path}: {error}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: PinError,
    },
    /// tcx is asked for, but the kernel has none.
    #[error("CutoverAttach is tcx, which this kernel does not have (it came with Linux 6.6); use auto or tc")]
    NoTcx,
    /// Maps count as locked memory, and there may not be enough of it.
    #[error(
        "this kernel counts BPF maps as locked memory (Linux 5.11 and newer do not), and the limit is {} KiB; \
         set LimitMEMLOCK=infinity in the unit of the agent, as dist/cutover.service has it, or give it CAP_SYS_RESOURCE",
        limit / 1024
    )]
    LockedMemory {
        /// RLIMIT_MEMLOCK in bytes, of all processes of the user together.
        limit: u64,
    },
    /// What an earlier agent attached cannot be taken over.
    #[error("what is attached to {object} cannot be taken over: {error}")]
    TakeOver {
        /// The pin, or the interface.
        object: String,
        /// Why.
        #[source]
        error: AttachError,
    },
    /// Attaching cannot be tried out.
    #[error("cannot make a network namespace to try it in: {error}")]
    Namespace {
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The log of the program cannot be read.
    #[error("the log of the kernel program: {0}")]
    Log(#[from] aya_log::Error),
}

/// A program cannot be attached to, or detached from, an interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refuses.
    #[error(transparent)]
    Program(Box<ProgramError>),
    /// A link cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The link cannot be pinned, so it would go with the agent.
    #[error("cannot pin the link: {0}")]
    Pin(#[from] PinError),
    /// A pin cannot be read or removed.
    #[error("{step} {path}: {error}")]
    File {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// A filter of tc cannot be changed.
    #[error(transparent)]
    Clsact(#[from] ClsactError),
    /// The kernel has no links for XDP.
    #[error("XDP that outlives the agent needs Linux 5.9; use CutoverAttach auto or tc")]
    NoXdpLinks,
    /// The object has lost its program, which [`OpenError::WrongObject`] rules out.
    #[error("the program {0} is not loaded")]
    NotLoaded(&'static str),
}

impl From<ProgramError> for AttachError {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

/// A tap whose virtual machine is about to leave cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The program cannot be loaded.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Or is not.
    #[error(transparent)]
    Program(#[from] AttachError),
    /// There is no room in the map.
    #[error("cannot change the map: {0}")]
    Map(#[from] MapError),
    /// The kernel refuses the socket.
    #[error("cannot {step} for interface {ifindex}: {error}")]
    Socket {
        /// What was tried.
        step: &'static str,
        /// For which interface.
        ifindex: u32,
        /// What the kernel said. Without CAP_NET_RAW there is no such socket.
        #[source]
        error: io::Error,
    },
}

/// A tap cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The interface is not there, or is another one by now.
    #[error("there is no interface {interface} with number {ifindex}")]
    NotThere {
        /// Its name.
        interface: String,
        /// The number it was expected to have.
        ifindex: u32,
    },
    /// The watch cannot be written or read.
    #[error("the watch of {interface}: {error}")]
    Watch {
        /// Name of the tap.
        interface: String,
        /// What the kernel said.
        #[source]
        error: MapError,
    },
    /// The program cannot be attached.
    #[error("cannot attach to {interface}: {error}")]
    Attach {
        /// Name of the tap.
        interface: String,
        /// Why.
        #[source]
        error: AttachError,
    },
}

/// A tap is still watched.
#[derive(Debug, thiserror::Error)]
pub enum DisarmError {
    /// The program cannot be detached.
    #[error("cannot detach from interface {ifindex}: {error}")]
    Detach {
        /// Number of the tap.
        ifindex: u32,
        /// Why.
        #[source]
        error: AttachError,
    },
    /// The watch or its evidence cannot be removed.
    #[error("the watch of interface {ifindex}: {error}")]
    Watch {
        /// Number of the tap.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        error: MapError,
    },
}

/// A map cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("maps of the kernel program: {0}")]
pub struct ReadError(#[from] MapError);

/// Something that the agent left is still there.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A pin cannot be read or removed.
    #[error("{step} {path}: {error}")]
    File {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// Somebody works with the pins, or they cannot be locked.
    #[error(transparent)]
    Locked(#[from] Box<OpenError>),
    /// A filter or qdisc of tc cannot be read or removed.
    #[error(transparent)]
    Clsact(#[from] ClsactError),
}

/// Whether the operating system said at the bottom of it that this process may not.
pub fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}
