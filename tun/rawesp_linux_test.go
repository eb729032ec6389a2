package tun

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rawPair opens raw ESP sockets at both ends of a link.
func rawPair(t testing.TB, v6 bool) (from, to *RawESP, here, there netip.Addr) {
	t.Helper()
	n := enterNamespace(t)
	o := n.another(t)
	n.connect(t, o)
	here, there, any := here4, there4, netip.IPv4Unspecified()
	if v6 {
		here, there, any = here6, there6, netip.IPv6Unspecified()
	}
	open := func() *RawESP {
		r, err := openHost(t, "ctun0", t.TempDir()).OpenRawESP(RawESPConfig{Local: any})
		ok(t, err)
		return r
	}
	from = open()
	n.in(t, o, func() { to = open() })
	return from, to, here, there
}

func buffers(n int) (bufs [][]byte) {
	for range n {
		bufs = append(bufs, make([]byte, 1<<16))
	}
	return bufs
}

func TestRawESP(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(familyName(v6), func(t *testing.T) {
			from, to, here, there := rawPair(t, v6)
			const tos = 0x2a // AF11, ECT(0)
			sent := make([]byte, 150*1400+36)
			rand.Read(sent)
			ok(t, from.Send(there, here, tos, sent, 1400))
			bufs, out := buffers(70), make([]Packet, 70)
			for rest := sent; len(rest) > 0; {
				n, err := to.Receive(bufs, out)
				ok(t, err)
				for _, p := range out[:n] {
					want := Packet{Data: rest[:min(1400, len(rest))], From: here, Local: there, TOS: tos}
					if diff := cmp.Diff(want, p, cmpAddr); diff != "" {
						t.Fatal(diff)
					}
					rest = rest[len(want.Data):]
				}
			}

			t.Log("a packet past the link's MTU is refused, the smaller ones of its run leave")
			if err := from.Send(there, netip.Addr{}, 0, sent[:4100], 2000); err != ErrTooBig {
				t.Errorf("got %v", err)
			}
			n, err := to.Receive(bufs, out)
			ok(t, err)
			if n != 1 || !bytes.Equal(out[0].Data, sent[4000:4100]) || out[0].From != here {
				t.Errorf("got %d packets", n)
			}

			t.Log("one that is longer than its buffer is left out")
			ok(t, from.Send(there, here, 0, sent[:1000], 0))
			ok(t, from.Send(there, here, 0, sent[:100], 0))
			bufs[0] = make([]byte, 500)
			for got := 0; got == 0; {
				got, err = to.Receive(bufs[:1], out)
				ok(t, err)
				if got > 0 && len(out[0].Data) != 100 {
					t.Errorf("got %d octets", len(out[0].Data))
				}
			}
		})
	}
}

func TestRawESPOfOneAddress(t *testing.T) {
	enterNamespace(t)
	h := openHost(t, "ctun0", t.TempDir())
	two, err := h.OpenRawESP(RawESPConfig{Local: netip.MustParseAddr("127.0.0.2")})
	ok(t, err)
	for i, to := range []string{"127.0.0.1", "127.0.0.2"} {
		ok(t, two.Send(netip.MustParseAddr(to), netip.MustParseAddr("127.0.0.2"), 0, []byte{byte(i)}, 0))
	}
	out := make([]Packet, 2)
	n, err := two.Receive(buffers(2), out)
	ok(t, err)
	if n != 1 || out[0].Data[0] != 1 {
		t.Errorf("%d packets, the first %x", n, out[0].Data)
	}
}

func TestRawESPAllocatesNothing(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(familyName(v6), func(t *testing.T) {
			from, to, here, there := rawPair(t, v6)
			sent, bufs, out := make([]byte, 20*1400), buffers(8), make([]Packet, 8)
			if allocs := testing.AllocsPerRun(50, func() {
				ok(t, from.Send(there, here, 0, sent, 1400))
				for got := 0; got < 20; {
					n, err := to.Receive(bufs, out)
					ok(t, err)
					got += n
				}
			}); allocs != 0 {
				t.Errorf("%v allocations a run", allocs)
			}
		})
	}
}
