//! The etcd datastore with real members: what is read, what is refused, and what an agent does while its cluster is away.

mod access;
mod memory;
mod observe;
mod outages;
mod reading;
mod site;
mod slowness;
mod states;
