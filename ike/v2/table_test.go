package v2_test

import (
	"flag"
	"os"
	"slices"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/sim"
	v2 "coati/ike/v2"
	"coati/ike/wire"
	"coati/policy"
)

var update = flag.Bool("update", false, "write the golden files")

func TestThePictureOfTheTable(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"testdata/states.txt", "../../docs/ike-v2-states.txt"} {
		if *update {
			if err := os.WriteFile(file, []byte(v2.Picture()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || string(want) != v2.Picture() {
			t.Errorf("%s is not the table (%v): run go test ./ike/v2 -update, and look at the difference", file, err)
		}
	}
}

func TestEveryPhaseCanBeReachedAndLeft(t *testing.T) {
	t.Parallel()
	reached := []string{"idle"}
	for i := 0; i < len(reached); i++ {
		for _, r := range v2.Rows() {
			if r.From != reached[i] {
				continue
			}
			for _, to := range r.To {
				if !slices.Contains(reached, to) {
					reached = append(reached, to)
				}
			}
		}
	}
	for _, p := range v2.Phases() {
		if !slices.Contains(reached, p) {
			t.Errorf("%s cannot be reached", p)
		}
		if p != "closed" && !slices.ContainsFunc(v2.Rows(), func(r v2.Row) bool { return r.From == p }) {
			t.Errorf("%s cannot be left", p)
		}
	}
}

// Every row, with each state it may lead to, and each transition of our own. What no Coati does to another is scripted; the
// rest the scenarios do.
func TestEveryArrowIsTaken(t *testing.T) {
	t.Parallel()
	taken := map[string]uint64{}
	add := func(arrows map[string]uint64) {
		for k, n := range arrows {
			taken[k] += n
		}
	}
	for _, s := range sim.Scenarios() {
		for seed := range uint64(6) {
			for _, h := range s.Run(seed).World.Hosts {
				add(h.V2.Arrows)
			}
		}
	}
	count := func(b *bench) {
		b.t.Helper()
		b.sound()
		add(b.v2.Arrows)
	}
	spoilt(t, count)
	strange(t, count)
	living(t, count)
	spoiltKeyExchanges(t, count)
	followUps(t, count)
	childlessArrows(t, count)
	eapArrows(t, count)
	starts := func(tt *policy.PeerTunnel) { tt.Start = policy.StartNow }

	b := newBench(t, nil, tunnel())
	p := newPuppet(b).begin()
	p.ask(wire.ExchangeIKEAuth, p.idPayload()) // EAP without a child
	count(b)

	b = newBench(t, nil, tunnel())
	p = up(b)
	if got := p.ask(wire.ExchangeCreateChildSA, espSA(7), &wire.Nonce{Data: make([]byte, 32)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")); len(got) != 4 {
		t.Errorf("a child is answered with %d payloads", len(got))
	}
	if got := p.ask(wire.ExchangeCreateChildSA); !has(got, wire.NotifyInvalidSyntax) {
		t.Error("an empty CREATE_CHILD_SA is not refused")
	}
	count(b)

	b = newBench(t, nil, tunnel())
	p = up(b)
	b.event(ike.Command{ID: 1, Verb: ike.Down, Tunnel: "t"})
	if got := p.ask(wire.ExchangeCreateChildSA, espSA(7), &wire.Nonce{Data: make([]byte, 32)}, ts(false, "10.2.0.0/16"), ts(true, "10.1.0.0/16")); !has(got, wire.NotifyTemporaryFailure) {
		t.Errorf("a child while we delete is answered with %v", got)
	}
	b.wait(time.Minute)
	if sas, _ := b.established(); sas != 0 {
		t.Error("a delete that nobody answers is waited for")
	}
	count(b)

	b = newBench(t, nil, tunnel())
	p = newPuppet(b).begin()
	if p.psk = "guessed"; !has(p.authenticate(), wire.NotifyAuthenticationFailed) {
		t.Error("a guessed key is not refused")
	}
	count(b)

	for _, badly := range []func(p *puppet, auth []byte){
		func(p *puppet, auth []byte) { p.reply(auth) },
		func(p *puppet, auth []byte) {
			id := p.idPayload()
			p.reply(auth, id, p.proof(id), &wire.Notify{Type: wire.NotifyTSUnacceptable})
		},
	} {
		b = newBench(t, nil, tunnel())
		p = newPuppet(b)
		first := b.event(ike.Command{ID: 1, Verb: ike.Up, Tunnel: "t"})
		auth := p.answerFirst(first[0].Bytes)
		badly(p, auth[0].Bytes)
		count(b)
	}

	b = newBench(t, nil)
	first := b.event(ike.Configure{Tunnels: []policy.PeerTunnel{tunnel(starts, func(tt *policy.PeerTunnel) {
		tt.IKE = []policy.Proposal{policy.MustProposal(policy.ProtocolIKE, "aes128gcm16-prfsha256-x25519-ecp256")}
	})}})
	p = newPuppet(b)
	p.spiI = p.parse(first[0].Bytes).InitiatorSPI
	again := p.give(p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyCookie, Data: []byte("biscuit")}))
	if len(again) != 1 || !has(p.parse(again[0].Bytes).Payloads, wire.NotifyCookie) {
		t.Error("the cookie does not come back")
	}
	again = p.give(p.clear(wire.Header{Flags: wire.FlagResponse}, &wire.Notify{Type: wire.NotifyInvalidKEPayload, Data: []byte{0, 19}}))
	if ke, ok := wire.Find[*wire.KE](p.parse(again[0].Bytes).Payloads, wire.PayloadKE); !ok || ke.Method != 19 {
		t.Error("the group demanded is not offered")
	}
	count(b)

	for _, r := range v2.Rows() {
		from := r.Name
		if from == "" {
			from = r.From
		}
		for _, to := range r.To {
			if taken[from+" -> "+to] == 0 {
				t.Errorf("never taken: %s -> %s", from, to)
			}
		}
	}
}
