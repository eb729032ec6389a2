package lab

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"coati/gateway/control"
	"coati/packet"
)

// What stands between an IP header and ESP in transport mode, as the kernel's ESP hands it on and as ours does.

// A sentFront is IPv4 options, or IPv6 extension headers of which the last one's Next Header is written when it is sent.
type sentFront struct {
	what   string
	octets string // in hexadecimal
	first  byte   // of IPv6: the protocol number of the first header
}

// sentFronts: what begins with 0, 43 or 60 and is more than one header is for IPv6.
func sentFronts(v6 bool) []sentFront {
	if v6 {
		return []sentFront{
			{"hop-by-hop", "0000 0104 00000000", packet.ProtoHopByHop},
			{"a finished route", "0000 fd00 00000000", packet.ProtoRouting},
			{"destination options before a finished route", "2b00 0104 00000000 0000 fd00 00000000", packet.ProtoDestOpts},
			{"hop-by-hop, and destination options for the end", "3c00 0104 00000000 0001 3e0c 000000000000000000000000", packet.ProtoHopByHop},
			{"all", "3c00 0104 00000000 2b00 0104 00000000 3c00 fd00 00000000 0000 0104 00000000", packet.ProtoHopByHop},
		}
	}
	return []sentFront{
		{"router alert", "9404 0000", 0},
		{"no operation", "010101 00", 0},
		{"recorded route", "01 070f 04 000000000000000000000000", 0},
		{"recorded route that another began", "01 070f 08 0a000001 0000000000000000", 0},
		{"timestamps", "440c 0500 0000000000000000", 0},
		{"timestamps with addresses", "4414 0501 00000000000000000000000000000000", 0},
		{"full timestamps", "4408 0920 00000001", 0},
		{"forty octets", "9404 0000" + strings.Repeat("01", 36), 0},
	}
}

// wrap puts the front into a packet.
func (f sentFront) wrap(t *testing.T, pkt []byte) []byte {
	t.Helper()
	octets, err := hex.DecodeString(strings.ReplaceAll(f.octets, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if pkt[0]>>4 == 4 {
		pkt[0] += byte(len(octets) / 4)
		return slices.Insert(pkt, packet.IPv4Len, octets...)
	}
	front := packet.Front{Octets: octets, First: f.first}
	last, ok := front.Fits6()
	if !ok {
		t.Fatalf("%s is no chain", f.what)
	}
	octets[last], pkt[6] = pkt[6], f.first
	packet.IPv6(pkt).SetPayloadLen(len(pkt) - packet.IPv6Len + len(octets))
	return slices.Insert(pkt, packet.IPv6Len, octets...)
}

// frontListener takes datagrams, and says of each what stood in front of it.
func frontListener(t *testing.T, h *Host, at netip.Addr) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := h.Inside(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, streamPort)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		controlErr := raw.Control(func(fd uintptr) {
			options := [][2]int{{unix.IPPROTO_IP, unix.IP_RECVOPTS}}
			if at.Is6() {
				options = [][2]int{{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPOPTS}, {unix.IPPROTO_IPV6, unix.IPV6_RECVRTHDR}, {unix.IPPROTO_IPV6, unix.IPV6_RECVDSTOPTS}}
			}
			for _, o := range options {
				if err == nil {
					err = unix.SetsockoptInt(int(fd), o[0], o[1], 1)
				}
			}
		})
		err = errors.Join(err, controlErr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// took is what one datagram came with: control messages in their order, with the receiver's own address and every time of the day
// replaced, as they differ between hosts.
func took(t *testing.T, conn *net.UDPConn, at netip.Addr, want string) (string, bool) {
	t.Helper()
	buf, oob := make([]byte, 2048), make([]byte, 4096)
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	for {
		n, m, _, _, err := conn.ReadMsgUDP(buf, oob)
		if err != nil {
			return "", false
		}
		if string(buf[:n]) != want {
			continue // one that was sent a second time
		}
		messages, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, c := range messages {
			data := slices.Clone(c.Data)
			if c.Header.Level == unix.IPPROTO_IP {
				blankTimes(data)
			}
			text := hex.EncodeToString(data)
			if at.Is4() {
				text = strings.ReplaceAll(text, hex.EncodeToString(at.AsSlice()), "(receiver)")
			}
			fmt.Fprintf(&b, "%d/%d %s\n", c.Header.Level, c.Header.Type, text)
		}
		return b.String(), true
	}
}

// blankTimes overwrites what a timestamp option that stands first holds of the time of the day: a time that is there becomes ffffffff.
func blankTimes(options []byte) {
	if len(options) < 4 || options[0] != 68 {
		return
	}
	const begin, one = 4, 4
	step, at := one, begin
	if options[3]&0xf == 1 {
		step, at = 2*one, begin+one
	}
	for ; at+one <= int(options[1]); at += step {
		if binary.BigEndian.Uint32(options[at:]) > 1 {
			binary.BigEndian.PutUint32(options[at:], 0xffffffff)
		}
	}
}

// crosses sends a datagram with a front until it arrives, and says what it came with.
func crosses(t *testing.T, f sentFront, from *Host, src netip.Addr, to *net.UDPConn, dst netip.Addr) string {
	t.Helper()
	text := f.what + strings.Repeat(".", 40)
	pkt := f.wrap(t, Datagram{Protocol: protoUDP, SrcPort: 1234, DstPort: streamPort, Payload: []byte(text)}.packet(src, dst))
	var got string
	if !Within(20*time.Second, func() bool {
		from.FirePacketsBound(t, src, dst, [][]byte{slices.Clone(pkt)})
		var ok bool
		got, ok = took(t, to, dst, text)
		return ok
	}) {
		t.Errorf("%s: does not arrive", f.what)
	}
	return got
}

// TestInKernelFronts: packets with options and extension headers come out of our ESP as they come out of the kernel's, whoever
// sealed them.
func TestInKernelFronts(t *testing.T) {
	NeedKernel(t)
	pair := NewPair(t)
	a, b := pair.A, pair.B
	cases := frontCases()
	var left, right strings.Builder
	var all []kernelPeers
	for i, c := range cases {
		p := peersOf(c, i)
		all = append(all, p)
		left.WriteString(kernelTunnel(c, i, p))
		right.WriteString(kernelTunnel(c, i, p.reversed()))
	}
	addAddresses(t, pair, all...)
	user, kernel := startKernelPair(t, pair, left.String(), right.String())
	for i, c := range cases {
		t.Run(strings.ReplaceAll(c.String(), " ", "-"), func(t *testing.T) {
			results.Fill(t, peerKernel, roleBoth, caseFronts(c))
			p := all[i]
			sent := echoes(t, a, p.outerA, b, p.outerB, c)
			ours, theirs := frontListener(t, a, p.outerA), frontListener(t, b, p.outerB)
			defer ours.Close()
			defer theirs.Close()
			for _, f := range sentFronts(c.outer6) {
				toKernel, toUs := crosses(t, f, a, p.outerA, theirs, p.outerB), crosses(t, f, b, p.outerB, ours, p.outerA)
				sent++
				if toKernel != toUs || toKernel == "" {
					t.Errorf("%s: the kernel's ESP hands on\n%sand ours\n%s", f.what, toKernel, toUs)
				}
			}
			var sas control.Pair
			// A packet is counted when it has been handed on.
			if !Within(10*time.Second, func() bool {
				sas = pairOf(t, user, i)
				return sas.In.Packets >= uint64(sent) && sas.Out.Packets >= uint64(sent)
			}) || len(sas.In.Drops)+len(sas.Out.Drops) != 0 {
				t.Errorf("%d packets each way; %d in and %d out, drops %v %v", sent, sas.In.Packets, sas.Out.Packets, sas.In.Drops, sas.Out.Drops)
			}
		})
	}
	user.Alive(t)
	kernel.Alive(t)
}
