package esp

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"coati/packet"
	"coati/policy"
)

// broken is a TUN that takes nothing.
type broken struct{}

func (broken) WriteFrame([][]byte) error { return errors.New("no memory") }

// provoked has for each reason what makes a packet be dropped for it, and the plane that counts it.
var provoked = map[Reason]func(t *testing.T) *host{
	DropMalformed: func(t *testing.T) *host {
		a, _ := connect(t, gcm128, nil)
		a.out.Process(make([]byte, packet.VirtioLen+20))
		return a
	},
	DropNoPolicy: func(t *testing.T) *host {
		a := newHost(nil)
		a.out.Process(segment{sport: 1}.frame())
		return a
	},
	DropDiscard: func(t *testing.T) *host {
		a := newHost(nil)
		a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{{ID: 1, Action: policy.Discard, Local: netA, Remote: netB}}})
		a.out.Process(segment{sport: 1}.frame())
		return a
	},
	DropNeighbour: func(t *testing.T) *host {
		a, _ := connect(t, gcm128, nil)
		f := make([]byte, packet.VirtioLen+packet.IPv6Len+packet.ICMPLen)
		p := packet.IPv6(f[packet.VirtioLen:])
		p[0], p[6], p[7] = 0x60, packet.ProtoICMPv6, 255
		p.SetPayloadLen(packet.ICMPLen)
		p[24], p[25], p[39] = 0xff, 2, 1
		p[packet.IPv6Len] = packet.ICMPv6NDFirst
		a.out.Process(f)
		return a
	},
	DropQueueFull: func(t *testing.T) *host {
		a := newHost(nil)
		p := protectPolicy()
		p.QueuePackets = 1
		a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{p}})
		for range 2 {
			a.out.Process(segment{sport: 1}.frame())
		}
		return a
	},
	DropNotBetween: func(t *testing.T) *host {
		a, _ := connect(t, link{enc: "aes128gcm16", transport: true}, nil)
		a.out.Process(segment{sport: 1, dst: 2}.frame())
		return a
	},
	DropFragment: func(t *testing.T) *host {
		a, _ := connect(t, inTransport, nil)
		// Only the last fragment may end elsewhere than at a unit of eight octets.
		whole, _ := fragmented(t, false, 7, 2000)
		process(a, fragmentFrame(whole[:packet.IPv4Len], whole[packet.IPv4Len:][:1001], 0, true, 7))
		return a
	},
	DropNoSA: func(t *testing.T) *host {
		a := newHost(nil)
		a.mustApply(t, policy.Tx{PutPolicies: []policy.Policy{protectPolicy()}})
		a.out.Process(segment{sport: 1}.frame())
		a.mustApply(t, policy.Tx{FailAcquires: []policy.PolicyID{1}})
		return a
	},
	DropExhausted: func(t *testing.T) *host {
		a, _ := connect(t, gcm128, nil)
		a.Plane.out[1].reserved.Store(a.Plane.out[1].limit)
		a.out.Process(segment{sport: 1}.frame())
		return a
	},
	DropExpired: func(t *testing.T) *host {
		a, _ := connect(t, gcm128, nil)
		// Every successor that takes a packet over ends before it leaves.
		a.out.Add(segment{sport: 1}.frame())
		a.Plane.out[1].usage.expired.Store(true)
		a.out.rerouting = mostReroutes
		a.out.Flush()
		return a
	},
	DropTooBig: func(t *testing.T) *host {
		a, _ := connect(t, link{enc: "aes128gcm16", mtu: 1400}, nil)
		a.out.Process(segment{sport: 1, df: true, payload: filled(1400, 1)}.frame())
		return a
	},
	DropSendFailed: func(t *testing.T) *host {
		a, _ := connect(t, gcm128, nil)
		a.net.fail = errors.New("no buffer space")
		a.out.Process(segment{sport: 1}.frame())
		return a
	},
	DropShort: func(t *testing.T) *host { return receiver(t, []byte{1, 2, 3, 4, 5, 6, 7}) },
	DropUnknownSPI: func(t *testing.T) *host {
		return receiver(t, append([]byte{1, 2, 3, 4}, forge(t, gcm128, 1, trailer(nil, 59))[4:]...))
	},
	DropEarly: func(t *testing.T) *host {
		b := newHost(nil)
		sendEarly(b, must(b.AllocSPI(policy.ProtocolESP)), 1)
		for spi := range b.larval.spis {
			b.FreeSPI(policy.ProtocolESP, spi)
		}
		return b
	},
	DropEarlyFull: func(t *testing.T) *host {
		b := newHost(nil)
		sendEarly(b, must(b.AllocSPI(policy.ProtocolESP)), larvalPackets+1)
		return b
	},
	DropExpiredIn: func(t *testing.T) *host {
		b := newHost(nil)
		b.mustApply(t, policyTx(link{enc: "aes128gcm16", lifetime: policy.Lifetime{HardTime: time.Minute}}))
		b.Tick(start.Add(2 * time.Minute))
		b.in.Receive([]Datagrams{{Buf: forge(t, gcm128, 1, inner(4))}})
		return b
	},
	DropReplay: func(t *testing.T) *host {
		b := receiver(t, forge(t, gcm128, 1, inner(4)))
		b.in.Receive([]Datagrams{{Buf: forge(t, gcm128, 1, inner(4))}})
		return b
	},
	DropAuthentication: func(t *testing.T) *host {
		e := forge(t, gcm128, 1, inner(4))
		e[20] ^= 1
		return receiver(t, e)
	},
	DropPadding: func(t *testing.T) *host {
		return receiver(t, forge(t, gcm128, 1, append(make([]byte, 20), 9, 2, 2, 4)))
	},
	DropInner: func(t *testing.T) *host { return receiver(t, forge(t, gcm128, 1, inner(41))) },
	DropFront: func(t *testing.T) *host {
		l := link{enc: "aes128gcm16", transport: true, raw: true}
		b := newHost(nil)
		b.mustApply(t, policyTx(l))
		b.in.Receive([]Datagrams{fronted(t, l, packet.Front{Octets: []byte{0x94, 4, 0}})})
		return b
	},
	DropSelectors: func(t *testing.T) *host {
		p := segment{sport: 1}.frame()[packet.VirtioLen:]
		p[13] = 9
		packet.IPv4(p).FillChecksum()
		return receiver(t, forge(t, gcm128, 1, trailer(p, 4)))
	},
	DropICMPError: func(t *testing.T) *host {
		b := newHost(nil)
		b.mustApply(t, policyTx(gcm128))
		b.receive(sealed(t, complaint("172.16.0.1", "10.2.0.1", segment{}.frame(), 1000))...)
		return b
	},
	DropInnerFragment: func(t *testing.T) *host {
		_, in := byPort(true, nil)
		b := newHost(nil)
		b.mustApply(t, policy.Tx{AddSAs: []policy.SA{in}})
		f := cut(segment{udp: true, id: 9, payload: filled(2000, 1)}, 1400)
		b.receive(sealed(t, f[0], f[0])...)
		return b
	},
	DropECN: func(t *testing.T) *host {
		b := receiver(t)
		b.in.Receive([]Datagrams{{Buf: forge(t, gcm128, 1, inner(4)), TOS: packet.ECNCE}})
		return b
	},
	DropDummy: func(t *testing.T) *host { return receiver(t, forge(t, gcm128, 1, trailer(make([]byte, 40), 59))) },
	DropWriteFailed: func(t *testing.T) *host {
		b := receiver(t)
		b.NewInbound(broken{}).Receive([]Datagrams{{Buf: forge(t, gcm128, 1, inner(4))}})
		return b
	},
}

// inner is a good packet, announced as next.
func inner(next byte) []byte { return trailer(segment{sport: 1}.frame()[packet.VirtioLen:], next) }

// receiver has the inbound SA, and has received this.
func receiver(t *testing.T, datagrams ...[]byte) *host {
	b := newHost(nil)
	b.mustApply(t, policyTx(gcm128))
	for _, d := range datagrams {
		b.in.Receive([]Datagrams{{Buf: d}})
	}
	return b
}

// sendEarly sends packets for an SPI that is only reserved.
func sendEarly(b *host, spi policy.SPI, n int) {
	for range n {
		e := make([]byte, 64)
		packet.ESP(e).SetSPI(uint32(spi))
		b.in.Receive([]Datagrams{{Buf: e}})
	}
}

// Each reason is met by what its name says, once and by nothing else.
func TestEveryReasonIsProvoked(t *testing.T) {
	for r := range numReasons {
		t.Run(r.String(), func(t *testing.T) {
			if provoked[r] == nil {
				t.Fatal("nothing provokes this reason")
			}
			h := provoked[r](t)
			if drops := h.Counters().Drops; len(drops) != 1 || drops[r.String()] != 1 {
				t.Errorf("counted %v", drops)
			}
		})
	}
}

// docs/drops.md has every reason, as the code has it, and no other; the kernel's names are the kernel's.
func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../docs/drops.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "## On the way of ESP")
	text, _, _ = strings.Cut(text, "\n## ")
	var want strings.Builder
	seen := map[string]bool{}
	for _, r := range reasons {
		want.WriteString("| " + r.name + " | `" + r.xfrm + "` | " + r.when + " |\n")
		if seen[r.name] || !regexp.MustCompile(`^Xfrm(In|Out|Fwd|Acquire)[A-Za-z]*Error|Xfrm(In|Out)[A-Z][a-zA-Z]+$`).MatchString(r.xfrm) {
			t.Errorf("%q, %q: a name twice, or no counter of the kernel", r.name, r.xfrm)
		}
		seen[r.name] = true
	}
	_, rows, _ := strings.Cut(text, "|---|---|---|\n")
	if strings.TrimSpace(rows) != strings.TrimSpace(want.String()) {
		t.Errorf("the table of docs/drops.md is not:\n%s", want.String())
	}
}
