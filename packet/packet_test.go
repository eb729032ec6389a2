package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func naiveSum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		s += uint32(x) << (8 * (1 - uint(i)%2))
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// same compares sums: 0 and 0xffff are both zero in ones' complement.
func same(a, b uint16) bool { return a == b || a%0xffff == 0 && b%0xffff == 0 }

func TestSumAgreesWithASlowOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.Just(byte(0xff))), 0, 700).Draw(t, "octets")
		want := naiveSum(b)
		if got := Sum(b, 0); !same(got, want) {
			t.Fatalf("sum %#x, want %#x", got, want)
		}
		dst := make([]byte, len(b)+3)
		if got := CopySum(dst, b, 0); !same(got, want) || !bytes.Equal(dst[:len(b)], b) || dst[len(b)] != 0 {
			t.Fatalf("copy with sum %#x, want %#x", got, want)
		}
		if k := len(b) / 4 * 2; !same(Sum(b[k:], Sum(b[:k], 0)), want) {
			t.Fatal("sums of parts do not add up")
		}
	})
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff}, 1408), uint16(0xffff), uint8(1))
	f.Add(bytes.Repeat([]byte{0x80, 1, 0xfe}, 700), uint16(1), uint8(63))
	f.Fuzz(func(t *testing.T, b []byte, initial uint16, align uint8) {
		at := int(align) % 64
		moved := append(make([]byte, at), b...)[at:]
		want := AddSum(naiveSum(b), initial)
		if got := Sum(moved, initial); !same(got, want) {
			t.Errorf("sum %#x, want %#x", got, want)
		}
		dst := make([]byte, len(b)+1)
		if got := CopySum(dst, moved, initial); !same(got, want) || !bytes.Equal(dst[:len(b)], b) || dst[len(b)] != 0 {
			t.Errorf("copy with sum %#x, want %#x", got, want)
		}
	})
}

// 64 KiB of ones fills the lanes of the vectors as far as they can be.
func TestSumOfTheLargest(t *testing.T) {
	for _, n := range []int{65535, 65536, 65537, 70000, 140001} {
		b := bytes.Repeat([]byte{0xff, 0xfe}, n)[:n]
		if got, want := Sum(b, 0), naiveSum(b); !same(got, want) {
			t.Errorf("%d octets: %#x, want %#x", n, got, want)
		}
	}
}

// All ones is the worst case for lost carries.
func TestSumCarries(t *testing.T) {
	for n := range 520 {
		b := bytes.Repeat([]byte{0xff}, n)
		if got, want := Sum(b, 0xffff), naiveSum(b); !same(got, want) {
			t.Fatalf("%d octets of ff: %#x, want %#x", n, got, want)
		}
	}
}

func TestUpdateChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "octets")
		old, to := binary.BigEndian.Uint16(b[4:]), rapid.Uint16().Draw(t, "to")
		before := ^Sum(b, 0)
		binary.BigEndian.PutUint16(b[4:], to)
		if got, want := UpdateChecksum(before, old, to), ^Sum(b, 0); !same(got, want) {
			t.Fatalf("updated %#x, computed %#x", got, want)
		}
	})
}

func TestParse(t *testing.T) {
	const v4 = "4500 0028 0000 4000 4006 0000 0a010001 0a020001"
	const tcp = "1388 1389 00000000 00000000 5010 0000 0000 0000"
	const v6 = "6ab00000 %s %s 40 fd010000000000000000000000000001 fd020000000000000000000000000001"
	six := func(length, next, rest string) string {
		return strings.Replace(strings.Replace(v6, "%s", length, 1), "%s", next, 1) + rest
	}
	for _, c := range []struct {
		name, packet string
		err          error
		proto        byte
		sport, dport uint16
		ports, frag  bool
		transport    int
		length       int
	}{
		{name: "tcp", packet: v4 + tcp, proto: 6, sport: 5000, dport: 5001, ports: true, transport: 20, length: 40},
		{name: "octets behind are padding", packet: v4 + tcp + "ffffff", proto: 6, sport: 5000, dport: 5001, ports: true, transport: 20, length: 40},
		{name: "options", packet: "4600 0020 0000 0000 4011 0000 0a010001 0a020001 94040000" + "00350036 0008 0000", proto: 17, sport: 53, dport: 54, ports: true, transport: 24, length: 32},
		{name: "first fragment", packet: "4500 001c 0001 2000 4011 0000 0a010001 0a020001" + "00350036 0100 0000", proto: 17, sport: 53, dport: 54, ports: true, frag: true, transport: 20, length: 28},
		{name: "later fragment", packet: "4500 001c 0001 0004 4011 0000 0a010001 0a020001" + "00350036 0100 0000", proto: 17, frag: true, transport: 20, length: 28},
		{name: "icmp echo", packet: "4500 001c 0000 0000 4001 0000 0a010001 0a020001" + "0800 0000 0001 0002", proto: 1, sport: 0x800, dport: 0x800, ports: true, transport: 20, length: 28},
		{name: "icmp v6 in ipv4 has no type", packet: "4500 001c 0000 0000 403a 0000 0a010001 0a020001" + "0800 0000 0001 0002", proto: 58, transport: 20, length: 28},
		{name: "tcp cut short", packet: "4500 0018 0000 0000 4006 0000 0a010001 0a020001" + "13881389", proto: 6, transport: 20, length: 24},
		{name: "tcp with a header of 4", packet: v4 + strings.Replace(tcp, "5010", "1010", 1), proto: 6, transport: 20, length: 40},
		{name: "tcp with a header beyond the end", packet: v4 + strings.Replace(tcp, "5010", "6010", 1), proto: 6, transport: 20, length: 40},
		{name: "empty", err: ErrShort},
		{name: "19 octets", packet: v4[:len(v4)-2], err: ErrShort},
		{name: "version 5", packet: "55" + v4[2:], err: ErrVersion},
		{name: "header of 16", packet: "44" + v4[2:] + tcp, err: ErrShort},
		{name: "header beyond the end", packet: "4f" + v4[2:] + tcp, err: ErrShort},
		{name: "length beyond the end", packet: strings.Replace(v4, "0028", "0029", 1) + tcp, err: ErrLength},
		{name: "length inside the header", packet: strings.Replace(v4, "0028", "0013", 1) + tcp, err: ErrLength},

		{name: "v6 udp", packet: six("0008", "11", "00350036 0008 0000"), proto: 17, sport: 53, dport: 54, ports: true, transport: 40, length: 48},
		{name: "v6 hop by hop, destination options", packet: six("0018", "00", "3c00 000000000000"+"1100 000000000000"+"00350036 0008 0000"), proto: 17, sport: 53, dport: 54, ports: true, transport: 56, length: 64},
		{name: "v6 first fragment", packet: six("0010", "2c", "1100 0001 00000001"+"00350036 0008 0000"), proto: 17, sport: 53, dport: 54, ports: true, frag: true, transport: 48, length: 56},
		{name: "v6 later fragment", packet: six("0010", "2c", "1100 0009 00000001"+"00350036 0008 0000"), proto: 17, frag: true, transport: 48, length: 56},
		{name: "v6 atomic fragment", packet: six("0010", "2c", "1100 0000 00000001"+"00350036 0008 0000"), proto: 17, sport: 53, dport: 54, ports: true, transport: 48, length: 56},
		{name: "v6 extension header beyond the end", packet: six("0008", "00", "1101 000000000000"), err: ErrShort},
		{name: "v6 extension header missing", packet: six("0000", "00", ""), err: ErrShort},
		{name: "v6 nine extension headers", packet: six("0048", "00", strings.Repeat("0000 000000000000", 9)), err: ErrHeaders},
		{name: "v6 39 octets", packet: six("0000", "3b", "")[:len(six("0000", "3b", ""))-2], err: ErrShort},
		{name: "v6 no next header", packet: six("0000", "3b", ""), proto: 59, transport: 40, length: 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			var i Info
			err := Parse(unhex(t, c.packet), &i)
			if err != c.err {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if i.Protocol != c.proto || i.SrcPort != c.sport || i.DstPort != c.dport || i.HasPorts != c.ports || i.Fragment != c.frag ||
				i.Transport != c.transport || i.Length != c.length {
				t.Errorf("%+v", i)
			}
			if i.Version == 6 && (i.TOS != 0xab || i.SrcAddr() != netip.MustParseAddr("fd01::1") || i.DstAddr() != netip.MustParseAddr("fd02::1")) {
				t.Errorf("traffic class %#x, %v -> %v", i.TOS, i.SrcAddr(), i.DstAddr())
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"450000280000400040060000 0a0100010a020001 1388138900000000000000005010000000000000",
		"6000000000082c40fd010000000000000000000000000001fd0200000000000000000000000000011100000900000001",
		"46000020000000004011000 00a0100010a020001 94040000 0035003600080000",
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var i Info
		if Parse(b, &i) != nil {
			return
		}
		if i.Length > len(b) || i.Transport > i.Length || i.Transport < IPv4Len {
			t.Fatalf("transport at %d of %d, packet of %d", i.Transport, i.Length, len(b))
		}
		if i.HasPorts && i.Protocol == ProtoTCP {
			tcp := TCP(b[i.Transport:i.Length])
			if tcp.HeaderLen() > len(tcp) {
				t.Fatal("tcp header beyond the packet")
			}
			tcp.ClampMSS(500)
		}
		for _, mtu := range []int{0, 1280} {
			var e []byte
			var ok bool
			if mtu == 0 {
				e, ok = AppendProhibited(nil, b, &i, i.DstAddr())
			} else {
				e, ok = AppendTooBig(nil, b, &i, i.DstAddr(), mtu)
			}
			var ei Info
			if ok && (Parse(e, &ei) != nil || ei.Length != len(e) || len(e) > ICMPErrorLen) {
				t.Fatal("icmp error that does not parse")
			}
		}
	})
}

// An independent decoder agrees with the ICMP errors made here.
func TestICMPErrors(t *testing.T) {
	udp4 := unhex(t, "45000030000040004011000 00a0100010a020001 0035003600 1c0000"+strings.Repeat("aa", 20))
	udp6 := unhex(t, "60000000001c1140fd010000000000000000000000000001fd020000000000000000000000000001 00350036001c0000"+strings.Repeat("aa", 20))
	for _, c := range []struct {
		name       string
		pkt        []byte
		tooBig     bool
		typ, code  byte
		mtu        uint32
		quotedFrom int
	}{
		{"v4 prohibited", udp4, false, 3, 13, 0, 28},
		{"v4 fragmentation needed", udp4, true, 3, 4, 1400, 28},
		{"v6 prohibited", udp6, false, 1, 1, 0, 48},
		{"v6 packet too big", udp6, true, 2, 0, 1400, 48},
	} {
		t.Run(c.name, func(t *testing.T) {
			var i Info
			if err := Parse(c.pkt, &i); err != nil {
				t.Fatal(err)
			}
			e, ok := AppendProhibited(nil, c.pkt, &i, i.DstAddr())
			if c.tooBig {
				e, ok = AppendTooBig(nil, c.pkt, &i, i.DstAddr(), int(c.mtu))
			}
			if !ok {
				t.Fatal("no answer")
			}
			first, at := gopacket.LayerType(layers.LayerTypeIPv4), 20
			if i.Version == 6 {
				first, at = layers.LayerTypeIPv6, 40
			}
			p := gopacket.NewPacket(e, first, gopacket.Default)
			if p.ErrorLayer() != nil {
				t.Fatal(p.ErrorLayer().Error())
			}
			if e[at] != c.typ || e[at+1] != c.code || binary.BigEndian.Uint32(e[at+4:]) != c.mtu {
				t.Errorf("icmp header % x", e[at:at+8])
			}
			var sum uint16
			if i.Version == 6 {
				sum = PseudoSum(e, ProtoICMPv6, len(e)-at)
			} else if !IPv4(e).ChecksumOK() {
				t.Error("ip checksum")
			}
			if Sum(e[at:], sum) != 0xffff {
				t.Error("icmp checksum")
			}
			if !bytes.Equal(e[c.quotedFrom:], c.pkt) {
				t.Error("the packet is not quoted")
			}
		})
	}
}

func TestNoICMPErrorAboutWhatMayNotBeAnswered(t *testing.T) {
	for name, s := range map[string]string{
		"icmp error":     "4500001c0000000040010000 0a0100010a020001 0301000000010002",
		"later fragment": "4500001c0001000440110000 0a0100010a020001 0035003601000000",
		"multicast":      "4500001c0001000040110000 0a010001e0000001 0035003600080000",
		"from nobody":    "4500001c0001000040110000 000000000a020001 0035003600080000",
		"icmpv6 error":   "6000000000083a40fd010000000000000000000000000001fd020000000000000000000000000001 0104000000000000",
	} {
		var i Info
		b := unhex(t, s)
		if err := Parse(b, &i); err != nil {
			t.Fatal(name, err)
		}
		if _, ok := AppendProhibited(nil, b, &i, netip.AddrFrom4([4]byte{10, 2, 0, 1})); ok {
			t.Errorf("%s is answered", name)
		}
	}
}

func TestClampMSS(t *testing.T) {
	for name, opts := range map[string]string{
		"alone":         "020405b4",
		"at an odd end": "01020405b4010000",
		"after others":  "0402080a00000001000000000204ffff0000",
	} {
		b := unhex(t, "13881389000000000000000000020000 00000000"+opts)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		b[12] = byte(len(b)/4) << 4
		tcp := TCP(b)
		tcp.SetChecksum(^Sum(b, 0))
		if !tcp.ClampMSS(1300) {
			t.Errorf("%s: not clamped", name)
		}
		if Sum(b, 0) != 0xffff {
			t.Errorf("%s: checksum wrong afterwards", name)
		}
		if !bytes.Contains(b[20:], []byte{2, 4, 1300 >> 8, 1300 & 0xff}) {
			t.Errorf("%s: options % x", name, b[20:])
		}
		if tcp.ClampMSS(1400) {
			t.Errorf("%s: raised", name)
		}
	}
	for _, opts := range []string{"00000000", "02000000", "01010102", "02ff0000", "fe020000"} {
		b := unhex(t, "138813890000000000000000600200000000 0000"+opts)
		if TCP(b).ClampMSS(100) {
			t.Errorf("options %s clamped", opts)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	b := unhex(t, "4500002800004000400600000a0100010a0200011388138900000000000000005010000000000000")
	var i Info
	if n := testing.AllocsPerRun(100, func() {
		if Parse(b, &i) != nil || i.Hash() == 0 {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSum(b *testing.B) {
	buf := make([]byte, 1408)
	b.SetBytes(1408)
	for b.Loop() {
		Sum(buf, 0)
	}
}

func BenchmarkCopySum(b *testing.B) {
	buf, dst := make([]byte, 1408), make([]byte, 1408)
	b.SetBytes(1408)
	for b.Loop() {
		CopySum(dst, buf, 0)
	}
}

func BenchmarkParse(b *testing.B) {
	buf := unhex(b, "4500002800004000400600000a0100010a0200011388138900000000000000005010000000000000")
	var i Info
	for b.Loop() {
		_ = Parse(buf, &i)
	}
}

// A mobility header is what an IPv6 packet carries, not one of its extension headers: its type is a selector.
func TestParseMobilityHeader(t *testing.T) {
	t.Parallel()
	pkt := make([]byte, IPv6Len+8+8)
	pkt[0], pkt[6] = 0x60, ProtoDestOpts
	IPv6(pkt).SetPayloadLen(16)
	pkt[IPv6Len] = ProtoMobility
	mh := pkt[IPv6Len+8:]
	mh[0], mh[2] = ProtoNoNext, 5 // binding update (RFC 6275, section 6.1.7)
	var info Info
	if err := Parse(pkt, &info); err != nil || info.Protocol != ProtoMobility || !info.HasPorts || info.SrcPort != 5<<8 || info.DstPort != 5<<8 || info.Transport != IPv6Len+8 {
		t.Errorf("%+v, %v", info, err)
	}
	IPv6(pkt).SetPayloadLen(8 + 4)
	if err := Parse(pkt[:len(pkt)-4], &info); err != nil || info.Protocol != ProtoMobility || info.HasPorts {
		t.Errorf("cut short: %+v, %v", info, err)
	}
	for proto := range 256 {
		var i Info
		i.Version, i.Protocol = 6, uint8(proto)
		if proto == ProtoICMP {
			i.Version = 4
		}
		i.ports([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x50, 14, 15, 16, 17, 18, 19, 20})
		if i.HasPorts != HasPorts(uint8(proto)) {
			t.Errorf("protocol %d has ports: parsed %t, said %t", proto, i.HasPorts, HasPorts(uint8(proto)))
		}
	}
}

// Every octet of a key, and nothing else, makes another flow.
func TestFlowKeysAreTheSameIfAllIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := FlowKey{SrcPort: rapid.Uint16().Draw(t, "port"), Protocol: ProtoTCP, Version: 4, HasPorts: true}
		copy(a.Src[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "src"))
		copy(a.Dst[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "dst"))
		b := a
		if !a.Is(&b) {
			t.Fatal("a key is not itself")
		}
		for i := range 16 {
			for _, octet := range []*byte{&b.Src[i], &b.Dst[i]} {
				*octet ^= 1 << (i % 8)
				if a.Is(&b) {
					t.Fatalf("octet %d of an address makes no difference", i)
				}
				*octet ^= 1 << (i % 8)
			}
		}
		for i, change := range []func(*FlowKey){
			func(k *FlowKey) { k.SrcPort++ },
			func(k *FlowKey) { k.DstPort++ },
			func(k *FlowKey) { k.Protocol++ },
			func(k *FlowKey) { k.Version = 6 },
			func(k *FlowKey) { k.HasPorts = false },
		} {
			if b = a; !a.Is(&b) {
				t.Fatal("a key is not its copy")
			}
			if change(&b); a.Is(&b) {
				t.Fatalf("change %d makes no difference", i)
			}
		}
	})
}

// The header's own check, with options and without, finds every wrong bit.
func TestIPv4ChecksumFindsEveryWrongBit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.IntRange(5, 15).Draw(t, "words")
		p := IPv4(rapid.SliceOfN(rapid.Byte(), 60, 60).Draw(t, "header"))
		p[0] = 0x40 | byte(words)
		p.FillChecksum()
		if !p.ChecksumOK() {
			t.Fatal("a right checksum is refused")
		}
		for bit := 4; bit < 32*words; bit++ {
			if bit == 4 {
				bit = 8 // not the header's length
			}
			p[bit/8] ^= 1 << (bit % 8)
			if p.ChecksumOK() {
				t.Fatalf("bit %d is wrong, and nobody finds it", bit)
			}
			p[bit/8] ^= 1 << (bit % 8)
		}
	})
}

func TestPseudoSumIsThatOfItsOctets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ip := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.Just(byte(0xff))), 40, 40).Draw(t, "ip")
		proto, length := rapid.Byte().Draw(t, "protocol"), rapid.IntRange(0, 1<<20).Draw(t, "length")
		ip[0] = ip[0]&0x0f | 0x40
		addresses := ip[12:20]
		if rapid.Bool().Draw(t, "v6") {
			ip[0] = ip[0]&0x0f | 0x60
			addresses = ip[8:40]
		}
		pseudo := binary.BigEndian.AppendUint32(bytes.Clone(addresses), uint32(length))
		if got, want := PseudoSum(ip, proto, length), naiveSum(append(pseudo, 0, 0, 0, proto)); !same(got, want) {
			t.Fatalf("sum %#x, want %#x", got, want)
		}
	})
}
