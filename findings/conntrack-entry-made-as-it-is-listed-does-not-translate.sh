#!/usr/bin/env bash
# Connection tracking: an entry that is made as the kernel lists it does not translate, and is listed like one that does.
#
# What is surprising. The kernel lists a connection to a translated address with two tuples, of which the second one, of the replies, shows the
# translation: from the server's real address and port. An entry that is made over netlink with these same tuples is accepted, and with the attribute that
# says what to translate to (CTA_NAT_DST, `conntrack -I --dst-nat`) as well. It never translates anything: packets of the connection go to the address that
# nobody has, and the rules of the host are not asked, as they are for new connections only. Without the entry they would have translated. With
# the same attribute and the tuple of the replies as if there were no translation, an entry is made that does translate. `conntrack -L`, `-L --dst-nat`
# and `-o save` show both of them with the same words.
#
# Why: bits of the status (IPS_DST_NAT, IPS_SRC_NAT) say whether packets are translated. User space cannot set them; the kernel does when
# it finds that what is to be translated changes the tuple of the replies (nf_nat_setup_info in net/netfilter/nf_nat_core.c). Where it is
# already as it shall be, nothing changes. libnetfilter_conntrack has an option for that (NFCT_SOPT_UNDO_DNAT).
#
# Seen with Linux 6.18.44, conntrack 1.4.8-2 and nftables 1.1.3-1 of Debian 13, five datagrams to 203.0.113.7:53 by way of a host whose rule
# translates them to 198.51.100.9:5353; how many were answered:
#   no entry                                               5
#   replies as listed, nothing said of the translation     0
#   replies as listed, with the translation                0
#   replies as if not translated, with the translation     5, listed like the one before
#
# Who is hurt: whoever copies connections from one host to another with a library for netlink (failover of routers, load balancers and firewalls, live migration):
# the copy looks right in every listing, and the connections that it should keep are the only ones that do not work.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl, dpkg, iproute2, Python and util-linux.
# About 10 s.
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
debian nft 'table ip find { chain translate { type nat hook prerouting priority dstnat; ip daddr 203.0.113.7 udp dport 53 dnat to 198.51.100.9:5353; }; }'

# make OPTIONS: that connection, with these options of conntrack.
make() {
    table -F
    table -I -t 60 -u SEEN_REPLY,ASSURED -p udp -s 192.0.2.2 -d 203.0.113.7 --sport 4000 --dport 53 -q 192.0.2.2 --reply-port-dst 4000 "$@" >made
}
as_listed=(-r 198.51.100.9 --reply-port-src 5353)
untranslated=(-r 203.0.113.7 --reply-port-src 53)
translation=(--dst-nat 198.51.100.9:5353)

none=$(ask)
echo "no entry: $none of 5 answered"
make "${as_listed[@]}"
nothing_said=$(ask)
echo "replies as listed, nothing said of the translation: $nothing_said of 5 answered"
make "${as_listed[@]}" "${translation[@]}"
dead=$(listed --dst-nat)
dead_saved=$(table -L -p udp -o save)
dead_answers=$(ask)
echo "replies as listed, with the translation: $dead_answers of 5 answered; listed with --dst-nat: $dead"
make "${untranslated[@]}" "${translation[@]}"
alive=$(listed --dst-nat)
alive_saved=$(table -L -p udp -o save)
alive_answers=$(ask)
echo "replies as if not translated, with the translation: $alive_answers of 5 answered; listed with --dst-nat: $alive"
# They were made with the same time to live, and may be listed one second later.
without_time() { sed -E 's/-t [0-9]+ //' <<<"$1"; }

if [ "$none $nothing_said $dead_answers $alive_answers" = "5 0 0 5" ] && [ -n "$dead" ] && [ "$dead" = "$alive" ] &&
    [ "$(without_time "$dead_saved")" = "$(without_time "$alive_saved")" ]; then
    echo "as described: they are listed alike, and one of them does not translate"
else
    echo "CHANGED: it is not as described" >&2
    exit 1
fi
