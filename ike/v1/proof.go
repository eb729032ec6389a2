package v1

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/wire"
	"coati/policy"
)

// Who is who, section 5.1 and 5.4: one attribute of phase 1 says for both ends how they prove it, by a hash that the pre-shared key has
// made, or by a signature of the hash. Making a signature and checking one are jobs.

// sides says how each end proves itself in one way to authenticate.
type sides struct {
	words                string
	initiator, responder policy.AuthBy
}

var sidesOf = map[uint16]sides{
	wire.AuthV1PSK:      {"a pre-shared key", policy.ByPSK, policy.ByPSK},
	wire.AuthV1RSA:      {"RSA signatures", policy.ByCert, policy.ByCert},
	wire.AuthV1ECDSA256: {"ECDSA signatures on P-256", policy.ByCert, policy.ByCert},
	wire.AuthV1ECDSA384: {"ECDSA signatures on P-384", policy.ByCert, policy.ByCert},
	wire.AuthV1ECDSA521: {"ECDSA signatures on P-521", policy.ByCert, policy.ByCert},

	wire.AuthV1XAuthInitPSK:  {"a pre-shared key and XAUTH", policy.ByPSK, policy.ByPSK},
	wire.AuthV1XAuthInitRSA:  {"RSA signatures and XAUTH", policy.ByCert, policy.ByCert},
	wire.AuthV1HybridInitRSA: {"an RSA signature of the responder and XAUTH", policy.ByNobody, policy.ByCert},
}

func sayWay(way uint16) string {
	if s, ok := sidesOf[way]; ok {
		return s.words
	}
	return fmt.Sprintf("method %d", way)
}

func sayWays(ways []uint16) string {
	var out []string
	for _, w := range ways {
		if s := sayWay(w); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return strings.Join(out, " or ")
}

// ways lists how a tunnel authenticates in the role that we have, best first; none: not in IKEv1.
func ways(t *policy.PeerTunnel, initiator bool) []uint16 {
	switch {
	case t.Version != 1 || t.V1.XAuth == policy.XAuthClient && !initiator || t.V1.XAuth == policy.XAuthServer && initiator:
		// Clients begin.
	case t.V1.XAuth != policy.XAuthNone:
		return xauthWays(t)
	case t.LocalAuth == policy.ByPSK && t.RemoteAuth == policy.ByPSK:
		if t.PSK.Len() > 0 { // an empty key proves nothing
			return []uint16{wire.AuthV1PSK}
		}
	case t.LocalAuth.Signs() && t.RemoteAuth.Signs() && t.Credential != nil:
		return signatureWays(t.Credential.Key.Public())
	}
	return nil
}

// xauthWays are those of clients and servers of XAUTH.
func xauthWays(t *policy.PeerTunnel) []uint16 {
	ours, theirs := t.LocalAuth, t.RemoteAuth
	if t.V1.XAuth == policy.XAuthServer {
		ours, theirs = theirs, ours
	}
	rsaKey := true
	if t.LocalAuth.Signs() {
		rsaKey = slices.Contains(signatureWays(t.Credential.Key.Public()), wire.AuthV1RSA)
	}
	switch {
	case ours == policy.ByPSK && theirs == policy.ByPSK && t.PSK.Len() > 0:
		return []uint16{wire.AuthV1XAuthInitPSK}
	case ours.Signs() && theirs.Signs() && rsaKey:
		return []uint16{wire.AuthV1XAuthInitRSA}
	case ours == policy.ByNobody && theirs.Signs() && rsaKey:
		return []uint16{wire.AuthV1HybridInitRSA}
	}
	return nil
}

// signatureWays are those for a key of ours; the peer must have one of the same kind.
func signatureWays(key crypto.PublicKey) []uint16 {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return []uint16{wire.AuthV1RSA}
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []uint16{wire.AuthV1ECDSA256}
		case 384:
			return []uint16{wire.AuthV1ECDSA384}
		case 521:
			return []uint16{wire.AuthV1ECDSA521}
		}
	}
	return nil
}

// speaks says whether a tunnel is one of IKEv1 that somebody can be authenticated for.
func speaks(t *policy.PeerTunnel) bool { return len(ways(t, true))+len(ways(t, false)) > 0 }

// signs says whether that end proves itself by a signature.
func (s *sa) signs(initiator bool) bool {
	w := sidesOf[s.suite.auth]
	if initiator {
		return w.initiator.Signs()
	}
	return w.responder.Signs()
}

// byKey says whether SKEYID is made from the pre-shared key (section 5).
func (s *sa) byKey() bool { return !s.signs(true) && !s.signs(false) }

// idBody is an identity as the proofs cover it.
func idBody(id *wire.V1ID) ([]byte, error) {
	_, b, err := wire.AppendV1Payloads(nil, []wire.Payload{id})
	if err != nil {
		return nil, err
	}
	return b[wire.PayloadHeaderLen:], nil
}

// prove makes the payloads of our proof for an identity.
func (s *sa) prove(t *policy.PeerTunnel, k *keySet, id []byte, then func([]wire.Payload, error)) {
	if !s.signs(s.initiator) {
		then([]wire.Payload{&wire.V1Opaque{Type: wire.PayloadV1Hash, Data: s.proof(k, s.initiator, id)}}, nil)
		return
	}
	hash := s.signedProof(k, s.initiator, id)
	seed := [32]byte(s.env.Bytes(32))
	s.job(func() (any, error) { return auth.SignV1(t.Credential, seed, hash) }, func(ev ike.JobDone) {
		if ev.Err != nil {
			then(nil, ev.Err)
			return
		}
		var out []wire.Payload
		for _, c := range t.Credential.Chain {
			out = append(out, &wire.V1Cert{Encoding: wire.CertX509Signature, Data: c.Raw})
		}
		then(append(out, &wire.V1Opaque{Type: wire.PayloadV1Sig, Data: ev.Result.([]byte)}), nil)
	})
}

// hashFits checks a proof by hash.
func (s *sa) hashFits(k *keySet, m *message, id []byte) bool {
	h := m.octets(wire.PayloadV1Hash)
	return h != nil && hmac.Equal(h, s.proof(k, !s.initiator, id))
}

// checkProof checks the peer's proof for an identity, which the tunnels expect, and hands over the first that believes it.
func (s *sa) checkProof(k *keySet, m *message, id []byte, tunnels []*policy.PeerTunnel, then func(*policy.PeerTunnel, error)) {
	if !s.signs(!s.initiator) {
		if !s.hashFits(k, m, id) {
			then(nil, s.wrongKey())
			return
		}
		then(tunnels[0], nil)
		return
	}
	sig := m.octets(wire.PayloadV1Sig)
	if sig == nil {
		then(nil, errors.New("the peer sends no signature"))
		return
	}
	c := &auth.Claim{Identity: s.remoteID, V1: true, Data: sig, Octets: s.signedProof(k, !s.initiator, id), Now: s.now}
	for _, p := range m.all(wire.PayloadV1Cert) {
		if p := p.(*wire.V1Cert); p.Encoding == wire.CertX509Signature {
			c.Certs = append(c.Certs, p.Data)
		}
	}
	s.job(func() (any, error) { return c.Accept(tunnels) }, func(ev ike.JobDone) {
		if ev.Err != nil {
			then(nil, ev.Err)
			return
		}
		then(ev.Result.(*policy.PeerTunnel), nil)
	})
}

// wrongKey says in words that a proof by hash fits no key of ours.
func (s *sa) wrongKey() error {
	switch {
	case s.initiator:
		return fmt.Errorf("the answer of %s does not authenticate with the pre-shared key of tunnel %s: see psk-file", s.path.Remote.Addr(), s.tunnel.Name)
	case len(s.candidates) == 1:
		return fmt.Errorf("the peer %s has another pre-shared key than tunnel %s: see psk-file", s.path.Remote.Addr(), s.candidates[0].Name)
	}
	return fmt.Errorf("the proof of %s fits the pre-shared key of no tunnel for its address: see psk-file", s.path.Remote.Addr())
}

func (s *sa) otherIdentity(want policy.Identity) error {
	return fmt.Errorf("the peer says it is %s, tunnel %s expects %s: see remote-id", s.remoteID, s.tunnel.Name, want)
}

// requests ask the peer for certificates by the names of the authorities that we know (RFC 2408, section 3.10).
func (s *sa) requests(tunnels []*policy.PeerTunnel) []wire.Payload {
	if !s.signs(!s.initiator) {
		return nil
	}
	return requests(tunnels)
}

func requests(tunnels []*policy.PeerTunnel) (out []wire.Payload) {
	seen := map[string]bool{}
	for _, t := range tunnels {
		if t.RemoteAuth != policy.ByCert || t.Trust == nil {
			continue
		}
		for _, c := range t.Trust.Authorities {
			if name := string(c.RawSubject); !seen[name] && len(seen) < maxRequests {
				seen[name] = true
				out = append(out, &wire.V1Cert{Request: true, Encoding: wire.CertX509Signature, Data: c.RawSubject})
			}
		}
	}
	return out
}

// maxRequests is how many authorities are named; a peer with another one is asked for nothing, and may send its certificate all the same.
const maxRequests = 8

// localIdentity is what we say we are. Who proves nothing in phase 1 is where it is.
func localIdentity(t *policy.PeerTunnel, path policy.Path) policy.Identity {
	if t.LocalAuth == policy.ByNobody && t.LocalID.IsZero() {
		return policy.AddrIdentity(path.Local.Addr())
	}
	return ike.LocalIdentity(t, path)
}
