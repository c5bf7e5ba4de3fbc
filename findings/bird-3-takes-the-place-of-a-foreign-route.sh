#!/usr/bin/env bash
# BIRD 3.1.8: a kernel route that somebody else has made is replaced at BIRD's next scan, and gone for good when BIRD's own route ends.
#
# What is surprising. BIRD's kernel protocol has never touched routes that it did not make ("alien" routes): BIRD 2 leaves such a
# route where it is, and gives up its own one for the same prefix and metric. With BIRD 3 one would expect the same. It does so only until
# the next scan of the kernel's table: then BIRD puts its own route in the place of the foreign one, if that has the metric of its
# kernel protocol. When BIRD's route ends (a withdrawal, a new configuration), it removes it and there is no route any more: the one that
# was there before is lost, and whoever made it is told only that it was deleted. Nothing is logged.
#
# Seen with bird3 3.1.8-0+deb13u1 of Debian 13 and bird2 2.0.12-7 of Debian 12, Linux 6.18.44, iproute2 6.1.0-3; foreign route: `proto boot`
# through a tap, metric 768, BIRD's kernel protocol has `metric 768`, `scan time 1`:
# BIRD 2: foreign route after the scan, foreign route after the end of BIRD's. BIRD 3: BIRD's route after the scan, none after its end.
# 3.4.0-1 of Debian's testing suite does as 3.1.8 does.
#
# Who is hurt: hosts where something else than BIRD makes routes (agents for virtual machines or containers, DHCP clients, administrators)
# with the metric that BIRD has: BIRD's default of 32 is a metric that people take, too. After an upgrade from BIRD 2 a local address
# that another router announces as well is lost at the first withdrawal.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root, curl and /dev/net/tun. Takes about 25 s.
set -euo pipefail

[ "$(id -u)" = 0 ] && [ -c /dev/net/tun ] || { echo "needs root and /dev/net/tun" >&2; exit 2; }
command -v curl >/dev/null || { echo "needs curl" >&2; exit 2; }
folder=$(mktemp -d)
processes=()
finish() {
    [ ${#processes[@]} = 0 ] || kill "${processes[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

apt-get download -qq bird2=2.0.12-7 libssh-gcrypt-4=0.10.6-0+deb12u3 iproute2=6.1.0-3 libbpf1=1:1.1.2-0+deb12u1 \
    libmnl0=1.0.4-3 libelf1=0.188-2.1 >/dev/null 2>&1 ||
    { echo "cannot download BIRD 2.0.12-7, iproute2 6.1.0-3 and their libraries from Debian 12" >&2; exit 2; }
for package in ./*.deb; do dpkg -x "$package" two; done
rm ./*.deb

# BIRD 3 of Debian 13 with the loader and the libraries that it was built for.
while read -r sum path; do
    file=${path##*/}
    curl -sSf --max-time 60 -o "$file" "http://deb.debian.org/debian/pool/main/$path" && echo "$sum  $file" | sha256sum --check --quiet ||
        { echo "cannot download $file of Debian 13" >&2; exit 2; }
done <<'PACKAGES'
58eb86a04fb6d1bd229258fdbdd38feaf2e131cfd2116a023173f2be9ed1e231 b/bird3/bird3_3.1.8-0+deb13u1_amd64.deb
b59b0625cd1a791375d40dab23a4d5d3d0641e3d0a773501becdc3725b7f99cf g/glibc/libc6_2.41-12+deb13u5_amd64.deb
bd43e020b8fed399db3eebf098111f10fba4c436fff99ccad72cc7e27c9764ec e/e2fsprogs/libcom-err2_1.47.2-3+b12_amd64.deb
3c71917b490d1a17aed43196a2787a256ecf060526cdb20216a74bedc061b150 g/gcc-14/libgcc-s1_14.2.0-19_amd64.deb
30847c1fde4240567d7ed3aeab4f655dd591203758b857e85e824045aae70299 k/krb5/libgssapi-krb5-2_1.21.3-5+deb13u1_amd64.deb
7da07ee674b47f1f0be7cc89317c25310086a1f1761217d0f72e6ae2c5a69b84 k/krb5/libk5crypto3_1.21.3-5+deb13u1_amd64.deb
0b11ad17be0300b63ad4eeb4c6450fed24d34b7b740f23e5363dcb29ee6d5eba k/keyutils/libkeyutils1_1.6.3-6_amd64.deb
47d71d6a7f2e59b9bae5f89602397594805113b95889ad18fa703cd53abafc97 k/krb5/libkrb5-3_1.21.3-5+deb13u1_amd64.deb
3a0acd8b37955c0e102c756b52c97df2a31f67b96453c35dab70df218d309117 k/krb5/libkrb5support0_1.21.3-5+deb13u1_amd64.deb
eeadf2b5e755c9f183883feea2d9b5b28560284275d5f54d3e55d0923b1d0967 r/readline/libreadline8t64_8.2-6_amd64.deb
bc8cbc13617d1b21fa6f686f9f269a4f849f00624d5bb179785a058981701233 libs/libssh/libssh-4_0.11.5-0+deb13u1_amd64.deb
ffefb9af363e0e4592251b2533eb06453c8e470f7772e40263c4b2129251a6d5 o/openssl/libssl3t64_3.5.9-1~deb13u1_amd64.deb
8b9f6a7983e9418564e48a627518de4c03917b56efe68d7f3e93bd8fffa1cc10 n/ncurses/libtinfo6_6.5+20250216-2_amd64.deb
8c27c342230503b73dfde629642c3b352e87b554e06d60cf58772f236a305ceb z/zlib/zlib1g_1.3.dfsg+really1.3.1-1+deb13u1_amd64.deb
PACKAGES
for package in ./*.deb; do dpkg -x "$package" three; done

libraries=usr/lib/x86_64-linux-gnu
ip() { LD_LIBRARY_PATH="$folder/two/$libraries" "$folder/two/bin/ip" "$@"; }
# A BIRD of this version, or its client.
two() { local program=$1; shift; LD_LIBRARY_PATH="$folder/two/$libraries" exec "$folder/two/usr/sbin/$program" "$@"; }
three() {
    local program=$1; shift
    exec "$folder/three/$libraries/ld-linux-x86-64.so.2" --library-path "$folder/three/$libraries" "$folder/three/usr/sbin/$program" "$@"
}
cat > bird.conf <<BIRD
router id 192.0.2.1;
protocol device { }
protocol kernel {
    scan time 1;
    metric 768;
    ipv4 { import none; export all; };
}
protocol static {
    ipv4;
    include "$folder/route.conf";
}
BIRD

# Waits for a condition for so many seconds.
await() {
    local until=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $until ] || return 1; sleep 0.1; done
}

# What becomes of the foreign route with this BIRD: who has one after a scan, and after the end of BIRD's.
try() {
    local version=$1 holder daemon
    # A namespace without a name: it is gone with its last process.
    unshare --net sleep 110 &
    holder=$!
    processes+=("$holder")
    until [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    inside() { LD_LIBRARY_PATH="$folder/two/$libraries" nsenter --net=/proc/$holder/ns/net "$folder/two/bin/ip" "$@"; }
    inside link set lo up
    inside link add left type veth peer name right
    inside addr add 192.0.2.1/24 dev left
    inside link set left up
    inside link set right up
    inside tuntap add tapfind mode tap
    inside link set tapfind up
    inside route add 198.51.100.7/32 dev tapfind proto boot metric 768
    who() {
        case "$(inside -d route show 198.51.100.7/32)" in
            *"proto bird"*) echo "BIRD's" ;;
            *tapfind*) echo "the foreign one" ;;
            "") echo none ;;
            *) echo "another one" ;;
        esac
    }
    knows() { "$version" birdc -r -s "$version.ctl" show route 198.51.100.7/32 2>/dev/null | grep -q 198.51.100.7; }
    echo 'route 198.51.100.7/32 via 192.0.2.2;' > route.conf
    ( exec 3>&-; export -f two three; export folder libraries; exec nsenter --net=/proc/$holder/ns/net bash -c "$version bird -f -c bird.conf -s $version.ctl" ) >"$version.log" 2>&1 &
    daemon=$!
    processes+=("$daemon")
    # In a subshell, because the client takes its place.
    await 20 eval "( knows )" || { echo "BIRD did not start: $(cat "$version.log")" >&2; exit 2; }
    sleep 3
    after_scan=$(who)
    : > route.conf
    ( "$version" birdc -s "$version.ctl" configure ) >/dev/null
    await 20 eval "! ( knows )" || { echo "BIRD's route did not end" >&2; exit 2; }
    sleep 3
    after_end=$(who)
    kill "$daemon"
}

try two
two_seen="$after_scan, $after_end"
echo "BIRD 2.0.12: route in the kernel after a scan: $after_scan; after the end of BIRD's: $after_end"
try three
echo "BIRD 3.1.8:  route in the kernel after a scan: $after_scan; after the end of BIRD's: $after_end"

if [ "$two_seen" = "the foreign one, the foreign one" ] && [ "$after_scan, $after_end" = "BIRD's, none" ]; then
    echo "as described: BIRD 3 takes the place of a route that is not its own, and leaves none"
else
    echo "CHANGED: the foreign route stays, or is lost with BIRD 2 as well" >&2
    exit 1
fi
