#!/usr/bin/env bash
# nix 0.31: if_indextoname of an interface that does not exist is Ok, with an empty name.
#
# What is surprising. if_indextoname(3) returns a null pointer when there is no such interface (errno ENXIO). The Rust crate nix wraps it
# and returns a Result, so one would expect Err(ENXIO), as its if_nametoindex has it (ENODEV). It is Ok(""): nix compares the pointer
# with -1, which is what its functions that return an untyped pointer mean by a failure (mmap), and reads the name from a buffer of zeros.
#
# Seen with nix 0.31.3, Rust 1.95, Linux 6.18.44: index of lo: Ok("lo"); index 999999: Ok(""); the name of no interface: Err(ENODEV).
#
# Who is hurt: daemons that find out whether an interface is still there, or that look up the name for a number in a netlink message
# whose interface has just gone: they go on with an interface that is called "", write to /proc/sys/net/ipv4/conf//rp_filter (which is
# no file of an interface) or log nothing where the name should be.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs cargo. Takes about 20 s.
set -euo pipefail

command -v cargo >/dev/null || { echo "needs cargo" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "look"
version = "0.0.0"
edition = "2021"

[dependencies]
nix = { version = "=0.31.3", default-features = false, features = ["net"] }

[workspace]
TOML
cat > src/main.rs <<'RUST'
fn main() {
    let lo = nix::net::if_::if_nametoindex("lo").expect("every namespace has one");
    println!("the index of lo: {:?}", nix::net::if_::if_indextoname(lo));
    println!("index 999999: {:?}", nix::net::if_::if_indextoname(999_999));
    println!("the name of no interface: {:?}", nix::net::if_::if_nametoindex("nosuchinterface"));
}
RUST
CARGO_TARGET_DIR="$folder/target" cargo build --quiet || { echo "cannot build with nix 0.31.3" >&2; exit 2; }
"$folder/target/debug/look" | tee seen

if grep -qx 'index 999999: Ok("")' seen && grep -qx 'the index of lo: Ok("lo")' seen &&
    grep -qx 'the name of no interface: Err(ENODEV)' seen; then
    echo "as described: the interface that does not exist has an empty name"
else
    echo "not as described" >&2
    exit 1
fi
