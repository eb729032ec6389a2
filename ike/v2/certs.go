package v2

import (
	"errors"
	"fmt"
	"slices"

	"coati/ike"
	"coati/ike/auth"
	"coati/ike/wire"
	"coati/policy"
)

// Authentication by signature, RFC 7296, section 2.15; RFC 7427; RFC 7670. Who signs sends its certificates, who checks says
// which authorities it knows:
//
//	                <--  HDR, SAr1, KEr, Nr, [CERTREQ,] [N(SIGNATURE_HASH_ALGORITHMS)]
//	HDR, SK {IDi, [CERT+,] [CERTREQ,] [IDr,] AUTH, ...}  -->
//	                <--  HDR, SK {IDr, [CERT+,] AUTH, ...}
//
// Signing, and checking a signature with its certificates, are jobs.

// signs says whether signatures are made or checked for one of the tunnels.
func signs(tunnels ...*policy.PeerTunnel) bool {
	return slices.ContainsFunc(tunnels, func(t *policy.PeerTunnel) bool { return t.LocalAuth.Signs() || t.RemoteAuth.Signs() })
}

// hashNotify announces the hashes we verify with.
func hashNotify() *wire.Notify {
	return notify(wire.NotifySignatureHashAlgorithms, auth.AnnounceHashes())
}

// hashesOf are those that a first message announces.
func hashesOf(m *message) []auth.Hash {
	if m == nil {
		return nil
	}
	no := m.notify(wire.NotifySignatureHashAlgorithms)
	if no == nil {
		return nil
	}
	return auth.ParseHashes(no.Data)
}

// peerHashes are those of the peer if both ends announced theirs.
func (s *sa) peerHashes() []auth.Hash {
	if s.initiator {
		return hashesOf(s.start.answered) // we always announce where signatures are configured
	}
	return s.start.hashes
}

// signaturePayloads are what our answer to a first request says about signatures.
func (s *sa) signaturePayloads() []wire.Payload {
	var out []wire.Payload
	if asked, ok := auth.AskFor(s.candidates); ok {
		out = append(out, &wire.CertReq{Encoding: wire.CertX509Signature, Authorities: asked})
	}
	if len(s.start.hashes) > 0 {
		out = append(out, hashNotify())
	}
	return out
}

// compute has something slow done before the exchange of IKE_AUTH goes on.
func (s *sa) compute(run func() (any, error), then func(ike.JobDone)) {
	id := s.env.NextJob()
	if s.initiator {
		s.start.job, s.start.then = id, then
	} else {
		s.phase = phaseAuthCheck
		s.serving = &served{job: id, then: then}
	}
	s.out.Jobs = append(s.out.Jobs, ike.Job{ID: id, Run: run})
}

// prove makes the payloads by which we prove, as tunnel t says, that we are who the ID payload says.
func (s *sa) prove(t *policy.PeerTunnel, id *wire.ID, then func([]wire.Payload, error)) {
	signed := s.signed(s.initiator, id)
	if !t.LocalAuth.Signs() {
		method, key := s.sharedKey(t, t.LocalAuth, s.initiator)
		then([]wire.Payload{&wire.Auth{Method: method, Data: auth.PSK(s.prf, key, signed)}}, nil)
		return
	}
	var payloads []wire.Payload
	for _, c := range t.Credential.Chain {
		payloads = append(payloads, &wire.Cert{Encoding: wire.CertX509Signature, Data: c.Raw})
	}
	if t.LocalAuth == policy.ByPublicKey {
		raw, err := auth.RawKey(t.Credential.Key.Public())
		if err != nil {
			then(nil, err)
			return
		}
		payloads = append(payloads, &wire.Cert{Encoding: wire.CertRawPublicKey, Data: raw})
	}
	hashes, seed := s.peerHashes(), [32]byte(s.env.Bytes(32))
	s.compute(func() (any, error) { return auth.Sign(t.Credential, hashes, seed, signed) }, func(ev ike.JobDone) {
		if ev.Err != nil {
			then(nil, ev.Err)
			return
		}
		then(append(payloads, ev.Result.(*wire.Auth)), nil)
	})
}

// sharedKey is the key of an AUTH payload without a signature: the tunnel's, or for who does not authenticate SK_pi or SK_pr,
// which ties the two exchanges together and proves nothing else (RFC 7619, section 2.1).
func (s *sa) sharedKey(t *policy.PeerTunnel, by policy.AuthBy, initiator bool) (wire.AuthMethod, policy.Secret) {
	switch {
	case by != policy.ByNobody:
		return wire.AuthSharedKey, t.PSK
	case initiator:
		return wire.AuthNull, s.keys.Pi
	}
	return wire.AuthNull, s.keys.Pr
}

// knowsKey checks a peer's AUTH payload without a signature.
func (s *sa) knowsKey(t *policy.PeerTunnel, proof *wire.Auth, signed []byte) bool {
	method, key := s.sharedKey(t, t.RemoteAuth, !s.initiator)
	return proof.Method == method && auth.VerifyPSK(s.prf, key, signed, proof.Data)
}

// certRequest asks the peer for certificates, in our IKE_AUTH request.
func certRequest(t *policy.PeerTunnel) []wire.Payload {
	if asked, ok := auth.AskFor([]*policy.PeerTunnel{t}); ok {
		return []wire.Payload{&wire.CertReq{Encoding: wire.CertX509Signature, Authorities: asked}}
	}
	return nil
}

// claim is what the peer says to prove who it is.
func (s *sa) claim(m *message, id *wire.ID, proof *wire.Auth) *auth.Claim {
	c := &auth.Claim{
		Identity: policyIdentity(id), Method: proof.Method, Data: proof.Data, Octets: s.signed(!s.initiator, id), Announced: len(s.peerHashes()) > 0, Now: s.now,
	}
	for _, q := range m.payloads {
		p, ok := q.(*wire.Cert)
		switch {
		case ok && p.Encoding == wire.CertX509Signature:
			c.Certs = append(c.Certs, p.Data)
		case ok && p.Encoding == wire.CertRawPublicKey:
			c.RawKeys = append(c.RawKeys, p.Data)
		}
	}
	return c
}

// believe has a claim checked against the tunnels, each of which expects a signature, and hands over the first that takes it.
func (s *sa) believe(c *auth.Claim, tunnels []*policy.PeerTunnel, then func(*policy.PeerTunnel, error)) {
	s.compute(func() (any, error) { return c.Accept(tunnels) }, func(ev ike.JobDone) {
		if ev.Err != nil {
			then(nil, ev.Err)
			return
		}
		then(ev.Result.(*policy.PeerTunnel), nil)
	})
}

// expected says in words how a tunnel's peer must authenticate.
func expected(by policy.AuthBy) string {
	return map[policy.AuthBy]string{policy.ByPSK: "a pre-shared key", policy.ByCert: "a certificate", policy.ByPublicKey: "a public key", policy.ByNobody: "no authentication", policy.ByEAP: "EAP"}[by]
}

// rightMethod checks that the peer authenticates as the tunnel expects.
func rightMethod(t *policy.PeerTunnel, m wire.AuthMethod) error {
	if t.RemoteAuth == policy.ByEAP || (m == wire.AuthSharedKey) != (t.RemoteAuth == policy.ByPSK) || (m == wire.AuthNull) != (t.RemoteAuth == policy.ByNobody) {
		return fmt.Errorf("the peer authenticates by %s, tunnel %s expects %s: see remote-auth", m, t.Name, expected(t.RemoteAuth))
	}
	return nil
}

// unchanged is the tunnel as it is configured now: a job took time.
func (s *sa) unchanged(t *policy.PeerTunnel) (*policy.PeerTunnel, error) {
	s.candidates = s.env.Candidates(s.start.path)
	for _, c := range s.candidates {
		if c.Name == t.Name && c.SamePeer(t) {
			return c, nil
		}
	}
	return nil, errors.New("the tunnel was changed meanwhile")
}

// ourProof names, for people, what the peer may not like.
func ourProof(t *policy.PeerTunnel) string {
	switch t.LocalAuth {
	case policy.ByCert:
		return "our certificate: compare local-id and cert-file with its configuration, and whether it knows the authority"
	case policy.ByNobody:
		return "that we do not authenticate: compare auth with its configuration"
	case policy.ByEAP:
		return "our EAP: compare eap-identity and eap-methods with its configuration"
	case policy.ByPublicKey:
		return "our public key: compare local-id and key-file with its configuration"
	}
	return "our pre-shared key: compare local-id and psk-file with its configuration"
}
