#!/bin/bash
# Two hosts in network namespaces, one link, and a tunnel that the first packet brings up. `make demo` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

stop() { echo "make demo: $*" >&2; exit 1; }
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

[ "$(id -u)" = 0 ] || stop "needs root to make network namespaces: run it as root, or with sudo"
[ -c /dev/net/tun ] || stop "no /dev/net/tun: modprobe tun, or give the container --device /dev/net/tun"
command -v go >/dev/null || stop "no Go compiler: install Go 1.26 and put it into PATH"
lab/install.sh demo
make --no-print-directory -s build

a=coati-demo-$$-a b=coati-demo-$$-b
dir=$(mktemp -d "${TMPDIR:-/tmp}/coati-demo-XXXXXX")
coati=$PWD/bin/coati
pids=()

remove() {
	set +e
	[ ${#pids[@]} = 0 ] || { kill "${pids[@]}"; wait "${pids[@]}"; } 2>/dev/null
	for host in $a $b; do
		ip netns pids $host 2>/dev/null | xargs -r kill -9
		ip netns del $host 2>/dev/null
	done
	rm -rf "$dir"
}
trap remove EXIT
trap 'exit 130' INT TERM HUP

# What a demo that was killed could not remove.
for host in $(ip netns list | awk '/^coati-demo-/ {print $1}'); do
	pid=${host#coati-demo-}
	kill -0 "${pid%-*}" 2>/dev/null && continue
	ip netns pids "$host" | xargs -r kill -9
	ip netns del "$host"
done

# For what runs in the background it is spelled out: a function would be a shell of its own, in the signal's way.
on() { ip netns exec "$@"; }

# host NAME NUMBER: one address on the link, 10.9.0.N, and one in a LAN of its own, 10.N.0.1
host() {
	on "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv4.ip_forward=1
	ip -n "$1" link set lo up
	ip -n "$1" link set eth0 up
	ip -n "$1" addr add "10.9.0.$2/24" dev eth0
	ip -n "$1" addr add "10.$2.0.1/24" dev lo
}
ip netns add $a || stop "cannot make a network namespace: needs CAP_SYS_ADMIN, in a container --privileged"
ip netns add $b
ip -n $a link add eth0 type veth peer name eth0 netns $b
host $a 1
host $b 2

umask 077
head -c 24 /dev/urandom | base64 >"$dir/demo.psk"
# conf OTHER-NAME OTHER-NUMBER
conf() { printf '[tunnel.site-%s]\nremote = "10.9.0.%s"\npsk-file = "demo.psk"\nremote-ts = ["10.%s.0.0/24"]\n' "$1" "$2" "$2"; }
conf b 2 >"$dir/a.toml"
conf a 1 >"$dir/b.toml"

say "The configuration of site a"
cat "$dir/a.toml"

# start HOST LETTER
start() {
	ip netns exec "$1" "$coati" run --config "$dir/$2.toml" --control "$dir/$2.sock" >"$dir/$2.log" 2>&1 &
	pids+=($!)
	for _ in $(seq 100); do
		"$coati" version >/dev/null && "$coati" status --control "$dir/$2.sock" >/dev/null 2>&1 && return
		kill -0 $! 2>/dev/null || break
		sleep 0.1
	done
	cat "$dir/$2.log" >&2
	stop "coati did not start on site $2: its log is above"
}
start $a a
start $b b

ip netns exec $a tcpdump -i eth0 -n -U -s 64 -B 65536 -w "$dir/link.pcap" >"$dir/tcpdump.log" 2>&1 &
tcpdump=$!
pids+=($tcpdump)
until grep -q 'listening on' "$dir/tcpdump.log"; do
	kill -0 $tcpdump 2>/dev/null || { cat "$dir/tcpdump.log" >&2; stop "tcpdump did not start"; }
	sleep 0.1
done

say "The first ping brings the tunnel up"
on $a ping -n -c 5 -i 0.2 -W 3 -I 10.1.0.1 10.2.0.1 | tee "$dir/ping" || true
grep -q ' 0% packet loss' "$dir/ping" || { tail -20 "$dir"/[ab].log >&2; stop "pings were lost: the ends of both logs are above"; }

say "A file of 256 MiB through it, over TCP"
head -c 256M /dev/urandom >"$dir/sent"
ip netns exec $b socat -u -b 262144 TCP-LISTEN:5001,bind=10.2.0.1 "CREATE:$dir/received" &
receiver=$!
pids+=($receiver)
until on $b ss -Hltn 'sport = :5001' | grep -q .; do kill -0 $receiver; sleep 0.05; done
begin=$(date +%s%N)
timeout 300 ip netns exec $a socat -u -b 262144 "FILE:$dir/sent" TCP:10.2.0.1:5001,bind=10.1.0.1
wait $receiver
took=$((($(date +%s%N) - begin) / 1000000))
for file in sent received; do printf '%-9s %s\n' $file "$(sha256sum <"$dir/$file" | cut -d' ' -f1)"; done
cmp -s "$dir/sent" "$dir/received" || stop "what was received is not what was sent"
echo "the same; $((256 * 1024 * 1024 * 8 / took / 1000)) Mbit/s ($took ms)"

kill $tcpdump
wait $tcpdump || true
say "What was on the link, in frames"
count() { tcpdump -r "$dir/link.pcap" -n "$1" 2>/dev/null | wc -l; }
ike='(udp port 500 or (udp port 4500 and udp[8:4] = 0))'
esp='(esp or (udp port 4500 and udp[8:4] != 0))'
printf '%-14s %s\n' IKE "$(count "$ike")" ESP "$(count "$esp")" ARP "$(count arp)" \
	"anything else" "$(count "not $ike and not $esp and not arp")"
[ "$(count "not $ike and not $esp and not arp")" = 0 ] || stop "something was in clear on the link"
[ "$(count "$esp")" -gt 1000 ] || stop "too little ESP on the link for a file of 256 MiB"

say "Site a: coati status"
"$coati" status --control "$dir/a.sock"
say "Site b: coati status"
"$coati" status --control "$dir/b.sock"
