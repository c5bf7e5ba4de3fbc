#!/usr/bin/env bash
# BIRD 3.4.0: `persist` has no effect when the daemon is told to end: its routes leave the kernel with it.
#
# What is surprising. `persist` of BIRD's kernel protocol means that routes stay in the kernel when BIRD ends, so that a restart of the
# daemon interrupts no traffic. BIRD 2.17 and 3.1 do so. BIRD 3.4.0 takes the same configuration without a word, and removes all of its
# routes when it gets SIGTERM, which is what `systemctl stop`, a restart of its unit and an upgrade of its package send. After SIGKILL the
# routes are there, with and without `persist`.
#
# Seen with bird3 3.4.0-1 (Debian's testing suite) and bird3 3.1.8-0+deb13u1 (Debian 13), Linux 6.18.44, one static route, kernel protocol
# with `persist; metric 768`:
# 3.1.8: route in the kernel after SIGTERM: yes. 3.4.0: after SIGTERM: no; after SIGKILL: yes.
#
# Who is hurt: every host that has learnt its routes by BIRD and counts on `persist` for restarts and upgrades: from the end of the old
# daemon until the new one has its sessions and its routes again, tens of seconds, nothing is forwarded.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl, iproute2 and util-linux. About 20 s.
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "needs root" >&2; exit 2; }
for program in curl ip nsenter; do command -v $program >/dev/null || { echo "needs $program" >&2; exit 2; }; done
folder=$(mktemp -d)
processes=()
finish() {
    [ ${#processes[@]} = 0 ] || kill -KILL "${processes[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

# Both with the loader and the libraries that they were built for. Folder, checksum, path in the archive.
while read -r into sum path; do
    file=${path##*/}
    curl -sSf --max-time 60 -o "$file" "http://deb.debian.org/debian/pool/main/$path" && echo "$sum  $file" | sha256sum --check --quiet ||
        { echo "cannot download $file of Debian" >&2; exit 2; }
    dpkg -x "$file" "$into"
    rm "$file"
done <<'PACKAGES'
old 58eb86a04fb6d1bd229258fdbdd38feaf2e131cfd2116a023173f2be9ed1e231 b/bird3/bird3_3.1.8-0+deb13u1_amd64.deb
old b59b0625cd1a791375d40dab23a4d5d3d0641e3d0a773501becdc3725b7f99cf g/glibc/libc6_2.41-12+deb13u5_amd64.deb
old bd43e020b8fed399db3eebf098111f10fba4c436fff99ccad72cc7e27c9764ec e/e2fsprogs/libcom-err2_1.47.2-3+b12_amd64.deb
old 3c71917b490d1a17aed43196a2787a256ecf060526cdb20216a74bedc061b150 g/gcc-14/libgcc-s1_14.2.0-19_amd64.deb
old 30847c1fde4240567d7ed3aeab4f655dd591203758b857e85e824045aae70299 k/krb5/libgssapi-krb5-2_1.21.3-5+deb13u1_amd64.deb
old 7da07ee674b47f1f0be7cc89317c25310086a1f1761217d0f72e6ae2c5a69b84 k/krb5/libk5crypto3_1.21.3-5+deb13u1_amd64.deb
old 0b11ad17be0300b63ad4eeb4c6450fed24d34b7b740f23e5363dcb29ee6d5eba k/keyutils/libkeyutils1_1.6.3-6_amd64.deb
old 47d71d6a7f2e59b9bae5f89602397594805113b95889ad18fa703cd53abafc97 k/krb5/libkrb5-3_1.21.3-5+deb13u1_amd64.deb
old 3a0acd8b37955c0e102c756b52c97df2a31f67b96453c35dab70df218d309117 k/krb5/libkrb5support0_1.21.3-5+deb13u1_amd64.deb
old eeadf2b5e755c9f183883feea2d9b5b28560284275d5f54d3e55d0923b1d0967 r/readline/libreadline8t64_8.2-6_amd64.deb
old bc8cbc13617d1b21fa6f686f9f269a4f849f00624d5bb179785a058981701233 libs/libssh/libssh-4_0.11.5-0+deb13u1_amd64.deb
old ffefb9af363e0e4592251b2533eb06453c8e470f7772e40263c4b2129251a6d5 o/openssl/libssl3t64_3.5.9-1~deb13u1_amd64.deb
old 8b9f6a7983e9418564e48a627518de4c03917b56efe68d7f3e93bd8fffa1cc10 n/ncurses/libtinfo6_6.5+20250216-2_amd64.deb
old 8c27c342230503b73dfde629642c3b352e87b554e06d60cf58772f236a305ceb z/zlib/zlib1g_1.3.dfsg+really1.3.1-1+deb13u1_amd64.deb
new 3ca316e7ebbc3af01fc14429fbfcbd5809ea6574b25e5e01db70bf73605cbb65 b/bird3/bird3_3.4.0-1_amd64.deb
new 5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803 g/glibc/libc6_2.43-7_amd64.deb
new 3ab6113310ba2cb1eedc69f0ca82d42c07e46fa769f982ad091a92cf36b0f2f8 libc/libcbor/libcbor0.10_0.10.2-2.2_amd64.deb
new e75c8f6b8953ea4d2f452353120f22a3918aa824c3d05a7efe1e7b7a9057706c e/e2fsprogs/libcom-err2_1.47.4-1+b2_amd64.deb
new a3db14aaa05b4856019ff0ad41e77f07a5153e89535eb94024d2668ffcd4b5a8 libf/libfido2/libfido2-1_1.17.0-2_amd64.deb
new e716dc8baad27e884c45ff83a76955047a7a9e33a80e94f9459ee996ebb800b0 g/gcc-16/libgcc-s1_16.2.0-3_amd64.deb
new 8849ff8bdfabbc1e8d1664eb209852023b1eaba1889ffd821459b7c57604c777 k/krb5/libgssapi-krb5-2_1.22.1-3_amd64.deb
new 6567c39be649ff018ccb356174886c7358e1a6888e6d13e8a7e001c76c78a20c k/krb5/libk5crypto3_1.22.1-3_amd64.deb
new 0a71e3b62a39df17508fad4f6150459fd0f0dc4a0189b9eafbda2a74dcea1853 k/keyutils/libkeyutils1_1.6.3-6+b2_amd64.deb
new 945966e0aeae286e8d79ab85e425340348024970587027acad3d3582471f1eef k/krb5/libkrb5-3_1.22.1-3_amd64.deb
new e7e2d65fa4f016fdf7d982ddd5b9c2e5ecdf2c33f41f1e4ab20de7e59aaaaacf k/krb5/libkrb5support0_1.22.1-3_amd64.deb
new 1b65e285f312f9073dc4f0dafe44143d986bd8914e4a03af3ca59d68f238d02c r/readline/libreadline8t64_8.3-4_amd64.deb
new c8b77b4d87016e85cd91fe687a961e32b7a033f47f62dff96732d787412bf369 libs/libssh/libssh-4_0.12.2-1_amd64.deb
new 0a0ec84fe860c5c93c74d53cbb071aea0793327a3761b483080e9d7b73c21b37 o/openssl/libssl3t64_3.6.5-1_amd64.deb
new 14682d1f6e35df22df0fe1eb2c09418aff0e29e2ea5a7bc0aa1bcd37192ba5a7 n/ncurses/libtinfo6_6.6+20260608-2_amd64.deb
new c34216896e550fb8691e65103ac3854455d4ae047b15ed797998edbc3d9230ff s/systemd/libudev1_262-1_amd64.deb
new 93e7930e4c25b918f1dd980cc1c6d4487654a248f5fa71eacb976ed7bbe954bd libz/libzstd/libzstd1_1.5.7+dfsg-4_amd64.deb
new 52c585b07bea72ef36df9ddd5d1937f4739d3caec057d827954baec256292651 z/zlib/zlib1g_1.3.dfsg+really1.3.2-3_amd64.deb
PACKAGES

cat > bird.conf <<'BIRD'
router id 192.0.2.1;
protocol device { }
protocol kernel { persist; metric 768; ipv4 { import none; export all; }; }
protocol static { ipv4; route 198.51.100.7/32 via 192.0.2.2; }
BIRD

# Whether the route is in the kernel after this BIRD has had this signal: sets `seen`.
try() {
    local version=$1 signal=$2 libraries="$folder/$1/usr/lib/x86_64-linux-gnu" holder daemon until
    # A namespace without a name: it is gone with its last process.
    unshare --net sleep 60 &
    holder=$!
    processes+=("$holder")
    until [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    inside() { nsenter --net=/proc/$holder/ns/net ip "$@"; }
    has_route() { [ -n "$(inside route show 198.51.100.7/32)" ]; }
    inside link add left type veth peer name right
    inside addr add 192.0.2.1/24 dev left
    inside link set left up
    inside link set right up
    nsenter --net=/proc/$holder/ns/net "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" \
        "$folder/$version/usr/sbin/bird" -f -c bird.conf -s bird.ctl >"$version.log" 2>&1 &
    daemon=$!
    processes+=("$daemon")
    until=$((SECONDS + 20))
    until has_route; do
        [ $SECONDS -lt $until ] || { echo "BIRD did not start: $(cat "$version.log")" >&2; exit 2; }
        sleep 0.1
    done
    kill "-$signal" "$daemon"
    wait "$daemon" 2>/dev/null || true
    sleep 1
    if has_route; then seen=yes; else seen=no; fi
    kill -KILL "$holder"
    wait "$holder" 2>/dev/null || true
}

try old TERM
old=$seen
echo "BIRD 3.1.8: route in the kernel after SIGTERM: $seen"
try new TERM
new=$seen
echo "BIRD 3.4.0: route in the kernel after SIGTERM: $seen"
try new KILL
echo "BIRD 3.4.0: route in the kernel after SIGKILL: $seen"
if [ "$old $new $seen" = "yes no yes" ]; then
    echo "as described: 3.4.0 takes its routes with it in spite of persist"
else
    echo "CHANGED: it is not as described" >&2
    exit 1
fi
