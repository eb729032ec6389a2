package tun

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Which queue of the device a packet comes by. The kernel's own choice counts ports, which a fragment does not have: a
// UDP flow of small and of large datagrams would come by two queues and overtake itself. So we choose, as network cards
// do: TCP, which does not fragment, by addresses and ports, everything else by addresses. In IPv6 the flow label counts, too: all
// packets of a flow have the same, and fragments have it from their packet (RFC 6437, sections 2 and 3). Not in TCP, where Linux
// changes it after a timeout to find another way.
//
// The choice is a program of a dozen steps for the kernel's virtual machine (BPF), of the kind of socket filters, which
// read a packet from its IP header on. Where it is refused the kernel's own choice stays.

// instruction is one struct bpf_insn: code, destination and source register, jump offset, constant.
type instruction struct {
	code     byte
	dst, src byte
	jump     int16
	value    int32
}

// Codes of the instructions we need (Linux, Documentation/bpf/standardization/instruction-set.rst).
const (
	bpfLoadByte  = unix.BPF_LD | unix.BPF_ABS | unix.BPF_B // r0 = packet[value]
	bpfLoadHalf  = unix.BPF_LD | unix.BPF_ABS | unix.BPF_H
	bpfLoadWord  = unix.BPF_LD | unix.BPF_ABS | unix.BPF_W
	bpfLoadAt    = unix.BPF_LD | unix.BPF_IND | unix.BPF_W // r0 = packet[src+value]
	bpfMove      = unix.BPF_ALU | bpfMov | unix.BPF_X      // 32 bits, as all that follow
	bpfSet       = unix.BPF_ALU | bpfMov | unix.BPF_K
	bpfXor       = unix.BPF_ALU | unix.BPF_XOR | unix.BPF_X
	bpfAnd       = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	bpfRight     = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	bpfLeft      = unix.BPF_ALU | unix.BPF_LSH | unix.BPF_K
	bpfTimes     = unix.BPF_ALU | unix.BPF_MUL | unix.BPF_K
	bpfKeep      = bpf64 | bpfMov | unix.BPF_X // all 64 bits
	bpfGoto      = unix.BPF_JMP | unix.BPF_JA
	bpfIfEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfIfUnequal = unix.BPF_JMP | bpfJne | unix.BPF_K
	bpfIfBits    = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	bpfReturn    = unix.BPF_JMP | bpfExit

	bpf64, bpfMov, bpfJne, bpfExit = 0x07, 0xb0, 0x50, 0x90
)

// flowLabel is its part of the first word of an IPv6 header.
const flowLabel = 1<<20 - 1

// steering is the program: r0 is what was loaded, r6 must be the packet, r7 gathers the hash.
func steering() []instruction {
	var p []instruction
	add := func(i ...instruction) { p = append(p, i...) }
	load := func(code byte, at int32) { add(instruction{code: code, value: at}) }
	// A jump's target is known later; here says that it is the next instruction.
	jump := func(code byte, value int32) int {
		add(instruction{code: code, value: value})
		return len(p) - 1
	}
	here := func(from ...int) {
		for _, at := range from {
			p[at].jump = int16(len(p) - at - 1)
		}
	}
	fold := func() { add(instruction{code: bpfXor, dst: 7}) }

	add(instruction{code: bpfKeep, dst: 6, src: 1}, instruction{code: bpfSet, dst: 7})
	load(bpfLoadByte, 0) // version and header length
	add(instruction{code: bpfMove, dst: 8}, instruction{code: bpfRight, value: 4})
	v6 := jump(bpfIfUnequal, 4)

	for _, at := range []int32{12, 16} { // IPv4 addresses
		load(bpfLoadWord, at)
		fold()
	}
	load(bpfLoadHalf, 6)
	fragment := jump(bpfIfBits, 0x3fff) // more follow, or an offset
	load(bpfLoadByte, 9)
	other4 := jump(bpfIfUnequal, unix.IPPROTO_TCP)
	add(instruction{code: bpfAnd, dst: 8, value: 15}, instruction{code: bpfLeft, dst: 8, value: 2})
	ports := jump(bpfGoto, 0)

	here(v6)
	for at := int32(8); at < 40; at += 4 { // IPv6 addresses
		load(bpfLoadWord, at)
		fold()
	}
	load(bpfLoadByte, 6)
	tcp6 := jump(bpfIfEqual, unix.IPPROTO_TCP)
	load(bpfLoadWord, 0)
	add(instruction{code: bpfAnd, value: flowLabel})
	fold()
	other6 := jump(bpfGoto, 0)
	here(tcp6)
	add(instruction{code: bpfSet, dst: 8, value: 40})

	here(ports)
	add(instruction{code: bpfLoadAt, src: 8})
	fold()

	here(fragment, other4, other6)
	// Two rounds of multiplication spread neighbouring addresses and ports.
	for _, odd := range []uint32{0x85ebca6b, 0xc2b2ae35} {
		add(instruction{code: bpfMove, src: 7}, instruction{code: bpfRight, value: 16}, instruction{code: bpfXor, dst: 7},
			instruction{code: bpfTimes, dst: 7, value: int32(odd)})
	}
	add(instruction{code: bpfMove, src: 7}, instruction{code: bpfRight, value: 16}, instruction{code: bpfReturn})
	return p
}

func assemble(p []instruction) []byte {
	var b []byte
	for _, i := range p {
		registers := i.src<<4 | i.dst
		if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
			registers = i.dst<<4 | i.src // bit fields begin at the other end
		}
		b = append(b, i.code, registers)
		b = binary.NativeEndian.AppendUint16(b, uint16(i.jump))
		b = binary.NativeEndian.AppendUint32(b, uint32(i.value))
	}
	return b
}

// loadProgram gives a program to the kernel: a descriptor of it.
func loadProgram(p []instruction) (int, error) {
	code, license := assemble(p), []byte("GPL\x00") // what it calls, loads of packet data, is for any
	attr := struct {
		kind, count   uint32
		code, license uint64
		level, size   uint32
		log           uint64
		version       uint32
		flags         uint32
	}{
		kind: unix.BPF_PROG_TYPE_SOCKET_FILTER, count: uint32(len(p)),
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(code)
	runtime.KeepAlive(license)
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// steer makes the choice of queue ours; false where the kernel refuses.
func (d *Device) steer() bool {
	program, err := loadProgram(steering())
	if err != nil {
		return false
	}
	defer unix.Close(program) // the device holds it
	number := int32(program)
	var errno syscall.Errno
	if err := d.queues[0].raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TUNSETSTEERINGEBPF, uintptr(unsafe.Pointer(&number)))
	}); err != nil {
		return false
	}
	return errno == 0
}
