//! The agents of the two hosts of a migration talk to each other: records in a real etcd, real TLS, hosts of the lab.

mod records;
mod site;
mod speed;
