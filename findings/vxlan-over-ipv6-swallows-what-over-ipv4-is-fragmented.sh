#!/usr/bin/env bash
# VXLAN fragments over IPv4 and not over IPv6: what a host forwards into the tunnel is lost there without a word.
#
# What is surprising. A VXLAN device whose packets do not fit into the underlay works over IPv4: the outer packet is fragmented, whatever the
# inner one says, because the outer header has no DF by default. The same device over IPv6 loses every packet of that size that the host
# forwards from elsewhere. The sender is not told (no ICMP), nothing is fragmented, and the device counts no error: pings and handshakes
# pass, everything full-size hangs. Packets of the host itself lose only the first one: their socket learns the size.
#
# Why: the device clears `ignore_df` of what it did not make itself, and ip6_fragment answers a packet that is too long and may not be fragmented with
# "too big" to its source address, which is the tunnel's own end; IPv4's ip_fragment asks for DF in the outer header only (net/ipv4/ip_output.c,
# net/ipv6/ip6_output.c, skb_scrub_packet in net/core/skbuff.c).
#
# Seen with Linux 6.18.44, iproute2 6.1.0-3 of Debian 12, bash's /dev/udp, an underlay of 1500 bytes, the device's MTU 1500: five datagrams of 1500 bytes over
# IPv4: 5 arrived, also of a sender behind the host. Over IPv6: 4 of the host itself, 0 of the sender behind it, which was told nothing.
#
# Who is hurt: whoever moves an overlay from IPv4 to IPv6 underlays with the same MTUs: devices without a lower device, or with metadata ("external"), have an
# MTU of their own choice, and what was slow before is a black hole now.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, veth and vxlan. Takes about 10 s.
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
unshare --net sleep 60 & near=$!
unshare --net sleep 60 & far=$!
unshare --net sleep 60 & behind=$!
processes+=("$near" "$far" "$behind")
for holder in $near $far $behind; do
    until [ "$(readlink /proc/$holder/ns/net)" != "$own" ]; do sleep 0.01; done
    nsenter --net="/proc/$holder/ns/net" "$ip" link set lo up
done
on() { local holder=$1; shift; nsenter --net="/proc/$holder/ns/net" "$@"; }

# An underlay of both families, with 1500 bytes, and a host behind its near end.
on $near "$ip" link add under0 type veth peer name under0 netns $far
on $near "$ip" link add inside0 type veth peer name eth0 netns $behind
for holder in $near $far; do on $holder "$ip" link set under0 up; done
on $near "$ip" addr add 192.0.2.1/24 dev under0
on $far "$ip" addr add 192.0.2.2/24 dev under0
on $near "$ip" addr add 2001:db8::1/64 dev under0 nodad
on $far "$ip" addr add 2001:db8::2/64 dev under0 nodad
on $near "$ip" link set inside0 up
on $near "$ip" addr add 198.51.100.1/24 dev inside0
on $near sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
on $behind "$ip" link set eth0 up
on $behind "$ip" addr add 198.51.100.2/24 dev eth0
on $behind "$ip" route add default via 198.51.100.1

# One tunnel over each family: over 4 the network 10.4.0.0/24, over 6 the network 10.6.0.0/24.
tunnel() {
    on $near "$ip" link add over$1 mtu 1500 type vxlan id $1 local $2 remote $3 dstport $4
    on $far "$ip" link add over$1 mtu 1500 type vxlan id $1 local $3 remote $2 dstport $4
    on $near "$ip" addr add 10.$1.0.1/24 dev over$1
    on $far "$ip" addr add 10.$1.0.2/24 dev over$1
    for holder in $near $far; do on $holder "$ip" link set over$1 up; done
}
tunnel 4 192.0.2.1 192.0.2.2 4789
tunnel 6 2001:db8::1 2001:db8::2 4790

# Datagrams to a port where nobody listens are counted, too.
arrived() { on $far awk '/^Udp:/ { if (++n == 2) print $3 }' /proc/self/net/snmp; }
payload=$(head -c 1472 /dev/zero | tr '\0' x)
# try FAMILY FROM WHO: sets `count`.
try() {
    on $far "$ip" route replace 198.51.100.0/24 via 10.$1.0.1
    # Neighbours are known, and a small one passes.
    local before end=$((SECONDS + 5)); before=$(arrived)
    until [ "$(arrived)" -gt "$before" ]; do
        [ $SECONDS -lt $end ] || { echo "not even small datagrams pass over IPv$1" >&2; exit 2; }
        on "$2" bash -c "echo small > /dev/udp/10.$1.0.2/9" || true
        sleep 0.2
    done
    before=$(arrived)
    for _ in 1 2 3 4 5; do on "$2" bash -c "printf %s $payload > /dev/udp/10.$1.0.2/9" 2>/dev/null || true; done
    sleep 0.3
    count=$(($(arrived) - before))
    echo "over IPv$1, $3: $count of 5 packets of 1500 bytes arrive"
}
try 4 $near "of the host itself"; own4=$count
try 4 $behind "forwarded"; forwarded4=$count
try 6 $near "of the host itself"; own6=$count
try 6 $behind "forwarded"; forwarded6=$count
# Who is told remembers the size with the route.
told=$(on $behind "$ip" route get 10.6.0.2 | grep -c ' mtu ' || true)
echo "the sender behind was told of a size: $([ "$told" = 0 ] && echo no || echo yes)"

[ "$own4 $forwarded4 $forwarded6 $told" = "5 5 0 0" ] && [ "$own6" -ge 3 ] || { echo "not as described" >&2; exit 1; }
echo "as described: what is forwarded and too long for the underlay vanishes over IPv6 only"
