#!/usr/bin/env bash
# A thread with a real-time priority that waits for the kernel's lock of links keeps its processor busy until it has the lock.
#
# What is surprising. The lock (RTNL) is a mutex, and who waits for a mutex sleeps, one would think. In fact whoever waits spins for as long as
# the owner runs on another processor, until something else wants the processor (need_resched). For an ordinary thread that is so after
# its slice, a few milliseconds. A thread of SCHED_FIFO has no slice and nothing ordinary is entitled to its processor, so that it spins until
# the owner is done: here a request that deletes some thousand interfaces of another network namespace, hundreds of milliseconds. Everything
# else on that processor stands still meanwhile, although the thread only waits. In the same place an ordinary thread takes a few
# milliseconds of processor time, and has its answer after about as long.
#
# Seen with Linux 6.18.44 (x86-64, 2 processors, preemption: none), iproute2 6.1.0-3 of Debian 12, Python 3.11, medians of three rounds:
# ordinary (SCHED_OTHER): answered after 264 ms, had a processor for 6 ms of that; SCHED_FIFO: answered after 212 ms, had one for 196 ms.
#
# Who is hurt: a daemon that raises its priority in order to change routes or neighbours quickly (a VRRP or BFD daemon, a failover agent) and
# the virtual machines and real-time work on the processor where it waits.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root and two processors. Takes about 20 s.
set -euo pipefail

[ "$(id -u)" = 0 ] && [ "$(nproc)" -ge 2 ] || { echo "needs root and two processors" >&2; exit 2; }
command -v python3 >/dev/null || { echo "needs python3" >&2; exit 2; }
folder=$(mktemp -d)
holders=()
finish() {
    [ ${#holders[@]} = 0 ] || kill "${holders[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

cd "$folder"
apt-get download -qq iproute2=6.1.0-3 libbpf1=1:1.1.2-0+deb12u1 libmnl0=1.0.4-3 libelf1=0.188-2.1 >/dev/null 2>&1 ||
    { echo "cannot download iproute2 6.1.0-3 and its libraries from Debian 12" >&2; exit 2; }
for package in ./*.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu"
ip="$folder/root/bin/ip"
[ -x "$ip" ] || ip="$folder/root/sbin/ip"

# Two namespaces without names: they are gone with their last process.
for _ in here crowd; do
    unshare --net sleep 110 &
    holders+=($!)
    until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
done
here=${holders[0]} crowd=${holders[1]}
nsenter --net=/proc/$here/ns/net "$ip" link set lo up
for number in $(seq 2000); do echo "link add a$number group 77 type veth peer name b$number"; done > links

cat > wait_for_it.py <<'PYTHON'
"""Adds an IPv4 route while interfaces of another namespace are deleted. Prints how long it took, and how long it had a processor, in ms."""
import os, socket, struct, subprocess, sys, threading, time

ip, crowd, policy = sys.argv[1], sys.argv[2], sys.argv[3]
NEWROUTE, REQUEST, ACK, CREATE = 24, 1, 4, 0x400
RTA_DST, RTA_OIF = 1, 4


def route(last):
    """Puts 198.51.100.LAST into the main table."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 4, 253, 1, 0)
    body += struct.pack("=HH4B", 8, RTA_DST, 198, 51, 100, last) + struct.pack("=HHI", 8, RTA_OIF, 1)
    link.send(struct.pack("=IHHII", 16 + len(body), NEWROUTE, REQUEST | ACK | CREATE, last, 0) + body)
    if struct.unpack_from("=i", link.recv(4096), 16)[0] != 0:
        raise SystemExit("the kernel refuses the route")


def waiting():
    os.sched_setscheduler(0, getattr(os, policy), os.sched_param(1 if policy == "SCHED_FIFO" else 0))
    # Somebody has the lock when an ordinary request takes that long.
    began, had = time.monotonic(), time.thread_time()
    route(1)
    result.extend(((time.monotonic() - began) * 1000, (time.thread_time() - had) * 1000))


link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
link.bind((0, 0))
result = []
leaving = subprocess.Popen(["nsenter", f"--net=/proc/{crowd}/ns/net", ip, "link", "delete", "group", "77"])
time.sleep(0.05)
thread = threading.Thread(target=waiting)
thread.start()
thread.join()
leaving.wait()
print(*(round(ms, 1) for ms in result))
PYTHON

median() { sort -n | sed -n 2p; }
for policy in SCHED_OTHER SCHED_FIFO; do
    for _ in 1 2 3; do
        nsenter --net=/proc/$crowd/ns/net "$ip" -batch links
        nsenter --net=/proc/$here/ns/net python3 wait_for_it.py "$ip" "$crowd" "$policy"
        nsenter --net=/proc/$here/ns/net "$ip" route del 198.51.100.1/32
    done > "$policy"
    echo "$policy: answered after $(cut -d' ' -f1 "$policy" | median) ms, had a processor for $(cut -d' ' -f2 "$policy" | median) ms of that"
done
took() { cut -d' ' -f2 "$1" | median; }
if [ "$(awk -v ordinary="$(took SCHED_OTHER)" -v fifo="$(took SCHED_FIFO)" 'BEGIN { print (fifo > 50 && fifo > 5 * ordinary) }')" = 1 ]; then
    echo "as described: the one with a real-time priority spins until it has the lock"
else
    echo "CHANGED: it does not spin longer than the ordinary one" >&2
    exit 1
fi
