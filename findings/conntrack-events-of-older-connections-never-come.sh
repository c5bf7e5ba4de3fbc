#!/usr/bin/env bash
# Connection tracking, Linux 5.19 and later: who begins to listen to its events never hears of the connections that exist then, not even of their end.
#
# What is surprising. A listener (`conntrack -E`, conntrackd, whatever subscribes to ctnetlink) is expected to miss what was before it, and to
# hear what happens from now on. Since 5.19, `nf_conntrack_events` is 2 ("auto") by default, and the kernel decides once, when a connection
# begins, whether there will ever be events of it: only if somebody listens at that moment. A connection that began earlier stays silent for its whole life:
# its changes of state, its end, and even what a process does to it (`conntrack -U`, `conntrack -D`). Nothing tells the listener. To set the sysctl
# to 1 then has an effect on later connections only. Where the somebody is does not matter: a listener in another network namespace, which
# hears nothing of these connections, is enough. So whether a host's events are complete depends on which containers ran when.
#
# Documentation/networking/nf_conntrack-sysctl.rst says that the default "allocates the extension if a userspace program is listening": that this is
# at the beginning of a connection, for good and for any namespace, is in the code only (nf_ct_ecache_ext_add in net/netfilter/nf_conntrack_ecache.c,
# nf_ctnetlink_has_listener in nfnetlink.c). A patch of June 2024 to netfilter-devel, "restore default behavior for nf_conntrack_events", would have
# said so and set the default back to 1; Linux 6.18 has 2.
#
# Seen with Linux 6.18.44, conntrack 1.4.8-2 of Debian 13, one TCP connection each that says something, is closed and forgotten while `conntrack -E` listens:
#   began after the listener                               NEW 1, UPDATE 5, DESTROY 1
#   began before it                                        nothing
#   began before it, conntrack -U and -D                   nothing
#   began before it and before the sysctl was set to 1     nothing
#   began before it, with the sysctl at 1                  UPDATE 3, DESTROY 1
#   began before it, beside one in another namespace       UPDATE 3, DESTROY 1
#
# Who is hurt: whoever reads the table once and follows the events from there (replication of state, logs of NAT, accounting): what is older than
# the listener, as everything is after its restart, seems to live for ever. Set the sysctl to 1 before there are connections.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl, dpkg, iproute2, Python and util-linux, and nobody
# who listens to such events on the same host. About 15 s.
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
for program in curl dpkg ip nsenter python3 unshare; do command -v $program >/dev/null || { echo "needs $program" >&2; exit 2; }; done
# The last digit of a netfilter socket's groups has those of connections.
if awk '$2 == 12 && $4 ~ /[1-79a-f]$/ { found = 1 } END { exit !found }' /proc/[0-9]*/net/netlink 2>/dev/null; then
    echo "somebody on this host listens to events of connections" >&2
    exit 2
fi
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
unshare --net sleep 100 & near=$!
unshare --net sleep 100 & far=$!
unshare --net sleep 100 & elsewhere=$!
processes+=("$near" "$far" "$elsewhere")
for holder in $near $far $elsewhere; do until [ "$(readlink /proc/$holder/ns/net)" != "$own" ]; do sleep 0.01; done; done
on() { local holder=$1; shift; nsenter --net="/proc/$holder/ns/net" "$@"; }
libraries="$folder/usr/lib/x86_64-linux-gnu"
debian() { "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$folder/usr/sbin/$1" "${@:2}"; }
export -f debian
export folder libraries

on $near ip link add eth0 type veth peer name eth0 netns $far
on $near ip addr add 192.0.2.1/24 dev eth0
on $far ip addr add 192.0.2.2/24 dev eth0
for holder in $near $far; do on $holder ip link set eth0 up; done
# A rule that asks for the state of connections has the kernel track them.
on $near bash -c "debian nft 'table ip find { chain input { type filter hook input priority 0; ct state established accept; }; }'"
events() { on $near sh -c "echo $1 >/proc/sys/net/netfilter/nf_conntrack_events"; }
on $near sh -c 'echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait'
[ "$(on $near cat /proc/sys/net/netfilter/nf_conntrack_events)" = 2 ] || { echo "nf_conntrack_events is not 2 here" >&2; exit 2; }

cat >answer.py <<'PYTHON'
import socket, threading

listener = socket.create_server(("192.0.2.2", 80))
open("answering", "w").close()


def answer(peer):
    while said := peer.recv(10):
        peer.sendall(said)
    peer.close()


while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
PYTHON
cat >talk.py <<'PYTHON'
"""A connection from this port that says something at once, and when it is told to end."""
import pathlib, socket, sys, time

port = sys.argv[1]
peer = socket.socket()
peer.bind(("192.0.2.1", int(port)))
peer.settimeout(10)
peer.connect(("192.0.2.2", 80))


def say():
    peer.sendall(b"here")
    peer.recv(10)


say()
pathlib.Path(f"begun-{port}").touch()
while not pathlib.Path(f"end-{port}").exists():
    time.sleep(0.02)
say()
peer.close()
PYTHON
nsenter --net=/proc/$far/ns/net python3 answer.py &
processes+=($!)

wait_for() { local until=$((SECONDS + 10)); until "$@"; do [ $SECONDS -lt $until ] || { echo "waited in vain: $*" >&2; exit 2; }; sleep 0.05; done; }
wait_for [ -e answering ]
begin() {
    nsenter --net=/proc/$near/ns/net python3 talk.py "$1" &
    processes+=($!)
    wait_for [ -e "begun-$1" ]
}
tracked() { on $near bash -c "debian conntrack -L -p tcp --sport $1" 2>/dev/null | grep -q .; }
untracked() { ! tracked "$1"; }
end() {
    touch "end-$1"
    wait_for untracked "$1"
    sleep 0.3
}
# Listens in this namespace until `leave`.
listen() {
    nsenter --net=/proc/$1/ns/net "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" usr/sbin/conntrack -E >heard 2>listening &
    listener=$!
    processes+=("$listener")
    wait_for subscribed "$1"
}
subscribed() { awk '$2 == 12 && $4 ~ /7$/ { found = 1 } END { exit !found }' "/proc/$1/net/netlink"; }
unsubscribed() { ! subscribed "$1"; }
leave() {
    kill "$listener"
    wait "$listener" 2>/dev/null || true
    wait_for unsubscribed "$1"
}
# What was heard of the connection: sets `heard`.
tell() {
    local kind
    heard=
    for kind in NEW UPDATE DESTROY; do heard+="$(grep -F "[$kind]" heard | grep -c "sport=$2 " || true) "; done
    heard=${heard% }
    printf '%-70s NEW %s UPDATE %s DESTROY %s\n' "$1:" $heard
}

begin 1001
listen $near
end 1001
tell "began before the listener" 1001; before=$heard
begin 1002
end 1002
tell "began after the listener" 1002; after=$heard
leave $near

begin 1003
listen $near
on $near bash -c 'debian conntrack -U -p tcp --sport 1003 -m 7 && debian conntrack -D -p tcp --sport 1003' >/dev/null 2>&1 ||
    { echo "cannot change and delete a connection" >&2; exit 2; }
sleep 0.3
tell "began before the listener, changed and deleted by conntrack -U, -D" 1003; changed=$heard
leave $near

begin 1004
events 1
listen $near
end 1004
tell "began before the sysctl was set to 1 and before the listener" 1004; late=$heard
leave $near
begin 1005
listen $near
end 1005
tell "began with the sysctl at 1, before the listener" 1005; early=$heard
leave $near
events 2

listen $elsewhere
begin 1006
leave $elsewhere
listen $near
end 1006
tell "began while somebody listened in another namespace" 1006; other=$heard
leave $near

ended() { [[ $1 =~ ^[01]\ [1-9][0-9]*\ 1$ ]]; }
if [ "$before" = "0 0 0" ] && [ "$changed" = "0 0 0" ] && [ "$late" = "0 0 0" ] && ended "$after" && ended "$early" && ended "$other"; then
    echo "as described: whether a connection will ever be heard of is decided when it begins"
else
    echo "CHANGED: it is not as described" >&2
    exit 1
fi
