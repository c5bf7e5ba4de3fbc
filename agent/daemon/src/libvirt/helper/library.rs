//! The few functions of libvirt's public interface that are needed, found at run time. Everything that is unsafe about
//! the helper is in here, and nothing else.
//!
//! All of them are in libvirt 1.0.6 (2013) and every later one: the library's interface only grows, and its name stays
//! `libvirt.so.0`. There is one connection in the life of the process, so what the library calls back is kept in statics.

#![expect(unsafe_code, reason = "calls libvirt's library, which is loaded when it is there")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::fmt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

const NAME: &CStr = c"libvirt.so.0";

/// `VIR_CONNECT_LIST_DOMAINS_ACTIVE`.
const ACTIVE: c_uint = 1;
/// `VIR_DOMAIN_EVENT_ID_LIFECYCLE`.
const LIFECYCLE: c_int = 0;
/// `VIR_UUID_STRING_BUFLEN`.
const UUID_BYTES: usize = 37;

/// LIMIT: the daemon is asked for a sign of life after five seconds of silence, and given up after three without an answer.
const KEEP_ALIVE_EVERY_S: c_int = 5;
const KEEP_ALIVE_COUNT: c_uint = 3;

/// A pointer that only the library looks behind: `virConnectPtr`, `virDomainPtr`.
type Opaque = *mut c_void;

type LifecycleCallback = extern "C" fn(Opaque, Opaque, c_int, c_int, Opaque) -> c_int;
type CloseCallback = extern "C" fn(Opaque, c_int, Opaque);
type TimeoutCallback = extern "C" fn(c_int, Opaque);
type FreeCallback = Option<extern "C" fn(Opaque)>;

/// Declares the functions with their types of libvirt's headers, and how they are found.
macro_rules! functions {
    ($($field:ident = $name:literal: $type:ty;)*) => {
        /// What is needed of the library.
        pub(super) struct Library {
            $($field: $type,)*
        }

        impl Library {
            fn of(handle: *mut c_void) -> Result<Self, String> {
                Ok(Self {
                    $($field: {
                        let address = symbol(handle, $name)?;
                        // SAFETY: it is the address of the function of this name, which has this type in libvirt's headers.
                        unsafe { std::mem::transmute::<*mut c_void, $type>(address) }
                    },)*
                })
            }
        }
    };
}

functions! {
    get_version = c"virGetVersion": unsafe extern "C" fn(*mut c_ulong, *const c_char, *mut c_ulong) -> c_int;
    last_error = c"virGetLastErrorMessage": unsafe extern "C" fn() -> *const c_char;
    register_loop = c"virEventRegisterDefaultImpl": unsafe extern "C" fn() -> c_int;
    run_loop = c"virEventRunDefaultImpl": unsafe extern "C" fn() -> c_int;
    add_timeout = c"virEventAddTimeout":
        unsafe extern "C" fn(c_int, TimeoutCallback, Opaque, FreeCallback) -> c_int;
    open_read_only = c"virConnectOpenReadOnly": unsafe extern "C" fn(*const c_char) -> Opaque;
    library_version_of = c"virConnectGetLibVersion": unsafe extern "C" fn(Opaque, *mut c_ulong) -> c_int;
    set_keep_alive = c"virConnectSetKeepAlive": unsafe extern "C" fn(Opaque, c_int, c_uint) -> c_int;
    register_close = c"virConnectRegisterCloseCallback":
        unsafe extern "C" fn(Opaque, CloseCallback, Opaque, FreeCallback) -> c_int;
    register_event = c"virConnectDomainEventRegisterAny":
        unsafe extern "C" fn(Opaque, Opaque, c_int, LifecycleCallback, Opaque, FreeCallback) -> c_int;
    list_domains = c"virConnectListAllDomains": unsafe extern "C" fn(Opaque, *mut *mut Opaque, c_uint) -> c_int;
    domain_uuid = c"virDomainGetUUIDString": unsafe extern "C" fn(Opaque, *mut c_char) -> c_int;
    domain_state = c"virDomainGetState": unsafe extern "C" fn(Opaque, *mut c_int, *mut c_int, c_uint) -> c_int;
    free_domain = c"virDomainFree": unsafe extern "C" fn(Opaque) -> c_int;
}

static LIBRARY: OnceLock<Library> = OnceLock::new();
static ON_EVENT: OnceLock<OnEvent> = OnceLock::new();
static ON_TIME: OnceLock<fn()> = OnceLock::new();

/// Why the connection was closed, once it is.
static CLOSED: AtomicI32 = AtomicI32::new(OPEN);
const OPEN: i32 = -1;

/// Takes an event: the domain's UUID, the number of the event and that of its detail.
pub(super) type OnEvent = fn(Option<String>, i32, i32);

/// A connection to a daemon. It is closed with the process.
pub(super) struct Connection {
    library: &'static Library,
    pointer: Opaque,
}

/// A domain as it was when it was asked about.
pub(super) struct Active {
    pub(super) uuid: Option<String>,
    /// State and reason.
    pub(super) state: Option<(i32, i32)>,
}

/// Why a connection was closed (`virConnectCloseReason`).
pub(super) struct Closed(i32);

impl Library {
    /// Loads it. Its own constructors run here, and its functions from now on.
    pub(super) fn load() -> Result<&'static Self, String> {
        // SAFETY: the name ends with a zero. What the library does when it is loaded is up to whoever installed it for root.
        let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            return Err(loader_error());
        }
        let library = Self::of(handle)?;
        Ok(LIBRARY.get_or_init(|| library))
    }

    /// Its version.
    pub(super) fn version(&self) -> String {
        let mut number = 0;
        // SAFETY: the number is written to; no hypervisor is asked about.
        let result = unsafe { (self.get_version)(&raw mut number, ptr::null(), ptr::null_mut()) };
        version(result, number)
    }

    /// What went wrong last in this thread.
    pub(super) fn last_error(&self) -> String {
        // SAFETY: it takes nothing.
        let text = unsafe { (self.last_error)() };
        // SAFETY: it is null or a text that lives until the next call from this thread.
        unsafe { text_at(text) }.unwrap_or_default()
    }

    /// Makes the library's own event loop the one that its connections use.
    pub(super) fn prepare_loop(&self) -> bool {
        // SAFETY: there is no connection and no other loop yet.
        unsafe { (self.register_loop)() == 0 }
    }

    /// Calls this from the loop, over and over. The first function that is given is the only one.
    pub(super) fn call_every(&self, period: Duration, on_time: fn()) -> bool {
        ON_TIME.get_or_init(|| on_time);
        let period_ms = c_int::try_from(period.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the callback needs nothing but statics.
        unsafe { (self.add_timeout)(period_ms, on_timeout, ptr::null_mut(), None) >= 0 }
    }

    /// Connects to the daemon that serves this URI. That takes as long as the daemon likes.
    pub(super) fn open_read_only(&'static self, uri: &str) -> Option<Connection> {
        let uri = CString::new(uri).ok()?;
        // SAFETY: the text ends with a zero, and the library keeps no pointer to it.
        let pointer = unsafe { (self.open_read_only)(uri.as_ptr()) };
        (!pointer.is_null()).then_some(Connection { library: self, pointer })
    }

    fn uuid(&self, domain: Opaque) -> Option<String> {
        let mut text = [0 as c_char; UUID_BYTES];
        // SAFETY: the domain is one that the library gave, and is not freed yet; the text has room for any UUID.
        let result = unsafe { (self.domain_uuid)(domain, text.as_mut_ptr()) };
        if result != 0 {
            return None;
        }
        // SAFETY: the library has written a text with its end.
        unsafe { text_at(text.as_ptr()) }
    }
}

impl Connection {
    /// Notices a daemon that is gone or hangs.
    pub(super) fn watch_over(&self) -> bool {
        // SAFETY: the connection is open; the callback needs nothing but statics.
        let registered =
            unsafe { (self.library.register_close)(self.pointer, on_close, ptr::null_mut(), None) };
        // SAFETY: the connection is open.
        let set =
            unsafe { (self.library.set_keep_alive)(self.pointer, KEEP_ALIVE_EVERY_S, KEEP_ALIVE_COUNT) };
        // One: a daemon that knows no sign of life, from before 0.9.8. It is noticed when it is gone.
        registered == 0 && set >= 0
    }

    /// Has events collected, and handed to this from the loop. The first function that is given is the only one.
    pub(super) fn collect_events(&self, on_event: OnEvent) -> bool {
        ON_EVENT.get_or_init(|| on_event);
        let every_domain = ptr::null_mut();
        // SAFETY: the connection is open; the callback has the type of this kind of events and needs nothing but statics.
        let result = unsafe {
            (self.library.register_event)(
                self.pointer,
                every_domain,
                LIFECYCLE,
                on_lifecycle,
                ptr::null_mut(),
                None,
            )
        };
        result >= 0
    }

    /// The version of the daemon.
    pub(super) fn daemon_version(&self) -> String {
        let mut number = 0;
        // SAFETY: the connection is open, and the number is written to.
        let result = unsafe { (self.library.library_version_of)(self.pointer, &raw mut number) };
        version(result, number)
    }

    /// Every domain that has a process.
    pub(super) fn active_domains(&self) -> Option<Vec<Active>> {
        let mut array = ptr::null_mut();
        // SAFETY: the connection is open; the array is the library's, and this one's to free if the answer is a number.
        let count = unsafe { (self.library.list_domains)(self.pointer, &raw mut array, ACTIVE) };
        let count = usize::try_from(count).ok()?;
        let mut domains = Vec::with_capacity(count);
        for place in 0..count {
            // SAFETY: there are this many.
            let domain = unsafe { array.add(place) };
            // SAFETY: each is a pointer that the library has put there.
            let domain = unsafe { domain.read() };
            domains.push(Active { uuid: self.library.uuid(domain), state: self.state(domain) });
            // SAFETY: nobody has it any more.
            unsafe { (self.library.free_domain)(domain) };
        }
        // SAFETY: the library allocated it with malloc, as its documentation says, and all of it is read.
        unsafe { libc::free(array.cast()) };
        Some(domains)
    }

    fn state(&self, domain: Opaque) -> Option<(i32, i32)> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the domain is not freed yet, and both numbers are written to.
        let result = unsafe { (self.library.domain_state)(domain, &raw mut state, &raw mut reason, 0) };
        (result == 0).then_some((state, reason))
    }

    /// Runs the loop until the connection is closed; nothing if the loop itself fails.
    pub(super) fn run_loop(&self) -> Option<Closed> {
        loop {
            match CLOSED.load(Ordering::Relaxed) {
                OPEN => {}
                reason => return Some(Closed(reason)),
            }
            // SAFETY: the loop is registered, and only this thread runs it.
            if unsafe { (self.library.run_loop)() } != 0 {
                return None;
            }
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("the daemon has ended"),
            2 => f.write_str("the daemon gives no sign of life"),
            reason => write!(f, "the connection was closed (reason {reason})"),
        }
    }
}

extern "C" fn on_lifecycle(_: Opaque, domain: Opaque, event: c_int, detail: c_int, _: Opaque) -> c_int {
    if let (Some(library), Some(on_event)) = (LIBRARY.get(), ON_EVENT.get()) {
        on_event(library.uuid(domain), event, detail);
    }
    // What the library does not look at.
    0
}

extern "C" fn on_close(_: Opaque, reason: c_int, _: Opaque) {
    CLOSED.store(reason.max(0), Ordering::Relaxed);
}

extern "C" fn on_timeout(_: c_int, _: Opaque) {
    if let Some(on_time) = ON_TIME.get() {
        on_time();
    }
}

/// Where a function is.
fn symbol(handle: *mut c_void, name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the library is loaded, and the name ends with a zero.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if address.is_null() { Err(loader_error()) } else { Ok(address) }
}

fn loader_error() -> String {
    // SAFETY: it takes nothing, and only this thread loads anything.
    let text = unsafe { libc::dlerror() };
    // SAFETY: it is null or a text that lives until the next call.
    unsafe { text_at(text) }.unwrap_or_else(|| format!("{} cannot be loaded", NAME.to_string_lossy()))
}

/// A copy of a text of C's.
///
/// # Safety
/// It is null, or ends with a zero and does not change meanwhile.
unsafe fn text_at(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's word.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

/// As people write a number of libvirt's.
fn version(result: c_int, number: c_ulong) -> String {
    if result != 0 {
        return "unknown".to_owned();
    }
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}
