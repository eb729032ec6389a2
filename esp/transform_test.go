package esp

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"coati/packet"
	"coati/policy"
)

// everyLink is a link for each cipher of the table, and for each integrity algorithm beside a cipher of 16, of 8 and of no
// octets a block.
func everyLink() (out []link) {
	var integs []string
	for _, a := range policy.Algorithms {
		if a.Type == policy.TransformINTEG && a.Use&policy.UseESP != 0 {
			integs = append(integs, a.Keyword)
		}
	}
	for _, a := range policy.Algorithms {
		switch {
		case a.Type != policy.TransformENCR || a.Use&policy.UseESP == 0:
		case a.AEAD:
			out = append(out, link{enc: a.Keyword})
		case a.Keyword == "aes128" || a.Keyword == "3des" || a.Keyword == "null":
			for _, i := range integs {
				out = append(out, link{enc: a.Keyword, integ: i})
			}
		default:
			out = append(out, link{enc: a.Keyword, integ: "sha256"})
		}
	}
	return append(out, link{enc: "aes128", integ: "sha256", icv96: true}, link{enc: "null", integ: "sha256", icv96: true})
}

// sizedFrame is a frame of an IPv4 packet of n octets in all, of an experimental protocol.
func sizedFrame(n int, fill byte) []byte {
	f := make([]byte, packet.VirtioLen+n)
	p := f[packet.VirtioLen:]
	p[0], p[8], p[9] = 0x45, 64, 253
	packet.IPv4(p).SetTotalLen(n)
	copy(p[12:], []byte{10, 1, 0, 1, 10, 2, 0, 1})
	packet.IPv4(p).FillChecksum()
	copy(p[packet.IPv4Len:], filled(n-packet.IPv4Len, fill))
	return f
}

// What is sealed opens, whatever the transform, the size of what the packet carries, the mode and the sequence numbers; one changed
// bit anywhere is refused.
func TestEveryTransformOpensWhatItSeals(t *testing.T) {
	for _, l := range everyLink() {
		for way := range 4 {
			esn, l := way&1 != 0, l // each runs when the loop is over
			l.esn, l.transport = esn, way&2 != 0
			t.Run(l.String(), func(t *testing.T) {
				t.Parallel()
				a, b := connect(t, l, nil)
				if esn {
					const high = 3<<32 - 50 // the test passes the end of a subspace
					sa := a.Plane.out[1]
					sa.reserved.Store(high)
					sa.turn.passed.Store(high)
					b.inbound.find(0x1000).window.top = high
				}
				rapid.Check(t, func(rt *rapid.T) {
					f := sizedFrame(packet.IPv4Len+rapid.IntRange(0, 9000).Draw(rt, "size"), rapid.Byte().Draw(rt, "fill"))
					want := bytes.Clone(f[packet.VirtioLen:])
					if l.transport { // the header is made anew
						plain([][]byte{want})
						want[6] = 0x40
					}
					a.out.Process(f)
					pkts := a.net.packets()
					if len(pkts) != 1 {
						rt.Fatalf("%d packets left", len(pkts))
					}
					forged := bytes.Clone(pkts[0])
					bit := rapid.IntRange(0, 8*len(forged)-1).Draw(rt, "bit")
					forged[bit/8] ^= 1 << (bit % 8)
					b.in.Receive([]Datagrams{{Buf: forged}})
					if got := b.tap.take(); len(got) != 0 {
						rt.Fatalf("bit %d was changed, and the packet delivered", bit)
					}
					b.in.Receive([]Datagrams{{Buf: pkts[0]}})
					got := b.tap.take()
					if len(got) == 1 && l.transport {
						p := got[0][packet.VirtioLen:]
						plain([][]byte{p})
						p[6] = 0x40
					}
					if len(got) != 1 || !bytes.Equal(got[0][packet.VirtioLen:], want) {
						rt.Fatalf("not delivered as it was: drops %v", b.Counters().Drops)
					}
				})
			})
		}
	}
}

// An implicit IV is not in the packet, and a packet with another number does not open with it.
func TestImplicitIVsTakeNoRoom(t *testing.T) {
	for _, pair := range [][2]string{{"aes128gcm16", "aes128gcm16iiv"}, {"aes256ccm8", "aes256ccm8iiv"}, {"chacha20poly1305", "chacha20poly1305iiv"}} {
		var sizes [2]int
		for i, enc := range pair {
			a, _ := connect(t, link{enc: enc}, nil)
			a.out.Process(sizedFrame(100, 1))
			sizes[i] = len(a.net.packets()[0])
		}
		if sizes[0]-sizes[1] != 8 {
			t.Errorf("%v: packets of %v octets", pair, sizes)
		}
	}
}

// Counter modes take their IV from the packet counter, and continue beyond 32 bits (RFC 4106, section 3.1); CBC's is never
// the same twice.
func TestIVsOfEveryTransform(t *testing.T) {
	for _, l := range everyLink() {
		e := policy.LookupKeyword(l.enc)
		if e.IVLen == 0 {
			continue
		}
		a, _ := connect(t, l, nil)
		seen := map[string]bool{}
		for range 20 {
			a.out.Process(sizedFrame(50, 1))
		}
		for n, p := range a.net.packets() {
			iv := string(p[packet.ESPLen:][:e.IVLen])
			if want := fmt.Sprintf("%016x", n+1); e.Counter && fmt.Sprintf("%x", iv) != want {
				t.Errorf("%v: IV %x, want %s", l, iv, want)
			}
			if seen[iv] {
				t.Errorf("%v: IV %x twice", l, iv)
			}
			seen[iv] = true
		}
	}
}

func TestWrongKeysAreRefused(t *testing.T) {
	for _, l := range everyLink() {
		for name, change := range map[string]func(*policy.SA){
			"a longer encryption key": func(sa *policy.SA) { sa.EncryptionKey = key(sa.EncryptionKey.Len()+1, 1) },
			"a longer integrity key":  func(sa *policy.SA) { sa.IntegrityKey = key(sa.IntegrityKey.Len()+1, 1) },
		} {
			sa := l.outbound()
			if change(&sa); l.integ == "" && name == "a longer integrity key" {
				continue
			}
			if newHost(nil).Apply(policy.Tx{AddSAs: []policy.SA{sa}}) == nil {
				t.Errorf("%v: %s was taken", l, name)
			}
		}
	}
	for _, l := range []link{{enc: "aes128", integ: "sha1", icv96: true}, {enc: "aes128gcm16", icv96: true}} {
		if newHost(nil).Apply(policy.Tx{AddSAs: []policy.SA{l.outbound()}}) == nil {
			t.Errorf("%v: a cut of sha2-256 was taken", l)
		}
	}
}

// An insecure algorithm is in no default, and its row says so wherever it stands.
func TestInsecureAlgorithmsMustBeNamed(t *testing.T) {
	for _, p := range append(policy.DefaultESP(), policy.DefaultIKE()...) {
		if weak := p.Insecure(); len(weak) > 0 {
			t.Errorf("a default has %v", weak)
		}
	}
	var got []string
	for _, a := range policy.Algorithms {
		if a.Insecure {
			got = append(got, a.Keyword)
		}
	}
	want := []string{
		"3des", "blowfish128", "blowfish192", "blowfish256", "blowfish320", "blowfish384", "blowfish448", "cast128", "des", "camellia256", "camellia128", "camellia192", "prfmd5", "md5",
		"modp1536", "modp1024", "modp768", "modp2048s256", "modp2048s224", "modp1024s160",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("insecure (-want +got):\n%s", d)
	}
	if weak := policy.MustProposal(policy.ProtocolESP, "aes128-3des-sha1-md5").Insecure(); cmp.Diff([]string{"3des", "md5"}, weak) != "" {
		t.Errorf("insecure: %v", weak)
	}
}

// No transform allocates for a packet.
func TestTransformsDoNotAllocate(t *testing.T) {
	for _, l := range everyLink() {
		out, in := l.outbound(), l.inbound()
		if _, err := newTransform(&in); err != nil {
			t.Fatal(err)
		}
		h := newHost(func(c *Config) { c.Egress = sink{} })
		if err := h.Apply(policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}, AddSAs: []policy.SA{out}}); err != nil {
			t.Fatal(err)
		}
		f := sizedFrame(1400, 1)
		h.out.Process(f)
		if n := testing.AllocsPerRun(20, func() { h.out.Process(f) }); n != 0 {
			t.Errorf("%v: %v allocations", l, n)
		}
	}
}

// Sizes are rounded by masks.
func TestAlignmentsArePowersOfTwo(t *testing.T) {
	for _, a := range policy.Algorithms {
		if align := max(4, a.BlockLen); a.Type == policy.TransformENCR && align&(align-1) != 0 {
			t.Errorf("%s is aligned to %d", a.Keyword, align)
		}
	}
}
