#!/usr/bin/env bash
# Turning IPv6 forwarding on for one interface removes the default route that another interface has learned.
#
# What is surprising. net.ipv6.conf.tap0.forwarding is a setting of tap0. One would expect that writing 1 to it changes what that
# interface does. The kernel also removes every default route that router advertisements have brought, on all interfaces, although
# the uplink goes on as it was: its own `forwarding` stays 0, its `accept_ra` stays 1, and the next advertisement brings the route
# back. Until then the host has no IPv6 default route; routers advertise every 200 to 600 s (RFC 4861, 6.2.1), and the host asks none.
# A route of an uplink with accept_ra = 2 stays; net.ipv6.conf.all.forwarding need not be touched at all for this.
#
# Why: a change of a single interface ends in rt6_purge_dflt_routers, which goes through all tables (addrconf_fixup_forwarding in
# net/ipv6/addrconf.c).
#
# Seen with Linux 6.18.44, radvd 2.19 of Debian 12, iproute2 6.1.0-3: accept_ra = 1: a default route before, none after the write to
# tap0, none 5 s later, forwarding of the uplink 0; after the next advertisement it was there again and stayed. accept_ra = 2: it stayed.
#
# Who is hurt: whoever prepares taps or container interfaces one by one instead of the whole host (hypervisors, CNI plug-ins): the first
# virtual machine of a host cuts the host itself off for up to ten minutes, and nothing in a log says so.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, veth and tap. Takes about 30 s.
set -euo pipefail

[ "$(id -u)" = 0 ] && [ -c /dev/net/tun ] || { echo "needs root and /dev/net/tun" >&2; exit 2; }
folder=$(mktemp -d)
processes=()
finish() {
    [ ${#processes[@]} = 0 ] || kill "${processes[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

apt-get download -qq radvd=1:2.19-1+b1 iproute2=6.1.0-3 libbpf1=1:1.1.2-0+deb12u1 libmnl0=1.0.4-3 libelf1=0.188-2.1 \
    >/dev/null 2>&1 || { echo "cannot download radvd 2.19, iproute2 6.1.0-3 and their libraries from Debian 12" >&2; exit 2; }
for package in ./*.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu"
ip="$folder/root/bin/ip" radvd="$folder/root/usr/sbin/radvd"

# Two namespaces without names: they are gone with their last process.
own=$(readlink /proc/self/ns/net)
unshare --net sleep 110 & router=$!
unshare --net sleep 110 & host=$!
processes+=("$router" "$host")
for holder in $router $host; do
    until [ "$(readlink /proc/$holder/ns/net)" != "$own" ]; do sleep 0.01; done
done
on() { local holder=$1; shift; nsenter --net="/proc/$holder/ns/net" "$@"; }
# /proc/sys/net is that of the namespace of whoever reads it.
get() { on $host cat "/proc/sys/net/ipv6/conf/$1"; }
set_to() { on $host sh -c "echo $2 > /proc/sys/net/ipv6/conf/$1"; }
has_default() { on $host "$ip" -6 route show default | grep -q 'proto ra'; }
# until_so SECONDS COMMAND...
until_so() { local end=$((SECONDS + $1)); shift; until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done; }

on $router "$ip" link add down0 type veth peer name uplink netns $host
on $router sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/forwarding'
on $router "$ip" link set down0 up
on $host "$ip" link set lo up
on $host "$ip" tuntap add dev tap0 mode tap
on $host "$ip" link set tap0 up
set_to uplink/forwarding 0
set_to uplink/accept_ra 1
on $host "$ip" link set uplink up

# It advertises when it starts and when somebody asks, and then not for minutes.
printf 'interface down0 { AdvSendAdvert on; MinRtrAdvInterval 200; MaxRtrAdvInterval 600; AdvDefaultLifetime 1800; };\n' > radvd.conf
nsenter --net="/proc/$router/ns/net" "$radvd" --nodaemon --config "$folder/radvd.conf" --pidfile "$folder/pid" \
    --logmethod stderr_syslog 2> radvd.log & daemon=$!
processes+=("$daemon")
advertise() { kill -HUP "$daemon"; }

state() { has_default && echo "default route" || echo "no default route"; }
until_so 20 has_default || { echo "no advertisement was heard" >&2; cat radvd.log >&2; exit 2; }
# The first advertisements come in a row.
sleep 6
echo "kernel $(uname -r)"
echo "accept_ra = 1, before: $(state)"
before=$(state)
set_to tap0/forwarding 1
after=$(state)
sleep 5
later=$(state)
echo "after tap0/forwarding = 1: $after, 5 s later: $later; uplink/forwarding = $(get uplink/forwarding), uplink/accept_ra = $(get uplink/accept_ra)"
uplink="$(get uplink/forwarding) $(get uplink/accept_ra)"
advertise
until_so 20 has_default && again="default route" || again="no default route"
echo "after the next advertisement: $again"

set_to tap0/forwarding 0
set_to uplink/accept_ra 2
advertise
until_so 20 has_default || { echo "no advertisement was heard" >&2; exit 2; }
sleep 1
set_to tap0/forwarding 1
kept=$(state)
echo "accept_ra = 2, after tap0/forwarding = 1: $kept"

if [ "$before" = "default route" ] && [ "$after" = "no default route" ] && [ "$later" = "no default route" ] &&
    [ "$uplink" = "0 1" ] && [ "$again" = "default route" ] && [ "$kept" = "default route" ]; then
    echo "as described: a setting of one interface took another one's default route away"
else
    echo "not as described" >&2
    exit 1
fi
