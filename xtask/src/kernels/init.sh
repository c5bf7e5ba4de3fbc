#!/bin/busybox sh
# Process 1 of the guests of `cargo xtask test kernels`: makes what a booted system has, runs the test programs that /plan names, one
# a line, and says on the console how each ended. Judges nothing: that is for the host, which reads the console.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
# Every instruction is emulated.
export CUTOVER_TEST_PATIENCE=6

say() { echo "kernels: $*"; }

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t bpf bpf /sys/fs/bpf
# Nothing here loads a module when the kernel asks for one.
while read -r module; do
    insmod "/modules/$module" || say "cannot load $module"
done </modules/order
ip link set lo up

say "running $(uname -r)"
while read -r program arguments; do
    say "$program begins"
    # shellcheck disable=SC2086 # these are several words
    "/target/debug/deps/$program" $arguments </dev/null 2>&1
    say "$program ended with $?"
done </plan
say "log of the kernel"
dmesg
say "end"
poweroff -f
