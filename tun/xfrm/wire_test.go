package xfrm

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"coati/policy"
)

// example is an SA with a key of ones.
func example(dir policy.Direction, words ...string) policy.SA {
	sa := policy.SA{
		ID: 1, Direction: dir, Protocol: policy.ProtocolESP, SPI: 0x12345678, ReqID: 3, ReplayWindow: 64,
		Path:  policy.Path{Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4501"), Encap: policy.EncapUDP},
		Local: policy.AnySelectors(), Remote: policy.AnySelectors(),
		Lifetime: policy.Lifetime{SoftTime: 1500 * time.Millisecond, HardTime: time.Millisecond, HardPackets: 7},
	}
	for _, w := range words {
		a := policy.LookupKeyword(w)
		key := policy.NewSecret(bytes.Repeat([]byte{0x5a}, a.KeyLen))
		if a.Type == policy.TransformENCR {
			sa.Encryption, sa.EncryptionKey = a.Transform(), key
		} else {
			sa.Integrity, sa.IntegrityKey = a.Transform(), key
		}
	}
	return sa
}

// What we write is what we would read: the kernel shows a state in the structure it is given in.
func TestStatesReadBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*policy.SA)
	}{
		{"as it is", func(*policy.SA) {}},
		{"raw", func(sa *policy.SA) { sa.Path.Encap = policy.EncapRaw }},
		{"transport", func(sa *policy.SA) { sa.Mode = policy.Transport }},
		{"extended sequence numbers", func(sa *policy.SA) { sa.ESN = true }},
		{"the largest window", func(sa *policy.SA) { sa.ReplayWindow = maxWindow }},
		{"no window", func(sa *policy.SA) { sa.ReplayWindow = 0 }},
		{"a cut tag", func(sa *policy.SA) { sa.ICV96 = sa.Integrity.ID == policy.IntegSHA256 }},
		{"ipv6", func(sa *policy.SA) {
			sa.Path.Local, sa.Path.Remote = netip.MustParseAddrPort("[2001:db8::1]:4500"), netip.MustParseAddrPort("[2001:db8::2]:4500")
		}},
	} {
		for _, dir := range []policy.Direction{policy.Inbound, policy.Outbound} {
			for _, algorithms := range [][]string{{"aes128gcm16"}, {"aes256", "sha256"}} {
				sa := example(dir, algorithms...)
				c.change(&sa)
				if err := checkSA(&sa); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				m := stateMessage(&sa, flagsCreate, 99, 0, marking{1, 1})
				r, err := parseState(m.seal(1)[sizeMessage:])
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				if err := r.differs(&sa, 99); err != nil {
					t.Errorf("%s, %s, %v: %v", c.name, dir, algorithms, err)
				}
				if sa.ICV96 && r.icvBits != 96 {
					t.Errorf("a tag of %d bits", r.icvBits)
				}
				m.wipe()
				if !bytes.Equal(m.b[:cap(m.b)], make([]byte, cap(m.b))) {
					t.Errorf("%s: a wiped message is not empty", c.name)
				}
			}
		}
	}
}

func TestWhatReadsBackOtherwiseIsSeen(t *testing.T) {
	t.Parallel()
	sa := example(policy.Inbound, "aes128gcm16")
	for what, spoil := range map[string]func(*readState){
		"identity": func(r *readState) { r.id.SPI++ }, "reqid": func(r *readState) { r.reqID++ }, "mode": func(r *readState) { r.mode = 9 },
		"extended sequence numbers": func(r *readState) { r.flags |= flagESN }, "replay window": func(r *readState) { r.window = 32 },
		"udp encapsulation": func(r *readState) { r.encapDst++ }, "offload": func(r *readState) { r.offload = true },
		"cipher": func(r *readState) { r.aead = "gcm(aes)" }, "key length": func(r *readState) { r.keyBits = 128 }, "icv": func(r *readState) { r.icvBits = 64 },
	} {
		m := stateMessage(&sa, flagsCreate, 99, 0, marking{})
		r, err := parseState(m.seal(1)[sizeMessage:])
		if err != nil {
			t.Fatal(err)
		}
		spoil(&r)
		if err := r.differs(&sa, 99); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestAStateInstalledAnewGoesOn(t *testing.T) {
	t.Parallel()
	const at = 5<<32 | 77
	for _, dir := range []policy.Direction{policy.Inbound, policy.Outbound} {
		sa := example(dir, "aes128gcm16")
		sa.ESN = true
		r, err := parseState(stateMessage(&sa, flagsCreate, 1, at, marking{}).seal(1)[sizeMessage:])
		if err != nil {
			t.Fatal(err)
		}
		got := r.outbound
		if dir == policy.Inbound {
			got = r.inbound
		}
		if got != at {
			t.Errorf("%s: it goes on at %#x, want %#x", dir, got, uint64(at))
		}
	}
}

func TestLifetimesOfTheKernel(t *testing.T) {
	t.Parallel()
	sa := example(policy.Outbound, "aes128gcm16")
	b := stateMessage(&sa, 0, 1, 0, marking{}).b[sizeMessage:]
	var got []uint64
	for i := range 6 {
		got = append(got, native.Uint64(b[96+8*i:]))
	}
	if diff := cmp.Diff([]uint64{infinite, infinite, infinite, 7, 1, 1}, got); diff != "" {
		t.Errorf("octets, packets, seconds, each soft and hard (-want +got):\n%s", diff)
	}
}

func TestSAsTheKernelCannotCarry(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*policy.SA){
		"short key":        func(sa *policy.SA) { sa.EncryptionKey = policy.NewSecret([]byte("short")) },
		"reserved spi":     func(sa *policy.SA) { sa.SPI = 255 },
		"window":           func(sa *policy.SA) { sa.ReplayWindow = maxWindow + 1 },
		"no local address": func(sa *policy.SA) { sa.Path.Local = netip.AddrPort{} },
		"two families":     func(sa *policy.SA) { sa.Path.Local = netip.MustParseAddrPort("[::1]:4500") },
		"no selectors":     func(sa *policy.SA) { sa.Local = nil },
		"no algorithm":     func(sa *policy.SA) { sa.Encryption = policy.Transform{Type: policy.TransformENCR, ID: 999} },
		"esn, no window":   func(sa *policy.SA) { sa.ESN, sa.ReplayWindow = true, 0 },
		"aead with mac":    func(sa *policy.SA) { sa.Integrity = policy.LookupKeyword("sha256").Transform() },
		"gcm cut to 96":    func(sa *policy.SA) { sa.ICV96 = true },
		"own hop limit":    func(sa *policy.SA) { sa.Header.HopLimit = 9 },
		"padding":          func(sa *policy.SA) { sa.TFC = policy.TFCToMTU },
		"cbc without mac":  func(sa *policy.SA) { *sa = example(policy.Inbound, "aes128") },
	} {
		sa := example(policy.Inbound, "aes128gcm16")
		spoil(&sa)
		if checkSA(&sa) == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// acquireMessage is what the kernel tells when a policy wants an SA.
func acquireMessage(index uint32) []byte {
	m, b := newMessage(msgAcquire, 0, sizeAcquire)
	(&selector{
		Family: familyIPv4, Src: netip.MustParsePrefix("10.1.0.1/32"), Dst: netip.MustParsePrefix("10.2.0.1/32"), Proto: 17, SrcPort: 7, SrcMask: 0xffff, DstPort: 9, DstMask: 0xffff,
	}).put(b[40:])
	native.PutUint32(b[96+156:], index)
	return m.seal(0)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	var got []event
	if err := messages(acquireMessage(0x8001), func(kind, _ uint16, _ uint32, body []byte) bool {
		ev, ok, err := parseEvent(kind, body)
		if !ok || err != nil {
			t.Errorf("kind %#x: %v %v", kind, ok, err)
		}
		got = append(got, ev)
		return false
	}); err != nil || len(got) != 1 {
		t.Fatalf("%d events, error %v", len(got), err)
	}
	flow := flowOf(&got[0].acquire.flow)
	want := policy.Flow{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1"), Protocol: 17, SrcPort: 7, DstPort: 9, HasPorts: true}
	if diff := cmp.Diff(want, flow, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || got[0].acquire.index != 0x8001 {
		t.Errorf("policy %#x, flow (-want +got):\n%s", got[0].acquire.index, diff)
	}
}

// No beginning of a message is a message.
func TestPrefixesOfEventsAreRefused(t *testing.T) {
	t.Parallel()
	for kind, size := range map[uint16]int{msgAcquire: sizeAcquire, msgExpire: sizeExpire, msgMapping: sizeMapping} {
		for n := range size {
			if _, ok, err := parseEvent(kind, make([]byte, n)); ok || !errors.Is(err, errMessage) {
				t.Fatalf("kind %#x of %d octets: %v %v", kind, n, ok, err)
			}
		}
	}
}

func FuzzMessages(f *testing.F) {
	sa := example(policy.Inbound, "aes256", "sha256")
	f.Add(acquireMessage(9))
	f.Add(stateMessage(&sa, 0, 5, 0, marking{1, 1}).seal(0))
	f.Add(policyMessage(msgNewPolicy, slot{dirOut, selector{Family: familyIPv6}}, &entry{tmpl: tmpl{family: familyIPv4}}, 8, 0).seal(0))
	m, _ := newMessage(msgExpire, 0, sizeExpire)
	f.Add(m.seal(0))
	m, _ = newMessage(msgMapping, 0, sizeMapping)
	f.Add(m.seal(0))
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		octets := 0
		_ = messages(b, func(kind, _ uint16, _ uint32, body []byte) bool {
			octets += sizeMessage + len(body)
			if ev, ok, _ := parseEvent(kind, body); ok {
				_ = flowOf(&ev.acquire.flow)
			}
			if s, err := parseState(body); err == nil && len(s.aead) > sizeAlgName {
				t.Errorf("an algorithm's name of %d octets", len(s.aead))
			}
			_, _ = parsePolicy(body)
			return false
		})
		if octets > len(b) {
			t.Errorf("%d octets of messages in %d", octets, len(b))
		}
	})
}
