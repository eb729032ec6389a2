package packet

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func octets(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A front is handed on only if a header has room for it, every length in it fits, and nothing is left to do on the way.
func TestFronts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		front Front
		fits  bool
	}{
		{"none", Front{}, true},
		{"none that is whole", Front{Cut: true}, false},
		{"router alert", Front{Octets: octets(t, "94040000")}, true},
		{"no operation, end, rubbish behind it", Front{Octets: octets(t, "010000ff")}, true},
		{"forty octets", Front{Octets: append(octets(t, "0727 04"), make([]byte, 37)...)}, true},
		{"more than a header has room for", Front{Octets: bytes.Repeat([]byte{1}, 44)}, false},
		{"no multiple of four", Front{Octets: octets(t, "0101")}, false},
		{"an option longer than the rest", Front{Octets: octets(t, "01940400")}, false},
		{"an option of no length", Front{Octets: octets(t, "94000000")}, false},
		{"an option without a length", Front{Octets: octets(t, "01010194")}, false},
		{"cut off", Front{Octets: octets(t, "94040000"), Cut: true}, false},
	} {
		if got := c.front.Fits4(); got != c.fits {
			t.Errorf("ipv4 options, %s: fits %t", c.name, got)
		}
	}
	const hop, dst, routing = "3c00 0502 0000 0100", "2b00 0104 0000 0000", "3200 0400 0000 0000"
	chain := func(headers ...string) []byte { return octets(t, strings.Join(headers, "")) }
	for _, c := range []struct {
		name  string
		front Front
		last  int
		fits  bool
	}{
		{"none", Front{}, 0, true},
		{"hop-by-hop", Front{Octets: chain(hop)}, 0, true},
		{"hop-by-hop, destination options, routing", Front{Octets: chain(hop, dst, routing)}, 16, true},
		{"a long one", Front{First: ProtoDestOpts, Octets: append(octets(t, "3202"), make([]byte, 22)...)}, 0, true},
		{"hop-by-hop in the middle", Front{First: ProtoDestOpts, Octets: chain("0000 0104 0000 0000", hop)}, 0, false},
		{"a fragment header", Front{First: ProtoFragment, Octets: chain(routing)}, 0, false},
		{"a transport header", Front{First: ProtoUDP, Octets: chain(routing)}, 0, false},
		{"segments left", Front{First: ProtoRouting, Octets: chain("3200 0001 0000 0000")}, 0, false},
		{"longer than there is", Front{Octets: chain("3c01 0502 0000 0100")}, 0, false},
		{"shorter than a header", Front{Octets: chain(hop, "2b00")}, 0, false},
		{"eight", Front{First: ProtoDestOpts, Octets: bytes.Repeat(chain("3c00 0104 0000 0000"), maxExtensionHeaders)}, 0, false},
		{"cut off", Front{Octets: chain(hop), Cut: true}, 0, false},
	} {
		if last, got := c.front.Fits6(); got != c.fits || last != c.last {
			t.Errorf("ipv6 headers, %s: fits %t, the last at %d", c.name, got, last)
		}
	}
}

// What our kernel noted is taken out, and what others noted stays (RFC 791, section 3.1; RFC 781 for timestamps).
func TestUnrecord(t *testing.T) {
	t.Parallel()
	here := netip.MustParseAddr("192.0.2.2")
	const ours, other = "c0000202", "c0000201"
	for _, c := range []struct{ name, before, after string }{
		{"a route of two", "01 070b 0c" + other + ours, "01 070b 08" + other + "00000000"},
		{"a route of others, full", "01 0707 08" + other, ""},
		{"an empty route", "01 0707 04 00000000", ""},
		{"times", "440c 0d00 00000001 00000002", "440c 0900 00000001 00000000"},
		{"no times yet", "4408 0500 00000000", ""},
		{"times, and one too many", "4408 0910 00000001", "4408 0900 00000001"},
		{"times with addresses", "4414 1501" + other + "00000001" + ours + "00000002", "4414 0d01" + other + "00000001" + "00000000 00000000"},
		{"times with addresses of others", "440c 0d01" + other + "00000001", ""},
		{"times of given addresses", "440c 0d03" + ours + "00000001", "440c 0503" + ours + "00000000"},
		{"times of given addresses, not ours", "440c 0d03" + other + "00000001", ""},
		{"times of an unknown kind", "440c 0d07" + ours + "00000001", ""},
		{"behind another option", "9404 0000 0707 08" + ours + "00", "9404 0000 0707 04 00000000 00"},
		{"behind the end of the list", "00 0707 08" + ours, ""},
		{"a pointer outside", "01 0707 ff" + ours, ""},
		{"a pointer of nought", "01 0707 00" + ours, ""},
		{"an option longer than the rest", "01 070f 08" + ours, ""},
		{"a route without a pointer", "0702 0101", ""},
		{"times without a pointer", "4403 0500", ""},
	} {
		got, want := octets(t, c.before), octets(t, c.after)
		if c.after == "" {
			want = bytes.Clone(got)
		}
		if Unrecord(got, here); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", c.name, got, want)
		}
	}
}

// Whatever the octets: nothing outside them is read, what fits is a chain that Parse follows to its end, and a note taken out
// of options leaves them as readable as they were.
func FuzzFront(f *testing.F) {
	f.Add(octets(f, "94040000"), byte(0))
	f.Add(octets(f, "440c0d00 0000000100000002"), byte(0))
	f.Add(octets(f, "3c00050200000100 3200010400000000"), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, first byte) {
		if len(b) > 2048 {
			return
		}
		front := Front{Octets: bytes.Clone(b), First: first}
		if last, ok := front.Fits6(); ok && len(b) > 0 {
			front.Octets[last] = ProtoESP
			ip := append(make([]byte, IPv6Len), front.Octets...)
			ip[0], ip[6] = 0x60, first
			IPv6(ip).SetPayloadLen(len(front.Octets))
			var i Info
			if err := Parse(ip, &i); err != nil || i.Protocol != ProtoESP || i.Transport != len(ip) {
				t.Errorf("%v: protocol %d at %d of %d", err, i.Protocol, i.Transport, len(ip))
			}
		}
		options := Front{Octets: bytes.Clone(b)}
		fits := options.Fits4()
		Unrecord(options.Octets, netip.AddrFrom4([4]byte{192, 0, 2, 2}))
		if options.Fits4() != fits {
			t.Errorf("%x fits %t, but not %x", b, fits, options.Octets)
		}
	})
}
