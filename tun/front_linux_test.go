package tun

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"coati/packet"
)

// wholePacket is a packet as it is on the wire, with front between its IP header and ESP, or the UDP header in front of ESP. The number of
// what follows the last extension header is written.
func wholePacket(src, dst netip.Addr, front packet.Front, udp bool, payload []byte) []byte {
	proto := byte(packet.ProtoESP)
	var head []byte
	if udp {
		proto = packet.ProtoUDP
		head = make([]byte, packet.UDPLen)
		binary.BigEndian.PutUint16(head, 4500)
		binary.BigEndian.PutUint16(head[2:], 4500)
		packet.UDP(head).SetLength(len(head) + len(payload))
	}
	if src.Is4() {
		ip := packet.IPv4(make([]byte, packet.IPv4Len))
		ip[0], ip[6], ip[8], ip[9] = 0x45+byte(len(front.Octets)/4), 0x40, 64, proto
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		pkt := packet.IPv4(slices.Concat(ip, front.Octets, head, payload))
		pkt.SetTotalLen(len(pkt))
		pkt.FillChecksum()
		return pkt
	}
	ip := packet.IPv6(make([]byte, packet.IPv6Len))
	ip[0], ip[6], ip[7] = 0x60, proto, 64
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	chain := bytes.Clone(front.Octets)
	if len(chain) > 0 {
		ip[6] = front.First
		last, ok := front.Fits6()
		if !ok {
			panic("no chain")
		}
		chain[last] = proto
	}
	pkt := packet.IPv6(slices.Concat(ip, chain, head, payload))
	pkt.SetPayloadLen(len(pkt) - packet.IPv6Len)
	if udp {
		u := packet.UDP(pkt[packet.IPv6Len+len(chain):])
		u.SetChecksum(^packet.Sum(u, packet.PseudoSum(pkt, packet.ProtoUDP, len(u))))
	}
	return pkt
}

// What stands between an IP header and ESP comes with each packet, raw or in UDP; where nothing does, nothing comes. What the
// kernel noted in it on arrival is taken out.
func TestWhatStandsInFrontOfESPIsReceived(t *testing.T) {
	// 256 octets of an option that whoever does not know it skips.
	big := func(next byte) []byte {
		return append([]byte{next, 31, 0x3e, 252}, make([]byte, 252)...)
	}
	longest := []byte{0, 255}
	for len(longest) < 2048 {
		n := min(255, 2048-len(longest)-2)
		longest = append(append(longest, 0x3e, byte(n)), make([]byte, n)...)
	}
	for _, c := range []struct {
		name  string
		v6    bool
		front packet.Front
		cut   bool
	}{
		{"router alert", false, packet.Front{Octets: []byte{0x94, 4, 0, 0}}, false},
		{"no operation", false, packet.Front{Octets: []byte{1, 1, 1, 0}}, false},
		{"record route", false, packet.Front{Octets: []byte{1, 7, 11, 8, 10, 0, 0, 1, 0, 0, 0, 0}}, false},
		{"timestamps", false, packet.Front{Octets: []byte{68, 12, 9, 0, 0, 0, 0, 1, 0, 0, 0, 0}}, false},
		{"timestamps and addresses", false, packet.Front{Octets: []byte{68, 20, 13, 1, 10, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}}, false},
		{"full timestamps", false, packet.Front{Octets: []byte{68, 8, 9, 0x30, 0, 0, 0, 1}}, false},
		{"forty octets", false, packet.Front{Octets: append([]byte{0x94, 4, 0, 0}, bytes.Repeat([]byte{1}, 36)...)}, false},
		{"hop-by-hop options", true, packet.Front{Octets: []byte{0, 0, 5, 2, 0, 0, 1, 0}, First: packet.ProtoHopByHop}, false},
		{"destination options", true, packet.Front{Octets: []byte{0, 0, 1, 4, 0, 0, 0, 0}, First: packet.ProtoDestOpts}, false},
		{"a finished route", true, packet.Front{Octets: []byte{0, 0, 253, 0, 0, 0, 0, 0}, First: packet.ProtoRouting}, false},
		{"all", true, packet.Front{Octets: []byte{60, 0, 1, 4, 0, 0, 0, 0, 43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 253, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0}, First: packet.ProtoHopByHop}, false},
		{"a long one", true, packet.Front{Octets: big(0), First: packet.ProtoDestOpts}, false},
		{"seven long ones", true, packet.Front{Octets: slices.Concat(bytes.Repeat(big(packet.ProtoDestOpts), 6), big(0)), First: packet.ProtoDestOpts}, false},
		{"more than there is room for", true, packet.Front{Octets: longest, First: packet.ProtoDestOpts}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := enterNamespace(t)
			o := n.another(t)
			n.connect(t, o)
			roomy := func(name string) {
				link, err := netlink.LinkByName(name)
				ok(t, err)
				ok(t, netlink.LinkSetMTU(link, 9000))
			}
			roomy("up0")
			n.in(t, o, func() { roomy("peer0") })
			src, dst := here4, there4
			if c.v6 {
				src, dst = here6, there6
			}
			from, err := openHost(t, "ctun0", t.TempDir()).OpenClear()
			ok(t, err)
			var u *UDP
			var raw *RawESP
			n.in(t, o, func() {
				h := openHost(t, "ctun1", t.TempDir())
				u, err = h.OpenUDP(UDPConfig{Local: netip.AddrPortFrom(dst, 4500)})
				ok(t, err)
				raw, err = h.OpenRawESP(RawESPConfig{Local: dst})
				ok(t, err)
			})
			for _, udp := range []bool{true, false} {
				buf := make([]byte, 1<<16)
				bare := packet.Front{}
				for i, front := range []packet.Front{c.front, c.front, bare} {
					payload := bytes.Repeat([]byte{byte(i + 1)}, 64)
					ok(t, from.Send(wholePacket(src, dst, front, udp, payload)))
					data, got := buf, packet.Front{}
					if udp {
						d, err := u.Sockets()[0].Receive(buf)
						ok(t, err)
						data, got = buf[:d.N], d.Front
					} else {
						var out [1]Packet
						_, err := raw.Receive([][]byte{buf}, out[:])
						ok(t, err)
						data, got = out[0].Data, out[0].Front
					}
					if !bytes.Equal(data, payload) {
						t.Errorf("udp %t: %x", udp, data)
					}
					if c.v6 && len(got.Octets) > 0 {
						if last, ok := got.Fits6(); ok {
							got.Octets[last] = 0
						}
					}
					if got.Cut != (c.cut && i < 2) || !got.Cut && (!bytes.Equal(got.Octets, front.Octets) || got.First != front.First) {
						t.Errorf("udp %t, packet %d: %x, first %d, cut %t", udp, i, got.Octets, got.First, got.Cut)
					}
				}
			}
		})
	}
}

// Datagrams with options do not share a run with others, whatever comes at once.
func TestRunsHaveOneFront(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		n := enterNamespace(t)
		o := n.another(t)
		n.connect(t, o)
		src, dst, front := here4, there4, packet.Front{Octets: []byte{0x94, 4, 0, 0}}
		if v6 {
			src, dst, front = here6, there6, packet.Front{Octets: []byte{0, 0, 1, 4, 0, 0, 0, 0}, First: packet.ProtoDestOpts}
		}
		from, err := openHost(t, "ctun0", t.TempDir()).OpenClear()
		ok(t, err)
		var u *UDP
		n.in(t, o, func() {
			u, err = openHost(t, "ctun1", t.TempDir()).OpenUDP(UDPConfig{Local: netip.AddrPortFrom(dst, 4500)})
			ok(t, err)
		})
		const each = 4
		for i := range 5 * each {
			f := packet.Front{}
			if i/each%2 == 1 {
				f = front
			}
			ok(t, from.Send(wholePacket(src, dst, f, true, bytes.Repeat([]byte{byte(i)}, 100))))
		}
		buf := make([]byte, 1<<16)
		for i := 0; i < 5*each; {
			d, err := u.Sockets()[0].Receive(buf)
			ok(t, err)
			for at := 0; at < d.N; at += d.SegSize {
				if with := i/each%2 == 1; int(buf[at]) != i || with != (len(d.Front.Octets) > 0) {
					t.Errorf("ipv6 %t: datagram %d of the run is number %d, front %x", v6, i, buf[at], d.Front.Octets)
				}
				i++
			}
		}
	}
}
