//! Process 1 of the lab's guests: brings up what the kernel command line says and answers on the echo port, by UDP
//! and by TCP. Runs nowhere else; whatever goes wrong is said on the console, where the lab reads it.

mod command_line;

use command_line::Interface;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

/// Where the lab's probes ask.
const ECHO_PORT: u16 = 7;

/// What the lab waits for on the console.
const READY: &str = "cutover-guest: ready";

/// LIMIT: what waits in the longest queue of a tap, 10,000 small datagrams, for each of which the kernel counts the buffer that virtio
/// has received it in, more than 2 KB.
const RECEIVE_BUFFER_BYTES: &str = "33554432";

/// LIMIT: half of the guest's memory, in pages; the kernel would allow datagrams less than that buffer otherwise.
const DATAGRAM_PAGES: &str = "16384 16384 16384";

/// LIMIT: virtio devices show up within milliseconds after their driver; slower means never.
const DEVICE_WITHIN: Duration = Duration::from_secs(5);

type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        say("this is process 1 of a guest, not a program to start");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => say(READY),
        Err(error) => say(&format!("cutover-guest: {error}")),
    }
    // The kernel panics when its first process ends.
    loop {
        thread::park();
    }
}

#[expect(clippy::print_stdout, reason = "the console is all that a guest has")]
fn say(line: &str) {
    println!("{line}");
}

fn run() -> Outcome {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("mounting {target}: {error}"))?;
    }
    load_modules()?;
    // A guest that was not scheduled for a while answers what has come in the meantime.
    for name in ["rmem_max", "rmem_default"] {
        let path = format!("/proc/sys/net/core/{name}");
        fs::write(&path, RECEIVE_BUFFER_BYTES).map_err(|error| format!("{path}: {error}"))?;
    }
    let path = "/proc/sys/net/ipv4/udp_mem";
    fs::write(path, DATAGRAM_PAGES).map_err(|error| format!("{path}: {error}"))?;
    let line = fs::read_to_string("/proc/cmdline").map_err(|error| format!("/proc/cmdline: {error}"))?;
    for interface in command_line::interfaces(&line)? {
        bring_up(&interface)?;
        for address in interface.addresses {
            echo_datagrams(address)?;
        }
    }
    echo_streams()
}

/// In the order of the list, which the lab has sorted by dependency.
fn load_modules() -> Outcome {
    let list = fs::read_to_string("/modules/order").map_err(|error| format!("/modules/order: {error}"))?;
    for name in list.lines() {
        let path = Path::new("/modules").join(name);
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        finit_module(&file, c"", ModuleInitFlags::empty())
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

fn bring_up(interface: &Interface) -> Outcome {
    let name = name_of(&interface.mac)?;
    // Nobody else has these addresses, and waiting for the proof takes longer than the whole boot.
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_dad");
    fs::write(&path, "0").map_err(|error| format!("{path}: {error}"))?;
    ip(&format!("link set {name} up"))?;
    // What answers from an address leaves through the interface that has it, or the host would refuse it (rp_filter).
    let table = 100 + interface.number;
    let tables: &[String] = if interface.number == 0 {
        &[String::new(), format!(" table {table}")]
    } else {
        &[format!(" table {table}")]
    };
    for address in &interface.addresses {
        let (family, length) = if address.is_ipv4() { ("", 32) } else { ("-6 ", 128) };
        ip(&format!("{family}addr add {address}/{length} dev {name}"))?;
        ip(&format!("{family}rule add from {address} lookup {table}"))?;
    }
    for table in tables {
        // The host answers for this address on every tap (proxy_arp), as Calico's guests expect.
        if interface.addresses.iter().any(IpAddr::is_ipv4) {
            ip(&format!("route add 169.254.1.1 dev {name} scope link{table}"))?;
            ip(&format!("route add default via 169.254.1.1 dev {name} onlink{table}"))?;
        }
        if interface.addresses.iter().any(IpAddr::is_ipv6) {
            ip(&format!("-6 route add default via {} dev {name}{table}", interface.gateway))?;
        }
    }
    Ok(())
}

/// The interface with this hardware address.
fn name_of(mac: &str) -> Outcome<String> {
    let deadline = std::time::Instant::now() + DEVICE_WITHIN;
    loop {
        for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            if address.trim() == mac {
                return Ok(entry.file_name().to_string_lossy().into_owned());
            }
        }
        if std::time::Instant::now() > deadline {
            return Err(format!("no interface has the address {mac}"));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn ip(arguments: &str) -> Outcome {
    let output = Command::new("/bin/busybox").arg("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("/bin/busybox: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Each address has a socket of its own, or answers would come from whichever address the route out prefers.
fn echo_datagrams(address: IpAddr) -> Outcome {
    let socket = UdpSocket::bind((address, ECHO_PORT)).map_err(|error| format!("UDP {address}: {error}"))?;
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            // Errors are answers to earlier datagrams that did not arrive: their business is the sender's.
            if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], peer);
            }
        }
    });
    Ok(())
}

fn echo_streams() -> Outcome {
    let everywhere = (Ipv6Addr::UNSPECIFIED, ECHO_PORT);
    let listener = TcpListener::bind(everywhere).map_err(|error| format!("TCP: {error}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo_stream(stream));
        }
    });
    Ok(())
}

fn echo_stream(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
