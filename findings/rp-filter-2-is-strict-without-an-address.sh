#!/usr/bin/env bash
# rp_filter = 2 ("loose") drops like 1 ("strict") on an interface that has no IPv4 address.
#
# What is surprising. With rp_filter = 2 the kernel is to take a packet whose source can be reached by any interface (RFC 3704, 2.4;
# ip-sysctl.rst of the kernel). On an interface without an IPv4 address it drops the packet if the way back to the source does
# not lead out of this very interface, as with 1: there is no value of rp_filter but 0 that lets such a packet in. One address is enough, any
# one, also one of 127.0.0.0/8 with scope host that nobody can reach, and the same packets are taken.
#
# Why: without an address the kernel does not look again without the interface, but goes to its last resort, which drops whenever
# rp_filter is not 0 (no_addr in __fib_validate_source, net/ipv4/fib_frontend.c).
#
# Seen with Linux 6.18.44, iproute2 6.1.0-3, bash's /dev/udp: rp_filter = 2, 20 datagrams each: without an address 20 counted as
# TcpExtIPReversePathFilter; with 127.0.99.1/32 scope host on the interface 0; without an address and rp_filter = 0 none.
#
# Who is hurt: whoever routes packets into a host through interfaces that need no address and sets 2 because routing is asymmetric: tunnels
# with metadata (VXLAN, Geneve, GRE "external"), taps and veth of L3-routed virtual machines and containers, unnumbered links. The maximum of `all`
# and the interface counts, so a distribution's 2 for `all` is enough. Nothing is logged without log_martians.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root and veth. Takes about 5 s.
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
folder=$(mktemp -d)
processes=()
finish() {
    [ ${#processes[@]} = 0 ] || kill "${processes[@]}" 2>/dev/null || true
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

# Namespaces without names: they are gone with their last process.
own=$(readlink /proc/self/ns/net)
unshare --net sleep 60 & sender=$!
unshare --net sleep 60 & host=$!
processes+=("$sender" "$host")
for holder in $sender $host; do
    until [ "$(readlink /proc/$holder/ns/net)" != "$own" ]; do sleep 0.01; done
done
on() { local holder=$1; shift; nsenter --net="/proc/$holder/ns/net" "$@"; }
set_to() { on $host sh -c "echo $2 > /proc/sys/net/ipv4/conf/$1"; }

# in0 has no address. The way back to the sender, 192.0.2.5, leads out of another interface.
on $host "$ip" link add in0 type veth peer name out0 netns $sender
on $host "$ip" link add up0 type veth peer name idle0
for link in lo in0 up0 idle0; do on $host "$ip" link set $link up; done
on $host "$ip" addr add 198.51.100.1/24 dev up0
on $host "$ip" route add 192.0.2.0/24 via 198.51.100.2
set_to all/rp_filter 0
on $sender "$ip" link set out0 up
on $sender "$ip" addr add 192.0.2.5/32 dev out0
mac=$(on $host "$ip" -o link show in0 | sed "s/.*link.ether \([0-9a-f:]*\).*/\1/")
on $sender "$ip" neigh add 198.51.100.1 lladdr "$mac" dev out0 nud permanent
on $sender "$ip" route add 198.51.100.1 dev out0 src 192.0.2.5

# How many packets the reverse path has cost so far.
dropped() { on $host awk '/^TcpExt:/ { if (!n) { n = split($0, name) } else { split($0, value); for (i = 1; i <= n; i++) if (name[i] == "IPReversePathFilter") print value[i] } }' /proc/self/net/netstat; }
# Sends 20 datagrams: sets `lost`.
try() {
    local before; before=$(dropped)
    for _ in $(seq 20); do on $sender bash -c 'echo x > /dev/udp/198.51.100.1/9'; done
    sleep 0.2
    lost=$(($(dropped) - before))
    echo "$1: $lost of 20 dropped by the reverse path filter"
}

set_to in0/rp_filter 2
try "rp_filter = 2, no address"; without=$lost
on $host "$ip" addr add 127.0.99.1/32 dev in0 scope host
try "rp_filter = 2, 127.0.99.1/32 of scope host"; with=$lost
on $host "$ip" addr del 127.0.99.1/32 dev in0
set_to in0/rp_filter 0
try "rp_filter = 0, no address"; off=$lost

[ "$without" = 20 ] && [ "$with" = 0 ] && [ "$off" = 0 ] || { echo "not as described" >&2; exit 1; }
echo "as described: the loose check needs an address, whichever it is"
