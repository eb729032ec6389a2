#!/bin/bash
# Brings what the lab needs onto a Debian machine: nothing, quietly, where everything is there.
# usage: install.sh [bench | arm64 | demo | kernel]; kernel: also what the second of the kernels of run-in-kernel.sh takes
set -euo pipefail
here=$(dirname "$(realpath "$0")")

# what must be there -> the package that has it
needs=(
	/usr/sbin/ip:iproute2 /usr/bin/ping:iputils-ping /usr/sbin/sysctl:procps /usr/sbin/ethtool:ethtool
	/usr/sbin/nft:nftables /usr/bin/tcpdump:tcpdump /usr/bin/socat:socat
	/usr/bin/tshark:tshark /usr/bin/ike-scan:ike-scan /usr/sbin/vpnc:vpnc
	/usr/bin/openssl:openssl /usr/lib/ipsec/charon:strongswan-charon /usr/sbin/swanctl:strongswan-swanctl
	/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so:libcharon-extra-plugins
	/usr/lib/ipsec/plugins/libstrongswan-eap-mschapv2.so:libcharon-extauth-plugins /usr/sbin/freeradius:freeradius
	/usr/lib/ipsec/plugins/libstrongswan-curve25519.so:libstrongswan-extra-plugins
	/usr/lib/ipsec/plugins/libstrongswan-gcm.so:libstrongswan-standard-plugins
	/usr/lib/ipsec/plugins/libstrongswan-kernel-netlink.so:libstrongswan
	/usr/lib/python3/dist-packages/scapy/__init__.py:python3-scapy
	/usr/lib/python3/dist-packages/cryptography/__init__.py:python3-cryptography
	# what Libreswan and OpenIKED run on; both are unpacked, as they would replace strongSwan
	/usr/bin/certutil:libnss3-tools "/usr/lib/*/libevent_pthreads-2.1.so.7:libevent-pthreads-2.1-7" "/usr/lib/*/libevent-2.1.so.7:libevent-2.1-7"
	"/usr/lib/*/libldns.so.3:libldns3" "/usr/lib/*/libunbound.so.8:libunbound8" "/usr/lib/*/libcurl-nss.so.4:libcurl3-nss"
	/usr/bin/setpriv:util-linux /usr/bin/iperf3:iperf3 /usr/sbin/modprobe:kmod
)
# Intel's library, beside our ciphers; there is none for other processors.
[ "${1:-}-$(uname -m)" != bench-x86_64 ] || needs+=(/usr/bin/gcc:gcc /usr/include/stdio.h:libc6-dev /usr/include/intel-ipsec-mb.h:libipsec-mb-dev)
[ "${1:-}" != arm64 ] || needs=(/usr/bin/qemu-aarch64:qemu-user) # and qemu-x86_64
[ "${1:-}" != kernel ] || needs+=(/usr/bin/qemu-system-x86_64:qemu-system-x86 /usr/bin/cpio:cpio)
[ "${1:-}" != demo ] || needs=("${needs[@]:0:7}")

missing=()
for need in "${needs[@]}"; do
	file=${need%%:*}
	# /sbin and /usr/sbin are one on a merged system only.
	compgen -G "$file" >/dev/null || [ -e "${file#/usr}" ] || missing+=("${need##*:}")
done
# Another kernel is unpacked, not installed.
kernels() {
	case ${1:-} in
	'') "$here/prepare-kernel.sh" uml libreswan openiked ;;
	kernel) "$here/prepare-kernel.sh" uml qemu libreswan openiked ;;
	esac
}
if [ ${#missing[@]} = 0 ]; then
	if [ "$(id -u)" = 0 ]; then kernels "$@"; fi
	exit 0
fi

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "lab/install.sh: missing: ${missing[*]}; install them, or run this as root on Debian" >&2
	exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A package must not start a daemon on this machine: the lab starts its own, in namespaces.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f "$log" $policy' EXIT
fi
if ! { apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	tail -20 "$log" >&2
	echo "lab/install.sh: apt-get failed; see above" >&2
	exit 1
fi
kernels "$@"
