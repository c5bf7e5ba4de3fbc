#!/usr/bin/env bash
# aya 0.14.0: every new `EbpfLoader` reads and parses the types of the whole kernel, also for who says that it needs none.
#
# What is surprising. `EbpfLoader::new().btf(None)` looks like a loader without the kernel's types (BTF), which only programs with CO-RE relocations or
# of a few kinds need; a socket filter or a classifier does not. But `new` has read and parsed /sys/kernel/btf/vmlinux by then, and there is no
# other way to get a loader: `Ebpf::load` and `Default` call it as well. So a daemon that loads a small object for each event pays for all types
# of the kernel each time, and its allocator may keep the memory.
#
# Seen with aya 0.14.0 without default features, rustc 1.95, release build, Linux 6.18.44 (BTF of 5.5 MB), glibc 2.36, in a process that does nothing else:
# resident memory 1.9 MB before, 24.6 MB at most, 3.4 to 8.6 MB after five loaders were made and dropped; 50 to 80 ms for each of them on a busy machine.
#
# Who is hurt: agents that load an object when it is needed and unload it afterwards, as one does to keep nothing in the kernel: each time costs them tens
# of milliseconds and 20 MB for a moment, which stay in the process where other allocations follow. (Cutover loaded a socket filter for each virtual machine that leaves. It
# keeps it loaded, and gives the memory back.)
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs cargo and a kernel with BTF, no root. About 60 s.
set -euo pipefail

[ -r /sys/kernel/btf/vmlinux ] || { echo "this kernel has no BTF" >&2; exit 2; }
command -v cargo >/dev/null || { echo "needs cargo" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "loader"
version = "0.0.0"
edition = "2021"

[dependencies]
aya = { version = "=0.14.0", default-features = false }
TOML
cat > src/main.rs <<'RUST'
use aya::EbpfLoader;
use std::time::Instant;

fn kib(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let before = kib("VmRSS:");
    let mut micros: Vec<u128> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            drop(EbpfLoader::new().btf(None));
            begun.elapsed().as_micros()
        })
        .collect();
    micros.sort_unstable();
    println!("{before} {} {} {}", kib("VmHWM:"), kib("VmRSS:"), micros[2]);
}
RUST
CARGO_TARGET_DIR="$folder/target" timeout 110 cargo build --release --quiet 2>build.log ||
    { echo "cannot build with aya 0.14.0:" >&2; tail -5 build.log >&2; exit 2; }
read -r before most after micros < <(target/release/loader)
echo "types of the kernel: $(wc -c < /sys/kernel/btf/vmlinux) bytes"
echo "resident memory in KiB: $before before, $most at most, $after after five loaders that were told to use no types"
echo "to make one loader: $micros µs (median)"
if [ $((most - before)) -lt 8192 ]; then
    echo "NOT as described: a loader that needs no types has not read them" >&2
    exit 1
fi
echo "as described"
