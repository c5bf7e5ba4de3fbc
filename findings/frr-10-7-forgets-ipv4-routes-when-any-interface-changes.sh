#!/usr/bin/env bash
# FRR 10.7.1: every change of any interface makes zebra forget the IPv4 routes of the kernel on interfaces without an IPv4 address.
#
# What is surprising. The kernel has a route to one address through an interface that is up and has no address of its own, as hosts of VMs
# and containers have for each of them. zebra 10.7.1 learns it and bgpd announces it. Then some other interface comes, gets or loses its
# carrier or goes, or an IPv4 address of any interface is removed: nothing that has to do with the route, which stays in the kernel. zebra
# takes that for a sign that routes may have gone, looks for an IPv4 address on the interface of each route, and forgets the IPv4 routes
# where there is none, for good: `redistribute kernel` withdraws them all. IPv6 routes stay. 10.3 and 8.4.4 keep both. Deleting a route and
# adding it again helps until the next change.
#
# The kernel removes IPv4 routes when the last IPv4 address of their interface goes; that an interface may never have had one is missing.
#
# Seen with frr 10.7.1-6 (Debian's forky) and frr 10.3-3+deb13u1 (Debian 13), Linux 6.18.44, a veth with a carrier and two routes:
#            | at first | another veth comes | its carrier goes | it is deleted |
# 10.3, IPv4 | known    | known              | known            | known         |
# 10.7.1, IPv4 | known  | forgotten          | forgotten        | forgotten     |
# (written again before each). IPv6 is known throughout with both.
#
# Who is hurt: whoever announces addresses of VMs or containers to the fabric with FRR (Calico with FRR, routed VMs of any kind): when one
# of them starts or stops, all the others on that host are not reachable over IPv4 any more, while every process is healthy.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl, dpkg, iproute2 and util-linux.
# About 30 s.
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

while read -r into sum path; do
    file=${path##*/}
    curl -sSf --max-time 60 -o "$file" "http://deb.debian.org/debian/pool/main/$path" && echo "$sum  $file" | sha256sum --check --quiet ||
        { echo "cannot download $file of Debian" >&2; exit 2; }
    dpkg -x "$file" "$into"
    rm "$file"
done <<'PACKAGES'
10.3 20718ad95f91d9bcda87769421bb33acc7a94d9f0bf0d994d31f0c6d9122ab0a f/frr/frr_10.3-3+deb13u1_amd64.deb
10.3 b59b0625cd1a791375d40dab23a4d5d3d0641e3d0a773501becdc3725b7f99cf g/glibc/libc6_2.41-12+deb13u5_amd64.deb
10.3 89fc4d34fc7a28ad6f0fcd0c561ab253b9dedf6f77f5a000b47c276c8295bf67 libc/libcap2/libcap2_2.75-10+deb13u1+b3_amd64.deb
10.3 0ebc144d662e3197982d1bf3a7b8b35ca845e54c68811de0328b1f0d7c67585c libx/libxcrypt/libcrypt1_4.4.38-1_amd64.deb
10.3 4fbd5fb4d54c626f05d68abf38a31533fbf1bf4a87068696abe041ee9c974fe0 j/json-c/libjson-c5_0.18+ds-1_amd64.deb
10.3 35af63e29e035d7f1ce3586922c51868df86c7fd9a4d28777d80384ad809df61 l/lua5.3/liblua5.3-0_5.3.6-2+b4_amd64.deb
10.3 b38acab30f295bf1066a6632e31cbd0a1980f2924b38040cda131d5dea5384ec x/xz-utils/liblzma5_5.8.1-1+deb13u2_amd64.deb
10.3 4f5bde27d8df2de6ea8990319b42d9974f56a3ba9907ce7296fd0f8964fc9fb1 p/pam/libpam0g_1.7.0-5_amd64.deb
10.3 3d1dd3f031a56f01b747e2acc0e14575212580e6fa63d800c44cb0a31f1edfd7 a/audit/libaudit1_4.0.2-2+deb13u1_amd64.deb
10.3 20a9e4b0619a3eb2566338223bed135dde5a601eaa2f8fdd5f20b94506addcac libc/libcap-ng/libcap-ng0_0.8.5-4+b1_amd64.deb
10.3 e226f661d918f04daf38cdbc4806b7ed7d6ef95c7eb0ade692fc350e31970040 p/pcre2/libpcre2-8-0_10.46-1~deb13u3_amd64.deb
10.3 9fa7e6932f620c7155aab365ed277f04cae3e04ac80ee048fb09d1e838738d14 p/protobuf-c/libprotobuf-c1_1.5.1-1_amd64.deb
10.3 eeadf2b5e755c9f183883feea2d9b5b28560284275d5f54d3e55d0923b1d0967 r/readline/libreadline8t64_8.2-6_amd64.deb
10.3 8b9f6a7983e9418564e48a627518de4c03917b56efe68d7f3e93bd8fffa1cc10 n/ncurses/libtinfo6_6.5+20250216-2_amd64.deb
10.3 db21a86dd05c93413f0ef36282a9c64d32410d240f332273a53be1408bec1f62 libu/libunwind/libunwind8_1.8.1-0.1_amd64.deb
10.3 81da7064d56fc044f5db4bb3c1e80ff50a4986dcbbf80d958eeca565b44c157f x/xxhash/libxxhash0_0.8.3-2_amd64.deb
10.3 f99414db72901df4048558e2df318deb61d9b8ac0893919dc7834f8dfd7b0743 liby/libyang/libyang3_3.12.2-1_amd64.deb
10.3 3c71917b490d1a17aed43196a2787a256ecf060526cdb20216a74bedc061b150 g/gcc-14/libgcc-s1_14.2.0-19_amd64.deb
10.7.1 c48016a9de2882c31006d5e606c5a6e31ecdd58505d33702589aa34f92af824e f/frr/frr_10.7.1-6_amd64.deb
10.7.1 5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803 g/glibc/libc6_2.43-7_amd64.deb
10.7.1 ded957f0dd933e80a3cbbc3a920cb66a3d683f7e2ba2ddd77008f9f02744dcd9 libc/libcap2/libcap2_2.78-1+b1_amd64.deb
10.7.1 3ed2cd1666bb12315542f03c892e98d83efb382b7de1747d60d9960899857ed5 libx/libxcrypt/libcrypt1_4.5.2+20251210-1_amd64.deb
10.7.1 22a29043cacb0972466c2b978031f37a2c9fe47a3986c87bb2a6755be08844f8 j/json-c/libjson-c5_0.19+ds-1_amd64.deb
10.7.1 3731e3f364e7545d05b2265b0b3bd8b40f416d7e5794df255f9175ad2d6ae63d l/lua5.5/liblua5.5-0_5.5.1-1_amd64.deb
10.7.1 2dd166f61cb2a32c50f1a4dd3cd34f5f18a4ff97a6ff23665b9a57537fd60625 x/xz-utils/liblzma5_5.8.4-1_amd64.deb
10.7.1 ace6c4fc0a62bf09d837bfeb5f43a1069797fcb89938b6dc13ba1bdfd2bfbfa8 p/pam/libpam0g_1.7.0-8_amd64.deb
10.7.1 611fd00539154d6a18cf54249ca1780d82488ba2dbebd761a8b9d357882fc07f a/audit/libaudit1_4.1.2-1+b2_amd64.deb
10.7.1 e9aa6dd94b6773fea96e405a0e2c7b7f29da33838901ec686935706d39a42e85 libc/libcap-ng/libcap-ng0_0.9.6-1+b1_amd64.deb
10.7.1 4f717024358d04c0b9ad7583f470fc639b1c4fd92d34b5ec4355c307cd5b37de p/pcre2/libpcre2-8-0_10.48-3.1_amd64.deb
10.7.1 1b65e285f312f9073dc4f0dafe44143d986bd8914e4a03af3ca59d68f238d02c r/readline/libreadline8t64_8.3-4_amd64.deb
10.7.1 14682d1f6e35df22df0fe1eb2c09418aff0e29e2ea5a7bc0aa1bcd37192ba5a7 n/ncurses/libtinfo6_6.6+20260608-2_amd64.deb
10.7.1 aee9cb6fd8e298d52c398eabea640e0a49b198d77c0e6df34e69ed97e255b9b3 libu/libunwind/libunwind8_1.8.1-0.4_amd64.deb
10.7.1 3dc2a55daf655f3c07df99b2be4cb7eea6b79089e66407f6739fe40c267907c4 x/xxhash/libxxhash0_0.8.3-2+b2_amd64.deb
10.7.1 7c0698145e296a6a168951b278cbec168ff3419a84205f3f83fd717ecf8de928 liby/libyang/libyang5_6.4.13-1_amd64.deb
10.7.1 e716dc8baad27e884c45ff83a76955047a7a9e33a80e94f9459ee996ebb800b0 g/gcc-16/libgcc-s1_16.2.0-3_amd64.deb
PACKAGES

# FRR looks its users up by name, and its YANG modules in /usr/share. In a mount namespace these are there without a change to the host.
grep -v '^frr' /etc/passwd >passwd; echo 'frr:x:991:991::/nonexistent:/usr/sbin/nologin' >>passwd
grep -v '^frr' /etc/group >group; printf 'frr:x:991:\nfrrvty:x:992:frr\n' >>group

# What becomes of the routes with this version: sets `seen`.
try() {
    local version=$1 holder until
    local root="$folder/$version" sockets="$folder/sockets-$version"
    local libraries="$root/usr/lib/x86_64-linux-gnu"
    mkdir "$sockets" && chown 991:991 "$sockets"
    frr() {
        nsenter --net=/proc/$holder/ns/net unshare --mount sh -c '
            mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && shift &&
            mount -t tmpfs none /usr/share && mkdir /usr/share/yang && mount --bind "$root/usr/share/yang" /usr/share/yang && exec "$@"' \
            "$folder" - "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/frr" "$@"
    }
    export root
    # A namespace without a name: it is gone with its last process.
    unshare --net sleep 120 &
    holder=$!
    processes+=("$holder")
    until [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    inside() { nsenter --net=/proc/$holder/ns/net ip "$@"; }
    frr "$root/usr/lib/frr/zebra" --vty_socket "$sockets" -z "$sockets/zserv.api" -i "$sockets/zebra.pid" >"zebra-$version.log" 2>&1 &
    processes+=($!)
    until=$((SECONDS + 20))
    until [ -S "$sockets/zebra.vty" ] && [ -s "$sockets/zebra.pid" ]; do
        [ $SECONDS -lt $until ] || { echo "zebra did not start: $(cat "zebra-$version.log")" >&2; exit 2; }
        sleep 0.1
    done
    processes+=("$(cat "$sockets/zebra.pid")")
    ask() { frr "$root/usr/bin/vtysh" --vty_socket "$sockets" -c "show $1 route" 2>vtysh.log | grep '^K.*connected, vm' >known || true; }
    # Whether zebra knows the route of each family, once it has had the time to hear of the change.
    look() {
        sleep 1
        local family
        for family in ip ipv6; do
            ask $family
            if [ -s known ]; then seen="$seen yes"; else seen="$seen no"; fi
        done
    }
    write() {
        inside route $1 198.51.100.7/32 dev vm proto 3 metric 1024
        inside -6 route $1 2001:db8::7/128 dev vm proto 3 metric 1024
    }
    seen=
    inside link add vm type veth peer name guest
    inside link set guest up
    inside link set vm up
    sleep 1
    write add
    look
    inside link add other type veth peer name peer
    inside link set peer up
    inside link set other up
    look
    write del; write add; sleep 1
    inside link set peer down
    look
    write del; write add; sleep 1
    inside link del other
    look
    [ "$(inside route show dev vm proto 3 | wc -l) $(inside -6 route show dev vm proto 3 | wc -l)" = "1 1" ] ||
        { echo "CHANGED: the kernel does not have the routes" >&2; exit 1; }
    echo "$version: zebra knows IPv4 and IPv6 at first, when another interface comes, loses its carrier, and is deleted:$seen"
}

try 10.3
old=$seen
try 10.7.1
if [ "$old" = " yes yes yes yes yes yes yes yes" ] && [ "$seen" = " yes yes no yes no yes no yes" ]; then
    echo "as described: 10.7.1 forgets the IPv4 route whenever another interface changes"
else
    echo "CHANGED: it is not as described" >&2
    exit 1
fi
