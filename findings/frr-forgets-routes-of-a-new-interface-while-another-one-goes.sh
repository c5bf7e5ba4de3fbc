#!/usr/bin/env bash
# FRR 10.3: a route of the kernel on a new interface is forgotten for good when another interface goes at that moment.
#
# What is surprising. zebra learns the routes that others write into the kernel, and what it has learnt it is expected to know until the
# kernel says that the route is gone. 10.3 reads interfaces on one thread and routes on another one. When it hears that an
# interface is down or gone, it goes through all routes of the kernel, of both families, and drops those whose interface it does not know
# as up. So when it reads, in this order, the route of a new interface, that another interface is gone, and that the new interface is
# there, it drops a route that exists. The kernel has nothing to say about that route afterwards, so it is never learnt again, and bgpd never
# announces it with `redistribute kernel`. Deleting the route and adding it again helps.
#
# It takes a zebra that reads a little late, which is any that has much to do: here it is stopped for some milliseconds.
#
# Seen with frr 10.3-3+deb13u1 (Debian 13) on Linux 6.18.44, a veth with NO-CARRIER that is made again while zebra is stopped: of 12 times,
# the IPv4 route was forgotten 3 times and the IPv6 route 4 times. With 10.7.1 (Debian's forky): IPv6 3 to 5 of 12. With 8.4.4 (Debian 12):
# 0 of 24. In a lab without a stopped zebra, on a busy machine: once in some 50 runs of a test that makes a tap anew.
#
# Who is hurt: whoever announces routes to interfaces of VMs or containers with FRR: an address that comes while another one goes is not
# announced, until FRR is restarted or somebody writes its route again.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl, dpkg, iproute2 and util-linux.
# About 20 s, at most 100 s.
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
for program in curl dpkg ip nsenter unshare; do command -v $program >/dev/null || { echo "needs $program" >&2; exit 2; }; done
folder=$(mktemp -d)
chmod 755 "$folder"
processes=()
finish() {
    [ ${#processes[@]} = 0 ] || kill -KILL "${processes[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

while read -r sum path; do
    file=${path##*/}
    curl -sSf --max-time 60 -o "$file" "http://deb.debian.org/debian/pool/main/$path" && echo "$sum  $file" | sha256sum --check --quiet ||
        { echo "cannot download $file of Debian" >&2; exit 2; }
    dpkg -x "$file" .
    rm "$file"
done <<'PACKAGES'
20718ad95f91d9bcda87769421bb33acc7a94d9f0bf0d994d31f0c6d9122ab0a f/frr/frr_10.3-3+deb13u1_amd64.deb
b59b0625cd1a791375d40dab23a4d5d3d0641e3d0a773501becdc3725b7f99cf g/glibc/libc6_2.41-12+deb13u5_amd64.deb
89fc4d34fc7a28ad6f0fcd0c561ab253b9dedf6f77f5a000b47c276c8295bf67 libc/libcap2/libcap2_2.75-10+deb13u1+b3_amd64.deb
0ebc144d662e3197982d1bf3a7b8b35ca845e54c68811de0328b1f0d7c67585c libx/libxcrypt/libcrypt1_4.4.38-1_amd64.deb
4fbd5fb4d54c626f05d68abf38a31533fbf1bf4a87068696abe041ee9c974fe0 j/json-c/libjson-c5_0.18+ds-1_amd64.deb
35af63e29e035d7f1ce3586922c51868df86c7fd9a4d28777d80384ad809df61 l/lua5.3/liblua5.3-0_5.3.6-2+b4_amd64.deb
b38acab30f295bf1066a6632e31cbd0a1980f2924b38040cda131d5dea5384ec x/xz-utils/liblzma5_5.8.1-1+deb13u2_amd64.deb
4f5bde27d8df2de6ea8990319b42d9974f56a3ba9907ce7296fd0f8964fc9fb1 p/pam/libpam0g_1.7.0-5_amd64.deb
3d1dd3f031a56f01b747e2acc0e14575212580e6fa63d800c44cb0a31f1edfd7 a/audit/libaudit1_4.0.2-2+deb13u1_amd64.deb
20a9e4b0619a3eb2566338223bed135dde5a601eaa2f8fdd5f20b94506addcac libc/libcap-ng/libcap-ng0_0.8.5-4+b1_amd64.deb
e226f661d918f04daf38cdbc4806b7ed7d6ef95c7eb0ade692fc350e31970040 p/pcre2/libpcre2-8-0_10.46-1~deb13u3_amd64.deb
9fa7e6932f620c7155aab365ed277f04cae3e04ac80ee048fb09d1e838738d14 p/protobuf-c/libprotobuf-c1_1.5.1-1_amd64.deb
eeadf2b5e755c9f183883feea2d9b5b28560284275d5f54d3e55d0923b1d0967 r/readline/libreadline8t64_8.2-6_amd64.deb
8b9f6a7983e9418564e48a627518de4c03917b56efe68d7f3e93bd8fffa1cc10 n/ncurses/libtinfo6_6.5+20250216-2_amd64.deb
db21a86dd05c93413f0ef36282a9c64d32410d240f332273a53be1408bec1f62 libu/libunwind/libunwind8_1.8.1-0.1_amd64.deb
81da7064d56fc044f5db4bb3c1e80ff50a4986dcbbf80d958eeca565b44c157f x/xxhash/libxxhash0_0.8.3-2_amd64.deb
f99414db72901df4048558e2df318deb61d9b8ac0893919dc7834f8dfd7b0743 liby/libyang/libyang3_3.12.2-1_amd64.deb
3c71917b490d1a17aed43196a2787a256ecf060526cdb20216a74bedc061b150 g/gcc-14/libgcc-s1_14.2.0-19_amd64.deb
PACKAGES

# FRR looks its users up by name, and its YANG modules in /usr/share. In a mount namespace these are there without a change to the host.
grep -v '^frr' /etc/passwd >passwd; echo 'frr:x:991:991::/nonexistent:/usr/sbin/nologin' >>passwd
grep -v '^frr' /etc/group >group; printf 'frr:x:991:\nfrrvty:x:992:frr\n' >>group
mkdir sockets && chown 991:991 sockets
libraries="$folder/usr/lib/x86_64-linux-gnu"
frr() {
    nsenter --net=/proc/$holder/ns/net unshare --mount sh -c '
        mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group &&
        mount -t tmpfs none /usr/share && mkdir /usr/share/yang && mount --bind "$0/usr/share/yang" /usr/share/yang && exec "$@"' \
        "$folder" "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/frr" "$@"
}

# A namespace without a name: it is gone with its last process.
unshare --net sleep 120 &
holder=$!
processes+=("$holder")
until [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
inside() { nsenter --net=/proc/$holder/ns/net ip "$@"; }

frr usr/lib/frr/zebra --vty_socket sockets -z "$folder/sockets/zserv.api" -i "$folder/sockets/zebra.pid" >zebra.log 2>&1 &
processes+=($!)
until=$((SECONDS + 20))
until [ -S sockets/zebra.vty ] && [ -s sockets/zebra.pid ]; do
    [ $SECONDS -lt $until ] || { echo "zebra did not start: $(cat zebra.log)" >&2; exit 2; }
    sleep 0.1
done
zebra=$(cat sockets/zebra.pid)
processes+=("$zebra")

make_anew() {
    inside -batch - <<'LINKS'
link add tap type veth peer name hypervisor
link set tap up
route add 198.51.100.7/32 dev tap proto 3 metric 1024
route add 2001:db8::7/128 dev tap proto 3 metric 1024
LINKS
}
# Whether zebra knows, and whether the kernel has, the route of this family.
known() { frr usr/bin/vtysh --vty_socket sockets -c "show ${1} route" 2>vtysh.log | grep '^K.*connected, tap' >known; }
there() { [ -n "$(inside "-$1" route show dev tap proto 3)" ]; }

make_anew
inside link set hypervisor up
until known ip && known ipv6; do
    [ $SECONDS -lt $until ] || { echo "zebra does not learn routes: $(cat vtysh.log)" >&2; exit 2; }
    sleep 0.1
done
lost=
for attempt in $(seq 40); do
    kill -STOP "$zebra"
    inside link del tap
    make_anew
    kill -CONT "$zebra"
    sleep 0.4
    inside link set hypervisor up
    # A zebra that is only late knows it soon.
    until=$((SECONDS + 5))
    until known ipv6; do
        [ $SECONDS -lt $until ] || { lost=$attempt; break 2; }
        sleep 0.2
    done
done
[ -n "$lost" ] || { echo "CHANGED: in $attempt times the route was never forgotten" >&2; exit 1; }
echo "made anew $lost times: then zebra did not know the IPv6 route"
sleep 3
there 6 || { echo "CHANGED: the kernel does not have it, either" >&2; exit 1; }
if known ipv6; then echo "CHANGED: zebra has learnt it in the end" >&2; exit 1; fi
echo "3 s later: the kernel has it, zebra does not know it"
inside route del 2001:db8::7/128 dev tap proto 3 metric 1024
inside route add 2001:db8::7/128 dev tap proto 3 metric 1024
sleep 0.5
known ipv6 || { echo "CHANGED: it does not learn it when it is added again" >&2; exit 1; }
echo "deleted and added again: zebra knows it"
echo "as described: a route of a new interface is forgotten when another one goes at that moment"
