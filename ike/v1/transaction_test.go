package v1

import (
	"math/rand/v2"
	"testing"
	"time"

	"coati/ike"
	"coati/ike/keys"
	"coati/ike/wire"
	"coati/policy"
)

// authorizingSA is an SA between phase 1 and its first quick mode.
func authorizingSA(t *testing.T, initiator bool, role policy.XAuthRole, phase stage) *sa {
	t.Helper()
	limits := ike.DefaultLimits()
	env := &ike.Env{Config: ike.Config{Rand: rand.NewChaCha8([32]byte{1}), Limits: limits}}
	s := New().newSA(env, time.Unix(1e9, 0), policy.Path{}, &ike.Out{})
	s.tunnel = &policy.PeerTunnel{Name: "t", Version: 1, V1: policy.Version1{XAuth: role, User: "alice", Password: policy.NewSecret([]byte("secret"))}}
	s.initiator, s.state, s.authorizing.phase = initiator, stateAuthorizing, phase
	encr := policy.LookupKeyword("aes128").Transform()
	var err error
	if s.prf, err = keys.NewV1PRF(policy.LookupKeyword("sha1").Transform()); err == nil {
		s.keys, err = keys.DeriveV1(s.prf, encr, policy.NewSecret(make([]byte, 20)), policy.NewSecret(make([]byte, 128)), 1, 2)
	}
	if err == nil {
		s.cipher, err = keys.NewV1Cipher(s.prf, encr, s.keys.Cipher)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.p1.iv = make([]byte, 16)
	return s
}

func (s *sa) told(p *wire.V1Config) {
	x := &exchange{kind: wire.ExchangeV1Transaction, id: 7, iv: make([]byte, 16)}
	m := &message{}
	m.Payloads = []wire.Payload{p}
	s.transactionCame(x, m)
}

// Only a server says what came of XAUTH, and only a client is told an address: whoever else says so is not believed.
func TestAClientCannotAuthorizeItself(t *testing.T) {
	t.Parallel()
	status := &wire.V1Config{Type: wire.ConfigV1Set, Attributes: []wire.Attribute{{Type: wire.ConfigXAuthStatus, Value: 1}}}
	address := &wire.V1Config{Type: wire.ConfigV1Set, Attributes: []wire.Attribute{octetsOf(wire.ConfigV1IP4Address, []byte{10, 0, 0, 1})}}
	for _, phase := range []stage{stageUser, stageStatus, stageConfig} {
		for _, p := range []*wire.V1Config{status, address} {
			s := authorizingSA(t, false, policy.XAuthServer, phase)
			if s.told(p); s.state != stateAuthorizing || s.config.given != nil {
				t.Errorf("%s: a server is now in state %d, given %v", phase, s.state, s.config.given)
			}
		}
	}
	s := authorizingSA(t, true, policy.XAuthClient, stageUser)
	if s.told(status); s.state != stateEstablished {
		t.Errorf("a client that is let in is in state %d", s.state)
	}
}

// A password goes to nobody but the server of a tunnel that has one.
func TestAPasswordIsToldToAServerAlone(t *testing.T) {
	t.Parallel()
	ask := &wire.V1Config{Attributes: []wire.Attribute{octetsOf(wire.ConfigXAuthPassword, nil)}}
	if out := authorizingSA(t, true, policy.XAuthClient, stageUser).giveUser(ask); len(out) != 1 || string(out[0].Data) != "secret" {
		t.Errorf("told %v", out)
	}
	for _, s := range []*sa{authorizingSA(t, false, policy.XAuthServer, stageUser), authorizingSA(t, true, policy.XAuthNone, stageConfig)} {
		if s.isClient() {
			t.Error("it would tell a password")
		}
	}
}
