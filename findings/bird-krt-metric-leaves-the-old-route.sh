#!/usr/bin/env bash
# BIRD 2.0.12: a filter that sets krt_metric makes every change of that metric leave the old route behind, and it wins.
#
# What is surprising. The kernel protocol of BIRD lets an export filter set krt_metric for each route. Published configurations
# use this to carry a priority from BGP into the kernel: krt_metric = 2147483647 - bgp_local_pref. When the preference of a
# route changes, one would expect BIRD to replace its kernel route. It installs the new one and leaves the old one: for the
# kernel the metric is part of a route's key, so both are there. If the metric rises (a priority ends), the old, lower one
# goes on being used, and the change has no effect. When BGP withdraws the route, BIRD has one of the two removed, the lower one, and
# packets go on, by the other one, to a router that has said that it has no such route, while `birdc show route` shows none.
# The next scan of the kernel's table puts it right: `scan time`, 60 s by default.
#
# Seen with BIRD 2.0.12-7 of Debian 12, Linux 6.18.44: metric 512, then 1024: both in the kernel, 512 used. Withdrawn: 1024 still there
# and used. The other way round, 1024 and then 512: both, then after the withdrawal 1024, 20 s later as well; with `scan time 2` it was gone
# after 3 s.
#
# Who is hurt: whoever carries a priority, a MED or a local preference into kernel metrics: a virtual machine's old host goes on
# being used for up to a minute after a migration. With a fixed `metric` in the kernel protocol nothing stays.
#
# Exit code 0: behaves as described. 1: it does not any more. 2: could not be tried. Needs root. Takes about 20 s.
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

apt-get download -qq bird2=2.0.12-7 libssh-gcrypt-4=0.10.6-0+deb12u3 iproute2=6.1.0-3 libbpf1=1:1.1.2-0+deb12u1 \
    libmnl0=1.0.4-3 libelf1=0.188-2.1 >/dev/null 2>&1 ||
    { echo "cannot download BIRD 2.0.12-7, iproute2 6.1.0-3 and their libraries from Debian 12" >&2; exit 2; }
for package in ./*.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu"
bird="$folder/root/usr/sbin/bird" birdc="$folder/root/usr/sbin/birdc" ip="$folder/root/bin/ip"

# Two routers in namespaces without names: they are gone with their last process.
unshare --net sleep 110 & announcer=$!
unshare --net sleep 110 & learner=$!
processes+=("$announcer" "$learner")
own=$(readlink /proc/self/ns/net)
for holder in $announcer $learner; do
    until [ "$(readlink /proc/$holder/ns/net)" != "$own" ]; do sleep 0.01; done
done
on() { local holder=$1; shift; nsenter --net="/proc/$holder/ns/net" "$@"; }

on $announcer "$ip" link add left type veth peer name right netns $learner
on $announcer "$ip" addr add 192.0.2.1/24 dev left
on $learner "$ip" addr add 192.0.2.2/24 dev right
for holder in $announcer $learner; do on $holder "$ip" link set lo up; done
on $announcer "$ip" link set left up
on $learner "$ip" link set right up

metric() { echo "define LOCAL_PREFERENCE = $((2147483647 - $1));" > preference.conf; }
metric 512
printf 'route 198.51.100.7/32 blackhole;\n' > route.conf
cat > announcer.conf <<BIRD
router id 192.0.2.1;
include "$folder/preference.conf";
protocol device { }
protocol static machines {
    ipv4;
    include "$folder/route.conf";
}
protocol bgp learner {
    local 192.0.2.1 as 64512;
    neighbor 192.0.2.2 as 64512;
    connect delay time 1;
    ipv4 { import none; next hop self; export filter { bgp_local_pref = LOCAL_PREFERENCE; accept; }; };
}
BIRD
cat > learner.conf <<BIRD
router id 192.0.2.2;
protocol device { }
protocol direct { ipv4; }
protocol kernel {
    metric 0;
    ipv4 { import none; export filter { krt_metric = 2147483647 - bgp_local_pref; accept; }; };
}
protocol bgp announcer {
    local 192.0.2.2 as 64512;
    neighbor 192.0.2.1 as 64512;
    connect delay time 1;
    ipv4 { import all; export none; };
}
BIRD
nsenter --net=/proc/$announcer/ns/net "$bird" -f -c announcer.conf -s announcer.ctl & processes+=($!)
nsenter --net=/proc/$learner/ns/net "$bird" -f -c learner.conf -s learner.ctl & processes+=($!)

routes() { on $learner "$ip" -o route show 198.51.100.7 | sed 's/  */ /g; s/^/    /'; }
used() { on $learner "$ip" -o route get fibmatch 198.51.100.7 2>/dev/null | grep -o 'metric [0-9]*' || echo none; }
# Waits for a condition for so many seconds.
await() {
    local until=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $until ] || return 1; sleep 0.1; done
}
shows() { routes | grep -q "metric $1\b"; }
knows_nothing() { [ -z "$("$birdc" -r -s learner.ctl show route 198.51.100.7/32 2>/dev/null | grep 198.51)" ]; }
announce_again() { "$birdc" -s announcer.ctl configure >/dev/null; }

await 40 shows 512 || { echo "the BGP session or the route did not come up" >&2; exit 2; }
echo "metric 512:"; routes

metric 1024
announce_again
await 20 shows 1024 || { echo "the new metric did not arrive" >&2; exit 2; }
sleep 2
echo "two seconds after the change to metric 1024:"; routes
after_change=$(used)
echo "    the kernel uses: $after_change"

: > route.conf
announce_again
await 20 knows_nothing || { echo "the withdrawal did not arrive" >&2; exit 2; }
sleep 5
echo "five seconds after the withdrawal, BIRD has no route to it:"; routes
after_withdrawal=$(used)
echo "    the kernel uses: $after_withdrawal"

if [ "$after_change" = "metric 512" ] && [ "$after_withdrawal" = "metric 1024" ]; then
    echo "as described: the old metric stays and is used, and a withdrawal leaves one route"
else
    echo "CHANGED: no route is left behind, or another one" >&2
    exit 1
fi
