package eap

import (
	"errors"
	"testing"

	"coati/policy"
)

// A client that sends one octet of TLS after the other is not listened to for ever.
func TestAServersRoundsEnd(t *testing.T) {
	t.Parallel()
	p := newPapers(t)
	s := NewServer(p.server(t, policy.EAPTLS), "gw", [32]byte{2})
	defer s.Close()
	s.Begin()
	step := s.Handle(clock, Packet{Response, 0, TypeIdentity, []byte("alice")}.Bytes())
	rounds := 1
	for ; step.Err == nil && rounds < 10*MaxRounds; rounds++ {
		step = s.Handle(clock, Packet{Response, s.id, TypeTLS, []byte{flagMore, 1}}.Bytes())
	}
	if !errors.Is(step.Err, errRounds) || rounds != MaxRounds+1 {
		t.Errorf("after %d rounds: %v", rounds, step.Err)
	}
}
