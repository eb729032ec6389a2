package v1

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"

	"coati/ike/wire"
	"coati/policy"
)

// XAUTH: draft-beaulieu-ike-xauth-02. After phase 1 a server asks for a user's name and password, and says what came of it:
//
//	           <--  REQUEST(user, password)
//	REPLY(...) -->
//	           <--  SET(status)
//	ACK        -->
//
// Here clients begin phase 1. The user is then who the peer is: a pre-shared key is often that of a whole group.

// askUser begins XAUTH as server.
func (s *sa) askUser() {
	ask := []wire.Attribute{{Type: wire.ConfigXAuthType}, octetsOf(wire.ConfigXAuthUser, nil), octetsOf(wire.ConfigXAuthPassword, nil)}
	s.transact(wire.ConfigV1Request, ask, func(c *wire.V1Config) {
		name := string(value(c, wire.ConfigXAuthUser))
		err := s.knowsUser(name, value(c, wire.ConfigXAuthPassword))
		s.authorizing.phase = stageStatus
		status := uint16(1)
		if err != nil {
			status = 0
			s.refused("peer is not who it must be", err)
		}
		s.transact(wire.ConfigV1Set, []wire.Attribute{{Type: wire.ConfigXAuthStatus, Value: status}}, func(*wire.V1Config) {
			if err != nil {
				s.unauthorized(fmt.Errorf("authentication failed: %w", err))
				return
			}
			s.authorizing.user = name
			s.remoteID = policy.Identity{Type: policy.IDKeyID, Data: []byte(name)}
			s.out.Record(slog.LevelInfo, "user authenticated", append(s.attrs(), slog.String("user", s.remoteID.String()))...)
			s.authorized()
		})
	})
}

// maxUser is how long a user's name may be, octets.
const maxUser = 128

// knowsUser checks a name and a password in a time that does not depend on which of them is wrong.
func (s *sa) knowsUser(name string, password []byte) error {
	got := sha256.Sum256(password)
	good := 0
	for _, u := range s.tunnel.V1.Users {
		want := sha256.Sum256(u.Password.Reveal())
		same := subtle.ConstantTimeCompare(got[:], want[:])
		if len(u.Name) == len(name) {
			good |= same & subtle.ConstantTimeCompare([]byte(u.Name), []byte(name))
		}
	}
	if good != 1 || name == "" || len(name) > maxUser || len(password) == 0 {
		return fmt.Errorf("the user %q of %s is not known, or has another password: see xauth-users-file", clip(name), s.path.Remote.Addr())
	}
	return nil
}

// clip bounds what a peer can have us say.
func clip(s string) string {
	if len(s) > maxUser {
		return s[:maxUser] + "..."
	}
	return s
}

// giveUser answers a server that asks who the user is.
func (s *sa) giveUser(c *wire.V1Config) (out []wire.Attribute) {
	for i := range c.Attributes {
		switch a := &c.Attributes[i]; a.Type {
		case wire.ConfigXAuthType:
			out = append(out, wire.Attribute{Type: a.Type, Value: a.Value})
		case wire.ConfigXAuthUser:
			out = append(out, octetsOf(a.Type, []byte(s.tunnel.V1.User)))
		case wire.ConfigXAuthPassword:
			out = append(out, octetsOf(a.Type, s.tunnel.V1.Password.Clone().Reveal()))
		}
	}
	return out
}

// statusSet takes what came of it, as client.
func (s *sa) statusSet(c *wire.V1Config) ([]wire.Attribute, func()) {
	for i := range c.Attributes {
		a := &c.Attributes[i]
		if a.Type != wire.ConfigXAuthStatus {
			continue
		}
		if v, ok := a.Number(); ok && v == 1 {
			return nil, s.authorized
		}
		return []wire.Attribute{{Type: wire.ConfigXAuthStatus}}, func() {
			s.unauthorized(errors.New("the peer does not know the user, or the password is wrong: see xauth-user and xauth-password-file"))
		}
	}
	return nil, nil
}
