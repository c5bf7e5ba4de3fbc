#!/usr/bin/env bash
# conntrack 1.4.8: what `conntrack -L -o save` writes and `conntrack --load-file` reads makes other connections where source and destination are
# translated: the ports are lost.
#
# What is surprising. The two are made for each other: an example of conntrack(8) copies all entries from one zone to another with them. For a
# connection whose destination and source are both translated, the saved line says to which addresses (-g, -n) and has the ports of the replies.
# It is loaded with success, and the entry has the right addresses and the ports of the original direction. The connection goes to
# a wrong port of the server, and the rules are not asked, as it is not new. Where the destination alone is translated, it is loaded as it was.
#
# Why: -g and -n stand in the place of the addresses of the replies (-r, -q). Where neither of these is given, the tuple of the replies is
# made anew by turning that of the original direction round (CT_ADD in src/conntrack.c), with the ports, and those that the line has are gone.
#
# Seen with conntrack 1.4.8-2 and nftables 1.1.3-1 of Debian 13, Linux 6.18.44, five datagrams to 203.0.113.7:53 by way of a host that translates
# them to 198.51.100.9:5353, and in the second case their source to 198.51.100.1 with the ports 7000 to 7010; of 5 were answered:
#                                     | before | loaded | ports of the replies before | loaded
#   destination translated            | 5      | 5      | 5353 4000                   | 5353 4000
#   destination and source translated | 5      | 0      | 5353 7005                   | 53 4000
#
# Who is hurt: whoever saves and restores connections around a restart of a firewall or a switch to another router, where both are translated: ports of
# nodes of Kubernetes, load balancers and port forwards that hide the client. The rules would have made the connection work had nothing been loaded.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl, dpkg, iproute2, Python and util-linux.
# About 5 s.
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
for program in curl dpkg ip nsenter python3 unshare; do command -v $program >/dev/null || { echo "needs $program" >&2; exit 2; }; done
folder=$(mktemp -d)
processes=()
finish() {
    [ ${#processes[@]} = 0 ] || kill -KILL "${processes[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

# With the loader and the libraries that they were built for. Checksum, path in the archive.
while read -r sum path; do
    file=${path##*/}
    curl -sSf --max-time 60 -o "$file" "http://deb.debian.org/debian/pool/main/$path" && echo "$sum  $file" | sha256sum --check --quiet ||
        { echo "cannot download $file of Debian" >&2; exit 2; }
    dpkg -x "$file" .
    rm "$file"
done <<'PACKAGES'
bfbb6d02ba2ba162da1a9caa0f0c280034b8f189799542bd39ca5b1bcaf768e0 c/conntrack-tools/conntrack_1.4.8-2_amd64.deb
ffbac5d06fbe432d5171f2eb5b2504968377f27be133f72c81e71250a9957506 libn/libnetfilter-conntrack/libnetfilter-conntrack3_1.1.0-1_amd64.deb
4ec9c1096e0b954e3bdb03a62314ee7f49999045d3d55be3e4ded520ffc9baf5 libm/libmnl/libmnl0_1.0.5-3_amd64.deb
5e4c3c40a04ffdb4139e4bef1136585e151a8eb8c71efa6c7250b636b3c0d1b1 libn/libnfnetlink/libnfnetlink0_1.0.2-3_amd64.deb
2ddfa61baaf3a76e2c499db9e521ba6affb226f85af0b6fef739f346ac5f0c39 n/nftables/nftables_1.1.3-1_amd64.deb
c7cbee3dce8452ae5c3c4269f6f52e96b896d36a46ea3c490e0e11e8ff359896 n/nftables/libnftables1_1.1.3-1_amd64.deb
1b3eae46bfb9c6ab44e404797fb45278045f926d73974a84097ad47a3e27d983 libn/libnftnl/libnftnl11_1.2.9-1_amd64.deb
d0d0265eb01770f17afd0f7c8c0622f80479dcfbbe13653a0debeec61464e622 g/gmp/libgmp10_6.3.0+dfsg-3_amd64.deb
60707a62fe6c1228c3389b12a13ca4efd76defc5532473e547a29e99cf7d2a6e j/jansson/libjansson4_2.14-2+b3_amd64.deb
4de5aa59faef5e98d6ba9f5f521a915be5641f224f597862f8d29e8319e8db16 i/iptables/libxtables12_1.8.11-2_amd64.deb
b002ea172b9c1e34a67bc497c523c67bb74c3f0a4e98113cb083990a1f1d3bfe libe/libedit/libedit2_3.1-20250104-1_amd64.deb
e5a85986fa6bec3307ab1bc860736b478b331882bc45e17675a7bdf88eecb43a libb/libbsd/libbsd0_0.12.2-2_amd64.deb
7244ec3839b61fac0c1884fe08aaa040f26e8f1f35f1f5d3482eacefd30d1b44 libm/libmd/libmd0_1.1.0-2+b1_amd64.deb
8b9f6a7983e9418564e48a627518de4c03917b56efe68d7f3e93bd8fffa1cc10 n/ncurses/libtinfo6_6.5+20250216-2_amd64.deb
b59b0625cd1a791375d40dab23a4d5d3d0641e3d0a773501becdc3725b7f99cf g/glibc/libc6_2.41-12+deb13u5_amd64.deb
PACKAGES

# Namespaces without names: they are gone with their last process.
own=$(readlink /proc/self/ns/net)
unshare --net sleep 60 & client=$!
unshare --net sleep 60 & router=$!
unshare --net sleep 60 & server=$!
processes+=("$client" "$router" "$server")
for holder in $client $router $server; do until [ "$(readlink /proc/$holder/ns/net)" != "$own" ]; do sleep 0.01; done; done
on() { local holder=$1; shift; nsenter --net="/proc/$holder/ns/net" "$@"; }
libraries="$folder/usr/lib/x86_64-linux-gnu"
debian() { on $router "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "usr/sbin/$1" "${@:2}"; }
table() { debian conntrack "$@" 2>conntrack.log || { echo "conntrack $*: $(cat conntrack.log)" >&2; exit 2; }; }

on $router ip link add client type veth peer name eth0 netns $client
on $router ip link add server type veth peer name eth0 netns $server
on $router ip addr add 192.0.2.1/24 dev client
on $router ip addr add 198.51.100.1/24 dev server
on $client ip addr add 192.0.2.2/24 dev eth0
on $server ip addr add 198.51.100.9/24 dev eth0
on $router ip link set client up
on $router ip link set server up
for holder in $client $server; do on $holder ip link set eth0 up; done
on $client ip route add default via 192.0.2.1
on $server ip route add default via 198.51.100.1
on $router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'

cat >answer.py <<'PYTHON'
import socket

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("198.51.100.9", 5353))
open("answering", "w").close()
while True:
    server.sendto(*server.recvfrom(100))
PYTHON
cat >ask.py <<'PYTHON'
"""Five questions from always the same port. Prints how many were answered."""
import socket

client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(("192.0.2.2", 4000))
client.connect(("203.0.113.7", 53))
client.settimeout(0.5)
answered = 0
for _ in range(5):
    try:
        client.send(b"question")
        answered += client.recv(100) == b"question"
    # Silence, or that nobody is there.
    except OSError:
        pass
print(answered)
PYTHON
nsenter --net=/proc/$server/ns/net python3 answer.py &
processes+=($!)
until=$((SECONDS + 10))
until [ -e answering ]; do [ $SECONDS -lt $until ] || { echo "the server does not start" >&2; exit 2; }; sleep 0.05; done
ask() { on $client python3 ask.py; }
# Without what changes by itself.
listed() { table -L -p udp "$@" | sed -E 's/^(udp +17) [0-9]+/\1/; s/ (\[ASSURED\] )?mark=.*//'; }
# try WHAT: before, after saving and loading. Sets `answers` and `ports`.
try() {
    local before after
    table -F
    answers=$(ask)
    before=$(listed)
    table -L -p udp -o save >saved
    table -F
    table --load-file saved >loaded
    after=$(listed)
    answers+=" $(ask)"
    same=$([ "$before" = "$after" ] && echo yes || echo no)
    echo "$1: answered before and loaded, of 5: $answers; the same entry: $same"
    echo "    before: $before"
    echo "    loaded: $after"
}
debian nft 'table ip find {
    chain destination { type nat hook prerouting priority dstnat; ip daddr 203.0.113.7 udp dport 53 dnat to 198.51.100.9:5353; }
    chain source { type nat hook postrouting priority srcnat; }
}'
try "destination translated"
once="$answers $same"
debian nft 'add rule ip find source oifname "server" meta l4proto udp snat to 198.51.100.1:7000-7010'
try "destination and source translated"

if [ "$once" = "5 5 yes" ] && [ "$answers $same" = "5 0 no" ]; then
    echo "as described: the ports of a connection that is translated twice are lost"
else
    echo "CHANGED: it is not as described" >&2
    exit 1
fi
