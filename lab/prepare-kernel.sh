#!/bin/bash
# Unpacks Debian kernels, and packages that cannot be installed beside others, into a cache folder; installs none of them. Quiet and
# quick where they are there already.
# usage: prepare-kernel.sh [uml] [qemu] [libreswan] [openiked]
#   uml    User Mode Linux: a kernel that is a program, up in two seconds, with one processor
#   qemu   the kernel of this Debian under software emulation: several processors, slower; /dev/kvm is not used
# The folder is $COATI_KERNELS, or ~/.cache/coati-kernels. Needs root, apt-get, dpkg and kmod.
set -euo pipefail
cache=${COATI_KERNELS:-${XDG_CACHE_HOME:-$HOME/.cache}/coati-kernels}
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9

# unpack PACKAGE FOLDER; a folder is moved to its place when it is whole.
unpack() {
	[ ! -d "$cache/$2" ] || return 0
	local tmp
	tmp=$(mktemp -d "$cache/new.XXXXXX")
	if ! (cd "$tmp" && { apt-get -qq download "$1" 2>log || { apt-get -qq update >log 2>&1 && apt-get -qq download "$1" 2>log; }; }); then
		cat "$tmp/log" >&2
		rm -rf "$tmp"
		echo "prepare-kernel.sh: the package $1 cannot be downloaded" >&2
		return 1
	fi
	mkdir "$tmp/root"
	dpkg -x "$tmp"/*.deb "$tmp/root"
	mv "$tmp/root" "$cache/$2"
	rm -rf "$tmp"
}

# initrd builds the first root of a QEMU boot: it mounts this machine's files over 9p, and a throw-away layer on top.
initrd() {
	local root=$cache/qemu version r f
	[ ! -e "$root/initrd.gz" ] || return 0
	version=$(ls "$root/lib/modules")
	depmod -b "$root" "$version"
	r=$(mktemp -d "$cache/new.XXXXXX")
	mkdir "$r/bin" "$r/m" "$r/new" "$r/dev" "$r/proc" "$r/sys" "$r/t"
	cp "$cache/busybox/bin/busybox" "$r/bin/"
	for f in 9pnet_virtio 9p virtio_pci virtio_console overlay; do
		modprobe -d "$root" -S "$version" --show-depends "$f" | awk '$1 == "insmod" {print $2}'
	done | awk '!seen[$0]++' | while read -r f; do
		cp "$f" "$r/m/"
		basename "$f" >>"$r/m/order"
	done
	cat >"$r/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys
while read -r m; do $B insmod /m/$m; done </m/order
o=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o $o,cache=loose,ro host /new || { echo "the machine's files cannot be mounted"; $B poweroff -f; }
$B mount -t tmpfs t /t; $B mkdir /t/u /t/w /t/r
$B mount -t overlay -o lowerdir=/new,upperdir=/t/u,workdir=/t/w overlay /t/r || { echo "the throw-away layer cannot be mounted"; $B poweroff -f; }
out=$($B sed -n 's/.*LABOUT=\([^ ]*\).*/\1/p' /proc/cmdline)
$B mkdir -p /t/r$out; $B mount -t 9p -o $o,cache=none out /t/r$out
$B umount /sys; $B umount /proc; $B mount --move /dev /t/r/dev
exec $B switch_root /t/r $out/.kernel/stage2
INIT
	chmod +x "$r/init"
	(cd "$r" && find . | cpio -o -H newc --quiet | gzip -1) >"$root/initrd.new"
	mv "$root/initrd.new" "$root/initrd.gz"
	rm -rf "$r"
}

for kind in "${@:-uml}"; do
	case $kind in
	uml) unpack user-mode-linux uml ;;
	libreswan | openiked) unpack "$kind" "$kind" ;;
	qemu)
		package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1)
		unpack "${package:?apt knows no linux-image-amd64}" qemu
		unpack busybox-static busybox
		initrd
		;;
	*)
		echo "prepare-kernel.sh: nothing is known of $kind: uml, qemu, libreswan or openiked" >&2
		exit 2
		;;
	esac
done
