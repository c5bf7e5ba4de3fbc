//! Streams from a client to a guest, and what became of them. A [`DatagramStream`] asks the echo port with numbered
//! datagrams, one in each period; a [`ByteStream`] is one long TCP connection with traffic both ways. They
//! record times on CLOCK_BOOTTIME and judge nothing: that is [`DatagramRecord`]'s and [`ByteRecord`]'s business.

#![expect(unsafe_code, reason = "getsockopt(2) with TCP_INFO")]

mod record;

pub use record::{ByteRecord, DatagramRecord, Gap};

use crate::namespace::Namespace;
use crate::vm::ECHO_PORT;
use crate::wait;
use cutover_daemon::clock;
use cutover_engine::BootTime;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two datagrams where times are measured.
pub const PERIOD: Duration = Duration::from_millis(1);

/// Between two datagrams where only their order counts.
///
/// LIMIT: an emulated guest that gets a sixth of a processor answers some hundred datagrams in a second. Whatever is more than
/// that only fills queues.
pub const SLOW_PERIOD: Duration = Duration::from_millis(5);

/// Between two writes to a byte stream.
const WRITE_PERIOD: Duration = Duration::from_millis(5);

/// LIMIT: how long the answer to the last datagram may take, from a guest that others have left behind with its work.
const LAST_ANSWER: Duration = Duration::from_secs(20);

/// LIMIT: some seconds of answers, if the receiver is not scheduled for so long.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// LIMIT: a stream that cannot connect or is stuck fails its test after this long.
const STUCK: Duration = Duration::from_secs(60);

/// A stream of numbered datagrams under way.
#[derive(Debug)]
pub struct DatagramStream {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Vec<BootTime>>>,
    receiver: Option<JoinHandle<Vec<(usize, BootTime)>>>,
    answered: Arc<AtomicUsize>,
}

impl DatagramStream {
    /// Begins to ask the guest at `address` from `namespace`.
    ///
    /// # Panics
    /// When there is no socket to be had.
    #[must_use]
    pub fn start(namespace: &Namespace, address: IpAddr, period: Duration) -> Self {
        let socket = namespace.run(|| UdpSocket::bind((unspecified(address), 0))).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).expect("it needs root");
        let answers = socket.try_clone().expect("a descriptor");
        let stop = Arc::new(AtomicBool::new(false));
        let stop_sending = Arc::clone(&stop);
        let (say_last, last) = mpsc::channel();
        let to = SocketAddr::new(address, ECHO_PORT);
        let sender = std::thread::spawn(move || {
            let sent = send(&socket, to, period, &stop_sending);
            // The receiver ends no earlier than this.
            let _ = say_last.send(sent.len() - 1);
            sent
        });
        let answered = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&answered);
        let receiver = std::thread::spawn(move || receive(&answers, &last, &count));
        Self { stop, sender: Some(sender), receiver: Some(receiver), answered }
    }

    /// How many answers have come until now.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops asking; the answers go on coming.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Stops asking, and says what became of every datagram.
    ///
    /// # Panics
    /// When a thread has.
    #[must_use]
    pub fn finish(mut self) -> DatagramRecord {
        self.stop();
        let sent = self.sender.take().map(|thread| thread.join().expect("the sender"));
        let answered = self.receiver.take().map(|thread| thread.join().expect("the receiver"));
        DatagramRecord::new(sent.unwrap_or_default(), &answered.unwrap_or_default())
    }
}

impl Drop for DatagramStream {
    fn drop(&mut self) {
        self.stop();
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}

/// Waits until each of these streams has so many answers more.
///
/// # Panics
/// When one has not.
#[track_caller]
pub fn wait_answered(streams: &[DatagramStream], more: usize) {
    let before: Vec<_> = streams.iter().map(DatagramStream::answered).collect();
    wait::until(wait::SOON, format_args!("{more} answers more"), || {
        streams.iter().zip(&before).all(|(stream, before)| stream.answered() >= before + more)
    });
}

/// Sends at least one datagram.
fn send(socket: &UdpSocket, to: SocketAddr, period: Duration, stop: &AtomicBool) -> Vec<BootTime> {
    let mut sent = Vec::new();
    let mut next = clock::now();
    loop {
        let number = u64::try_from(sent.len()).expect("a number of datagrams");
        sent.push(clock::now());
        // What cannot be sent for want of a route is lost like any other.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        if stop.load(Ordering::Relaxed) {
            return sent;
        }
        next = next + period;
        sleep_until(next);
    }
}

/// Until the last datagram, whose number comes through `last`, is answered. All go the same way, so whatever is not
/// answered then is lost.
fn receive(socket: &UdpSocket, last: &mpsc::Receiver<usize>, count: &AtomicUsize) -> Vec<(usize, BootTime)> {
    let mut answered = Vec::new();
    let mut highest = None;
    let mut end: Option<(usize, BootTime)> = None;
    let mut buffer = [0; 64];
    loop {
        if let Ok((8, _)) = socket.recv_from(&mut buffer) {
            let at = clock::now();
            let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight bytes"));
            let number = usize::try_from(number).expect("a number that was sent");
            highest = highest.max(Some(number));
            answered.push((number, at));
            count.store(answered.len(), Ordering::Relaxed);
        }
        end = end.or_else(|| Some((last.try_recv().ok()?, clock::now())));
        if let Some((last, stopped_at)) = end
            && (highest == Some(last) || clock::now().since(stopped_at) > LAST_ANSWER)
        {
            return answered;
        }
    }
}

/// A TCP connection under way.
#[derive(Debug)]
pub struct ByteStream {
    stop: Arc<AtomicBool>,
    socket: TcpStream,
    longest_timeout_us: Arc<AtomicU64>,
    writer: Option<JoinHandle<io::Result<u64>>>,
    reader: Option<JoinHandle<ByteRecord>>,
}

impl ByteStream {
    /// Connects to the guest at `address` from `namespace` and begins to talk.
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    pub fn start(namespace: &Namespace, address: IpAddr) -> Self {
        let to = SocketAddr::new(address, ECHO_PORT);
        let socket = namespace.run(|| TcpStream::connect_timeout(&to, STUCK)).expect("the guest takes it");
        socket.set_nodelay(true).expect("a socket");
        socket.set_read_timeout(Some(STUCK)).expect("a socket");
        socket.set_write_timeout(Some(STUCK)).expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let stop_writing = Arc::clone(&stop);
        let (to_write, to_read) =
            (socket.try_clone().expect("a descriptor"), socket.try_clone().expect("a descriptor"));
        let longest_timeout_us = Arc::<AtomicU64>::default();
        let timeouts = Arc::clone(&longest_timeout_us);
        let writer = std::thread::spawn(move || write(to_write, &stop_writing, &timeouts));
        let reader = std::thread::spawn(move || read(to_read));
        Self { stop, socket, longest_timeout_us, writer: Some(writer), reader: Some(reader) }
    }

    /// The longest that the client has waited so far for an acknowledgement before it sent again: each attempt in vain doubles it.
    #[must_use]
    pub fn longest_retransmission_timeout(&self) -> Duration {
        Duration::from_micros(self.longest_timeout_us.load(Ordering::Relaxed))
    }

    /// How long the client waits now for an acknowledgement before it sends again.
    ///
    /// # Panics
    /// Never for a TCP socket.
    #[must_use]
    pub fn retransmission_timeout(&self) -> Duration {
        retransmission_timeout(&self.socket)
    }

    /// Stops talking, waits for everything that is still to come, and says what happened.
    ///
    /// # Panics
    /// When the connection broke, or when something was lost in it.
    #[must_use]
    pub fn finish(mut self) -> ByteRecord {
        self.stop.store(true, Ordering::Relaxed);
        let writer = self.writer.take().expect("only finishing takes it");
        let written = writer.join().expect("the writer").expect("the connection lasts");
        let reader = self.reader.take().expect("only finishing takes it");
        let record = reader.join().expect("the reader");
        assert_eq!(record.received(), written, "bytes of the stream are missing");
        record
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.writer.is_some() {
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
        }
        let _ = self.writer.take().map(JoinHandle::join);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// The kernel's RTO, which grows with each retransmission in vain (`tcpi_rto` of linux/tcp.h, in microseconds).
fn retransmission_timeout(socket: &TcpStream) -> Duration {
    // SAFETY: all zeros are a valid tcp_info, which is made of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).expect("a small structure");
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
    Duration::from_micros(info.tcpi_rto.into())
}

fn write(mut socket: TcpStream, stop: &AtomicBool, longest_timeout_us: &AtomicU64) -> io::Result<u64> {
    let mut written: u64 = 0;
    let mut next = clock::now();
    while !stop.load(Ordering::Relaxed) {
        socket.write_all(&written.to_be_bytes())?;
        written += 8;
        let timeout_us = u64::try_from(retransmission_timeout(&socket).as_micros()).unwrap_or(u64::MAX);
        longest_timeout_us.fetch_max(timeout_us, Ordering::Relaxed);
        next = next + WRITE_PERIOD;
        sleep_until(next);
    }
    // The guest closes its side when it has sent everything back.
    socket.shutdown(std::net::Shutdown::Write)?;
    Ok(written)
}

fn read(mut socket: TcpStream) -> ByteRecord {
    let mut record = ByteRecord::new(clock::now());
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = socket.read(&mut buffer) {
        record.arrived(clock::now(), &buffer[..length]);
    }
    record
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Sleeps until a time on CLOCK_BOOTTIME, or a little less.
///
/// # Panics
/// Never in this century.
pub fn sleep_until(time: BootTime) {
    let time = TimeSpec::nanoseconds(i64::try_from(time.0).expect("a time of this century"));
    // Woken early by a signal, a datagram is sent early; nothing depends on that.
    let _ = clock_nanosleep(ClockId::CLOCK_BOOTTIME, ClockNanosleepFlags::TIMER_ABSTIME, &time);
}
