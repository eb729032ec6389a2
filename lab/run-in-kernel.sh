#!/bin/bash
# run-in-kernel.sh [-k uml|qemu] [-t SECONDS] [-o FOLDER] [-m MEGABYTES] [-e NAME=VALUE]... -- COMMAND ARGUMENT...
# Runs COMMAND as root as if on this machine, but on another Linux kernel: one that has ESP, PF_KEY, veth and TUN.
#   * This machine's files are there read-only, under a throw-away layer that takes every write.
#   * FOLDER (default: a new one) is the only writable part of this machine, at the same path; $LAB_OUT names it.
#   * What COMMAND writes comes to stdout; what the kernel says is in FOLDER/.kernel/console.log.
#   * The exit status is COMMAND's; 124: it took longer than SECONDS (300); 125: the kernel did not come as far as
#     running it, and the end of what it said is on stderr.
# Needs root, and prepare-kernel.sh's cache folder, which it makes where it is missing.
set -u
usage() {
	sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
kind=uml out='' limit=300 memory=1024 environment=()
while getopts k:t:o:m:e: flag; do
	case $flag in
	k) kind=$OPTARG ;; t) limit=$OPTARG ;; o) out=$OPTARG ;; m) memory=$OPTARG ;; e) environment+=("$OPTARG") ;; *) usage ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
here=$(dirname "$(realpath "$0")")
cache=${COATI_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/coati-kernels}
"$here/prepare-kernel.sh" "$kind" || exit 125
out=${out:-$(mktemp -d -t coati-kernel.XXXXXX)}
mkdir -p "$out"
out=$(realpath "$out")
work=$out/.kernel
rm -rf "$work"
mkdir "$work"
case $kind in uml) modules=$cache/uml/usr/lib/uml/modules ;; *) modules=$cache/qemu/lib/modules ;; esac
[ "$kind" = uml ] || processors=$(nproc)

# What is needed is loaded at once and the kernel's own loading turned off: PF_KEY asks for every algorithm it knows, and
# each that is missing would cost a modprobe of a second.
wanted="af_packet veth tun dummy nf_tables nft_ct nft_reject xfrm_user af_key esp4 esp6 ah4 ah6 ipcomp ipcomp6 xfrm4_tunnel xfrm6_tunnel xfrm_interface
 gcm ghash-generic ccm ctr cbc seqiv echainiv authenc authencesn hmac cmac xcbc md5 rmd160 sha1_generic sha256_generic sha512_generic
 chacha20poly1305 chacha_generic poly1305_generic des_generic camellia_generic blowfish_generic cast5_generic crypto_null
 ghash_clmulni_intel aesni_intel chacha_x86_64 poly1305_x86_64 drbg jitterentropy_rng deflate nft_fib nft_chain_nat nft_meta nft_counter"

quoted() { [ $# -eq 0 ] || printf '%q ' "$@"; }
printf -v o %q "$out"
printf -v m %q "$modules"

# The second stage runs on top of the throw-away layer.
cat >"$work/stage2" <<END
#!/bin/bash
export PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LAB_OUT=$o LAB_KERNEL=$kind
mount -t proc proc /proc; mount -t sysfs sys /sys; mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run; mkdir -p /run/netns /run/lock /lib/modules
mount --bind $m /lib/modules
[ -c /dev/net/tun ] || { mkdir -p /dev/net; mknod /dev/net/tun c 10 200; }
modprobe -qa $(echo $wanted)
echo >/proc/sys/kernel/modprobe
ulimit -n 4096; ip link set lo up; hostname lab-$kind
for e in $(quoted ${environment[@]+"${environment[@]}"}); do export "\$e"; done
case $kind in
uml) port=/dev/tty1; stty -F \$port raw -echo ;;
*) for p in /sys/class/virtio-ports/vport*; do [ "\$(cat \$p/name)" != labout ] || port=/dev/\${p##*/}; done ;;
esac
exec 8>\$port
echo "up after \$(cut -d' ' -f1 /proc/uptime) s, Linux \$(uname -r)" >$o/.kernel/up
(cd $(quoted "$PWD") 2>/dev/null || cd /; exec $(quoted "$@")) </dev/null >&8 2>&8
echo \$? >$o/.kernel/status
echo "done after \$(cut -d' ' -f1 /proc/uptime) s" >>$o/.kernel/up
sync
sleep 0.1
echo o >/proc/sysrq-trigger
sleep 60
END
cat >"$work/stage1" <<END
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs t /mnt; mkdir /mnt/u /mnt/w /mnt/r
insmod $m/*/kernel/fs/overlayfs/overlay.ko
mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w overlay /mnt/r || echo "the throw-away layer cannot be mounted"
mkdir -p /mnt/r$o; mount -t hostfs -o $o none /mnt/r$o
mount -t devtmpfs dev /mnt/r/dev
cd /mnt/r; mkdir -p .old; pivot_root . .old
exec chroot . $o/.kernel/stage2 </dev/console >/dev/console 2>&1
END
chmod +x "$work/stage1" "$work/stage2"

case $kind in
uml)
	# UML keeps its memory in a file below TMPDIR.
	timeout -k 5 "$limit" "$cache/uml/usr/bin/linux.uml" mem="$memory"M rootfstype=hostfs rootflags=/ ro quiet uml_dir="$work" \
		init="$work/stage1" con=null con0=null,fd:2 con1=null,fd:3 </dev/null 3>&1 >"$work/console.log" 2>&1
	ended=$?
	;;
*)
	timeout -k 5 "$limit" qemu-system-x86_64 -M pc -accel tcg,thread=multi -cpu max,la57=off -m "$memory" -smp "$processors" -nodefaults \
		-display none -no-reboot -kernel "$cache"/qemu/boot/vmlinuz-* -initrd "$cache/qemu/initrd.gz" \
		-append "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off nokaslr cryptomgr.notests random.trust_cpu=1 LABOUT=$o" \
		-serial "file:$work/console.log" -device virtio-serial-pci -chardev file,id=o,path=/dev/stdout,append=on \
		-device virtserialport,chardev=o,name=labout -fsdev local,id=h,path=/,security_model=none,readonly=on,multidevs=remap \
		-device virtio-9p-pci,fsdev=h,mount_tag=host -fsdev local,id=w,path="$out",security_model=none \
		-device virtio-9p-pci,fsdev=w,mount_tag=out </dev/null | cat
	ended=${PIPESTATUS[0]}
	;;
esac
[ ! -s "$work/status" ] || exit "$(cat "$work/status")"
if [ "$ended" = 124 ] || [ "$ended" = 137 ]; then
	echo "run-in-kernel.sh: not done after $limit s; the kernel's last words:" >&2
	tail -5 "$work/console.log" >&2
	exit 124
fi
echo "run-in-kernel.sh: the kernel ended ($ended) before the command did; its last words:" >&2
sed '/^Call Trace/,$d' "$work/console.log" | tail -20 >&2
exit 125
